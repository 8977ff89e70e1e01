"""What a sweep shows on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.boards import score_text


def show_sweep(sweep: Mapping[str, Any], console: Console) -> None:
    """The leaderboards, who failed and why, and how much was reused."""
    boards = sweep["leaderboards"]
    for board in boards:
        for target in board["rows"]:
            console.print(_table(target, board))
    if len(boards) > 1:
        text = f"{len(boards)} sets of candidates have other test rows or targets and can't be compared; none is registered"
        console.print(f"[yellow]{text}[/yellow]", highlight=False, soft_wrap=True)
    for its in sweep["failed"]:
        console.print(f"[red]failed: {its['label']}[/red]: {its['reason']}", highlight=False, soft_wrap=True)
    if (version := sweep["registered"]) is not None:
        aliases = ", ".join(version["aliases"]) or "no alias"
        console.print(f"registered [bold]{version['name']}[/bold] version {version['version']} ({aliases})", highlight=False)
    counts = f"members: {sweep['trained']} trained, {sweep['reused']} reused"
    console.print(f"{counts}; run {sweep['run_id'] or 'not in MLflow yet'}", highlight=False)


def _table(target: str, board: Mapping[str, Any]) -> Table:
    count = len(board["candidates"])
    title = f"{target} on {board['rows'][target]} test rows; all {count} intervals hold together at {board['level']:g}"
    table = Table(title=title, title_justify="left")
    metrics = list(board["candidates"][0]["metrics"][target])
    for column in ("", "rule", "cross-fitted loss", *metrics, f"gain of {metrics[0]}"):
        table.add_column(column, justify="left" if column in ("", "rule") else "right")
    for its in board["candidates"]:
        chosen = its["label"] == board["chosen"]
        scores = [score_text(its["metrics"][target][name]) for name in metrics]
        gain = "" if its["gain"] is None else score_text(its["gain"][target][metrics[0]])
        loss = "–" if its["loss"][target] is None else f"{its['loss'][target]:.4g}"
        label = ("▶ " if chosen else "  ") + its["label"]
        table.add_row(label, its["rule"][target], loss, *scores, gain, style="bold" if chosen else None)
    return table
