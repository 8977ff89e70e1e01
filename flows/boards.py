"""Tables on the screen: a run's leaderboard, a plan, past runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fuseline.disk import readable
from fuseline.recipe import Recipe

if TYPE_CHECKING:
    from fuseline.catalogue import Entry  # loads torch, which the board of a run in which everything is reused does without
    from fuseline.garbage import Tally

HEADLINE = ("accuracy", "subset_accuracy", "log_loss", "rmse", "pinball", "coverage", "mae")
"""The metrics that fit on a screen, the first two that there are; ``--json`` and MLflow have all of them."""


def show_summary(summary: dict[str, Any], console: Console) -> None:
    """The leaderboard of each target, the version registered, and how to see the run."""
    for target, chosen in summary["best"].items():
        members = [(m["name"], m["status"], m["metrics"].get(target, {})) for m in summary["members"]]
        rules = [(c["rule"], "fusion", c["metrics"][target]) for c in summary["candidates"] if target in c["metrics"]]
        metrics = _headline(rules[0][2])
        table = Table(title=f"{summary['recipe']}: {target} on the test rows", title_justify="left")
        table.add_column("", no_wrap=True)
        table.add_column("", no_wrap=True)
        for name in metrics:
            table.add_column(name, justify="right", no_wrap=True)
        for name, status, scores in members:
            cells = (score_text(scores[m]) if m in scores else "–" for m in metrics)
            table.add_row(name, status, *cells, style="red" if status == "failed" else "dim")
        table.add_section()
        for name, kind, scores in rules:
            mark, style = ("▶ ", "bold") if name == chosen else ("  ", None)
            table.add_row(mark + name, kind, *(score_text(scores[m]) for m in metrics), style=style)
        console.print(table)
    _show_ending(summary, console)


def _show_ending(summary: Mapping[str, Any], console: Console) -> None:
    """Who is missing and why, the version, and where the records are."""
    for member in summary["members"]:
        if member["status"] == "failed":
            console.print(f"[red]without {member['name']}[/red]: {member['reason']}", highlight=False, soft_wrap=True)
    version = summary["registered"]
    if version is not None:
        aliases = ", ".join(version["aliases"]) or "no alias"
        console.print(f"registered [bold]{version['name']}[/bold] version {version['version']} ({aliases})", highlight=False)
    console.print(f"{summary['promotion']}: {summary['promotion_reason']}", highlight=False, soft_wrap=True)
    counts = [f"{summary[state]} {state}" for state in ("trained", "reused", "failed") if state != "failed" or summary[state]]
    console.print(f"members: {', '.join(counts)}; run {summary['run_id'] or 'not in MLflow yet'}", highlight=False)
    if summary["tracking"] == "waiting":
        text = f"MLflow is not told all of it yet; the rest waits on disk for the next run or [bold]{_command()} reconcile[/bold]"
        console.print(f"[yellow]{text}[/yellow]", highlight=False, soft_wrap=True)
    else:
        console.print(f"see it in MLflow: [bold]{_command()} ui[/bold]", highlight=False)
    _show_refused(summary["refused"], console)


def show_history(events: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Two lines per event, the newest first: what happened to whom, and why; sentences are not cut to fit into a column."""
    for its in events:
        champions = f"champion {its['from'] or '–'} → {its['to'] or '–'}"
        happened = f"{its['when']}  version {its['challenger']} {its['event']}  {champions}  {its['verdict']}  {its['who']}"
        console.print(happened, style="bold", highlight=False, markup=False, soft_wrap=True)
        console.print(f"    {its['why']}", highlight=False, markup=False, soft_wrap=True)


def show_mended(mended: Mapping[str, Any], console: Console) -> None:
    """Whose records were mended, and what still waits."""
    for name in mended["prefect"]:
        console.print(f"Prefect: the flow run {name} has crashed", highlight=False)
    for name in mended["mlflow"]:
        console.print(f"MLflow: the run of {name} was killed", highlight=False)
    if mended["waiting"]:
        console.print(f"[yellow]{mended['waiting']} records wait: MLflow can't be told of them now[/yellow]", highlight=False)
    _show_refused(mended["refused"], console)
    if not any(mended.values()):
        console.print("all records are true")


def _show_refused(count: int, console: Console) -> None:
    """How much MLflow will never know, and where it is."""
    if count:
        text = f"MLflow refused {count} of the records; what and why stands in $FUSELINE_HOME/spool/refused.jsonl"
        console.print(f"[red]{text}[/red]", highlight=False, soft_wrap=True)


