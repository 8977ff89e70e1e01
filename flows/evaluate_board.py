"""What an evaluation on new rows shows on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.boards import score_text

COLORS = {"stable": "green", "moderate": "yellow", "large": "red"}


def show_assessment(report: Mapping[str, Any], console: Console) -> None:
    """Metrics then and now of each target, what has drifted, and the alarms."""
    for target, part in report["targets"].items():
        table = Table(title=f"{report['model']}/{report['version']}: {target} on {part['rows']} new rows", title_justify="left")
        for column in ("", "on the test rows", "now", "worse by"):
            table.add_column(column, justify="left" if not column else "right", no_wrap=True)
        for name, score in part["metrics"].items():
            worse = score["change"] is not None and score["change"]["worse"]
            cells = [score_text(score[its]) if score[its] else "–" for its in ("then", "now", "change")]
            table.add_row(name, *cells, style="red" if worse else None)
        console.print(table)
    if not report["targets"]:
        console.print(f"{report['rows']} new rows without targets: drift and disagreement alone", highlight=False)
    if report["fitted"]["rows"]:
        named = ", ".join(map(str, report["fitted"]["first"]))
        text = f"left out {report['fitted']['rows']} rows that it was fitted on: {named}"
        console.print(f"[yellow]{text}[/yellow]", highlight=False, soft_wrap=True)
    if report["unread"]["rows"]:
        text = f"{report['unread']['rows']} rows could not be read: {'; '.join(report['unread']['first'][:3])}"
        console.print(f"[yellow]{text}[/yellow]", highlight=False, soft_wrap=True)
    _show_drift(report["drift"], console)
    for event in report["events"]:
        console.print(f"[red]alarm:[/red] {event}", highlight=False)


def _show_drift(drift: Mapping[str, Any], console: Console) -> None:
    found = [test for test in drift["tests"] if test["size"] != "stable"]
    if not found:
        console.print(f"no drift in {len(drift['tests'])} tests", highlight=False)
        return
    table = Table(title=f"drifted: {len(found)} of {len(drift['tests'])} tests", title_justify="left")
    for column in ("", "", "test", "q", "index", ""):
        table.add_column(column)
    for test in found[:20]:
        numbers = (f"{test['q']:.2g}", f"{test['psi']:.3g}")
        table.add_row(test["part"], test["name"], test["test"], *numbers, test["size"], style=COLORS[test["size"]])
    console.print(table)
