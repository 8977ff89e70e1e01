"""The picture of a sweep's leaderboard, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

SHOWN = 40


def candidates(target: str, board: Mapping[str, Any]) -> Figure:
    """The candidates, the best by its cross-fitted loss first (filled), with their first test metric and its simultaneous
    interval."""
    shown = board["candidates"][:SHOWN]
    name = next(iter(shown[0]["metrics"][target]))
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for y, its in enumerate(shown):
        score = its["metrics"][target][name]
        if None not in score.values():
            reach = [[max(score["value"] - score["low"], 0)], [max(score["high"] - score["value"], 0)]]
            fill = "C0" if its["label"] == board["chosen"] else "white"
            axes.errorbar(score["value"], y, xerr=reach, fmt="o", color="C0", markerfacecolor=fill, capsize=3)
    axes.set_yticks(range(len(shown)), [_text(its["label"]) for its in shown], fontsize=8)
    axes.invert_yaxis()
    count = len(board["candidates"])
    axes.set(
        xlabel=f"{name} on the test rows, all {count} intervals together at {board['level']:g}",
        title=f"{target}: in the order of the cross-fitted loss",
    )
    return figure


def _text(label: str) -> str:
    return (label if len(label) <= 60 else label[:59] + "…").replace("$", r"\$")