def show_garbage(tallies: Sequence[Tally], removed: bool, console: Console) -> None:
    """What the store holds by kind, and what of it no run needs."""
    table = Table()
    for column in ("kind", "entries", "size", "not needed", "size of that"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for tally in tallies:
        table.add_row(tally.kind, f"{tally.pieces}", readable(tally.bytes), f"{tally.going}", readable(tally.going_bytes))
    console.print(table)
    going = readable(sum(tally.going_bytes for tally in tallies))
    told = f"removed {going}" if removed else f"{going} can be removed: [bold]{_command()} gc --yes[/bold]"
    if not any(tally.going for tally in tallies):
        told = "all of it is named by a run or was used in the last hour"
    console.print(told, highlight=False)


def show_units(units: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Which members are trained together, at what pace, and why."""
    alike: dict[str, list[str]] = {}
    for unit in units:
        alike.setdefault(unit["why"], []).append(" + ".join(shortened(unit["members"])))
    for why, crews in alike.items():
        console.print(f"[dim]trains {', '.join(shortened(crews))} {why}[/dim]", highlight=False, soft_wrap=True)


def shortened(names: Sequence[str], most: int = 4) -> list[str]:
    """
    >>> shortened(["a", "b", "c"]), shortened(["a-1", "a-2", "a-3", "a-4", "a-5"], 4)
    (['a', 'b', 'c'], ['a-1', 'a-2', '…', 'a-5'])
    """
    return [*names] if len(names) <= most else [*names[: most - 2], "…", names[-1]]


def show_plan(recipe: Recipe, statistics: dict[str, Any], console: Console) -> None:
    """Rows per role and member, balance, overlap, parameters and rough cost."""
    roles = Table(title=f"{recipe.name}: {statistics['rows']} rows, {statistics['excluded']} left out", title_justify="left")
    for column in ("role", "rows", "balance"):
        roles.add_column(column, no_wrap=column != "balance")
    for role, part in statistics["roles"].items():
        roles.add_row(role, str(part["rows"]), _balance(part["balance"]))
    console.print(roles)
    console.print("inputs: " + ", ".join(statistics["inputs"]), highlight=False)
    members = Table(title=f"partition {recipe.partition.name}", title_justify="left")
    for column in ("member", "replicas", "rows", "held out", "parameters", "cost", "balance"):
        members.add_column(column, no_wrap=column != "balance")
    for name, part in statistics["members"].items():
        cost = f"~{statistics['rough_seconds'][name]:.0f} s"
        numbers = (str(part["replicas"]), str(part["rows"]), str(part["holdout"]), f"{part['parameters']:,}", cost)
        members.add_row(name, *numbers, _balance(part["balance"]))
    console.print(members)
    names = list(statistics["members"])
    if len(names) > 1:
        overlap = Table(title="overlap of training rows (Jaccard)", title_justify="left")
        for column in ("", *names):
            overlap.add_column(column)
        for name, row in zip(names, statistics["overlap"], strict=True):
            overlap.add_row(name, *(f"{value:.2f}" for value in row))
        console.print(overlap)
    show_units(statistics["training_units"], console)
    room = statistics["room"]
    console.print(f"needs about {readable(room['needed'])} on the disk, where {readable(room['free'])} are free", highlight=False)
    console.print(f"data.fingerprint: {statistics['fingerprint']}", highlight=False)


def show_components(families: Mapping[str, Sequence[Entry]], console: Console) -> None:
    """One table per family, with settings and descriptions; of several families the names alone."""
    if len(families) > 1:
        table = Table(title="what a recipe may name; fuseline components FAMILY tells more", title_justify="left")
        for column in ("family", "names"):
            table.add_column(column)
        for family, entries in families.items():
            table.add_row(family, ", ".join(entry.name for entry in entries))
        console.print(table)
        return
    for family, entries in families.items():
        table = Table(title=family, title_justify="left")
        for column in ("name", "settings", ""):
            table.add_column(column)
        for entry in entries:
            table.add_row(entry.name, "\n".join(f"{name}: {value}" for name, value in entry.settings.items()), entry.says)
        console.print(table)


def show_runs(runs: list[dict[str, Any]], console: Console) -> None:
    """One line per run and target, with its first two headline metrics; ``--json`` has the runs' ids too."""
    table = Table()
    for column in ("started", "version", "members", "target", "rule", "on the test rows"):
        table.add_column(column, no_wrap=column != "on the test rows")
    for run in runs:
        for target, part in run["targets"].items():
            scores = ", ".join(f"{name} {score_text(part['metrics'][name])}" for name in _headline(part["metrics"]))
            table.add_row(run["started"], run["version"], _members(run["members"]), target, part["rule"], scores)
    console.print(table)


def _members(counts: Mapping[str, int]) -> str:
    """
    >>> _members({"trained": 2, "reused": 1, "failed": 0}), _members({"trained": 2, "reused": 0, "failed": 1})
    ('3', '2 of 3')
    """
    total = sum(counts.values())
    return f"{total - counts['failed']} of {total}" if counts["failed"] else f"{total}"


def _headline(metrics: dict[str, Any]) -> list[str]:
    return ([name for name in HEADLINE if name in metrics] or list(metrics))[:2]


def _command() -> str:
    """How this command was called: by its name, or by its path where the shell would not find it."""
    return "fuseline" if shutil.which("fuseline") else os.path.relpath(sys.argv[0])


def score_text(score: Mapping[str, Any]) -> str:
    """A value with its interval."""
    if score["value"] is None:
        return "–"
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:.4g}"
    return f"{score['value']:.4g} [{score['low']:.3g}, {score['high']:.3g}]"


def _balance(balance: dict[str, Any]) -> str:
    parts = []
    for target, counts in balance.items():
        numbers = f"{counts['mean']:.4g} ± {counts['deviation']:.4g}" if "deviation" in counts else _counts(counts)
        parts.append(f"{target}: {numbers}")
    return "; ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{label} {count}" for label, count in counts.items())
