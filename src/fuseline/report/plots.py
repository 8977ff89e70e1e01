"""The pictures of a run, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fuseline.data.schema import Schema
from fuseline.evaluation.report import GAINS
from fuseline.partition import Share
from fuseline.report.pareto_plot import pareto
from fuseline.report.partition_plot import what_is_seen, who_sees_what
from fuseline.training.messages import Epoch

FEW = 40
"""Above so many classes a confusion matrix shows no numbers and grows no more."""


def draw_all(report: Mapping[str, Any], curves: Mapping[str, Sequence[Sequence[Epoch]]], folder: Path) -> None:
    """Write every picture as PNG: learning curves, and per target leaderboard, diversity, confusion, reliability and Pareto
    front."""
    _save(learning_curves(curves), folder / "learning_curves.png")
    for target, part in report["targets"].items():
        _save(leaderboard(target, part), folder / f"leaderboard-{target}.png")
        _save(diversity(target, part), folder / f"diversity-{target}.png")
        if "confusion" in part:
            _save(confusion(target, part), folder / f"confusion-{target}.png")
            _save(reliability(target, part), folder / f"reliability-{target}.png")
        if "pareto" in part:
            _save(pareto(target, part["pareto"]), folder / f"pareto-{target}.png")


def draw_partition(statistics: Mapping[str, Any], shares: Mapping[str, Sequence[Share]], schema: Schema, folder: Path) -> None:
    """Write who sees what as PNG: members and classes per target with classes, and members and inputs if not all see all."""
    for target, table in statistics["coverage"].items():
        names = [str(label) for label in schema.targets[target].classes]
        _save(who_sees_what(list(shares), np.array(table), names), folder / f"partition-{target}.png")
    views = [replicas[0].view for replicas in shares.values()]
    if any(len(view) for view in views):
        _save(what_is_seen(list(shares), views, schema), folder / "partition-inputs.png")


def learning_curves(curves: Mapping[str, Sequence[Sequence[Epoch]]]) -> Figure:
    """Training loss (thin) and held-out loss (bold) of each member, averaged over the replicas that reached an epoch."""
    figure, axes = _figure(7, 4)
    for i, (name, replicas) in enumerate(curves.items()):
        for attribute, width, label in (("loss", 0.8, None), ("holdout", 1.8, name)):
            values = _mean([[getattr(epoch, attribute) for epoch in replica] for replica in replicas])
            if values:
                axes.plot(range(1, len(values) + 1), values, lw=width, color=f"C{i % 10}", label=label)
    axes.set(xlabel="epoch", ylabel="loss", yscale="log", title="learning curves: training (thin) and held out (bold)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return figure


def leaderboard(target: str, part: Mapping[str, Any]) -> Figure:
    """Members (grey) and fusion rules (blue; the chosen one filled) by their loss on the test rows, with intervals."""
    metric = GAINS[part["kind"]][0]
    rows = [(e, "0.5") for e in part["members"]] + [(e, "C0") for e in part["candidates"]]
    rows = [(e, color) for e, color in rows if metric in e["metrics"]]
    figure, axes = _figure(7, 1 + 0.3 * max(len(rows), 3))
    for y, (entry, color) in enumerate(reversed(rows)):
        score = entry["metrics"][metric]
        reach = [[max(score["value"] - score["low"], 0)], [max(score["high"] - score["value"], 0)]]
        fill = color if entry["name"] == part["chosen"] else "white"
        axes.errorbar(score["value"], y, xerr=reach, fmt="o", color=color, markerfacecolor=fill, capsize=3)
    axes.set_yticks(range(len(rows)), [entry["name"] for entry, _ in reversed(rows)])
    axes.set(xlabel=f"{metric} on the test rows (lower is better)", title=f"{target}: members and fusions")
    return figure


def diversity(target: str, part: Mapping[str, Any]) -> Figure:
    """A heat map of the members' pairwise disagreement and of the correlation of their errors."""
    names = [entry["name"] for entry in part["members"]]
    size = 2.2 + 0.35 * len(names)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("disagreement", "correlation"), strict=True):
        table = np.array(part["diversity"]["pairs"][measure], float)
        picture = axes.imshow(table, cmap="viridis")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title(f"{target}: {measure}", fontsize=10)
        figure.colorbar(picture, ax=axes, shrink=0.8)
    return figure


def confusion(target: str, part: Mapping[str, Any]) -> Figure:
    """The confusion matrix of the chosen fusion, in rows."""
    table = np.array(part["confusion"])
    labels = [str(label).replace("$", r"\$") for label in part["classes"]]
    size = 0.4 * min(len(labels), FEW)
    figure, axes = _figure(2 + size, 1.6 + size)
    axes.imshow(table, cmap="Blues")
    for i, j in zip(*np.nonzero(table), strict=True) if len(labels) <= FEW else ():
        color = "white" if table[i, j] > table.max() / 2 else "black"
        axes.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="said", ylabel="true", title=f"{target}: {part['chosen']}")
    return figure


def reliability(target: str, part: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence in bins, point sizes by the rows in them; on the diagonal confidence is earned."""
    bins = part["reliability"]
    figure, axes = _figure(4, 4)
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    rows = np.array([b["rows"] for b in bins])
    axes.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins], s=20 + 200 * rows / rows.sum())
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", title=f"{target}: {part['chosen']}")
    return figure


def _mean(curves: Sequence[Sequence[float | None]]) -> list[float]:
    longest = max(map(len, curves), default=0)
    columns = [[c[i] for c in curves if i < len(c)] for i in range(longest)]
    known = [[value for value in column if value is not None] for column in columns]
    return [float(np.mean(column)) for column in known if column]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=110)
