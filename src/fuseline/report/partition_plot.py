"""Pictures of a partition: which classes and which inputs each member sees, drawn without any global state of matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fuseline.data.schema import Schema
from fuseline.partition import masks

FEW = 40
"""Above so many columns or members a heat map shows no numbers, grows no more and does not name them all."""

LONGEST = 24
ACROSS = 6


def who_sees_what(names: Sequence[str], table: NDArray[np.int64], classes: Sequence[Any]) -> Figure:
    """A heat map of how many rows of each class each member learns from; a class that a member never sees stays white.

    Args:
        names: the M members.
        table: rows per member and class (M, C), of :func:`fuseline.partition.coverage`.
        classes: the C labels.
    """
    figure, axes = _map(names, classes)
    seen = np.ma.masked_equal(np.asarray(table), 0)
    picture = axes.imshow(seen, cmap="Blues", vmin=0, vmax=max(1, int(np.max(table, initial=0))), aspect="auto")
    if len(classes) <= FEW and len(names) <= FEW:
        size = 8 if np.max(table, initial=0) < 1000 else 6
        for i, j in zip(*np.nonzero(table), strict=True):
            color = "white" if table[i, j] > table.max() / 2 else "black"
            axes.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=size, color=color)
    figure.colorbar(picture, ax=axes, label="training rows")
    axes.set(xlabel="class", title="which classes each member learns from")
    return figure


def what_is_seen(names: Sequence[str], views: Sequence[NDArray[np.bool_]], schema: Schema) -> Figure:
    """Which inputs each member sees (blue): a table of members and columns, or of members and channels where whole channels are
    hidden, and else a small picture for each member, darker where more channels are seen.

    Args:
        views: one flat mask per member, as a share has it; an empty one sees all.
    """
    if schema.image is None:
        table = np.array([view if len(view) else np.ones(len(schema.columns), bool) for view in views])
        return _parts(names, table, schema.columns, "input column")
    whole = np.ones(schema.image, bool)
    seen = np.array([masks(schema, view).get("image", whole) for view in views])
    if (seen == seen[:, :, :1, :1]).all():
        return _parts(names, seen[:, :, 0, 0], range(schema.image[0]), "channel")
    return _regions(names, seen.mean(1))


def _parts(names: Sequence[str], table: NDArray[np.bool_], columns: Sequence[Any], what: str) -> Figure:
    figure, axes = _map(names, columns)
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    axes.set(xlabel=what, title="which inputs each member sees (blue)")
    return figure


def _regions(names: Sequence[str], seen: NDArray[np.float64]) -> Figure:
    across = min(ACROSS, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(max(3.5, 1.4 * across), 0.6 + 1.6 * down), layout="constrained")
    plots = figure.subplots(down, across, squeeze=False).ravel()
    for axes, name, mask in zip(plots, names, seen, strict=False):
        axes.imshow(mask, cmap="Blues", vmin=0, vmax=1.3)
        axes.set_title(_text(name), fontsize=8)
    for axes in plots:
        axes.set(xticks=[], yticks=[])
    for axes in plots[len(names) :]:
        axes.set_visible(False)
    figure.suptitle("which part each member sees (blue)", fontsize=10)
    return figure


def _map(names: Sequence[str], columns: Sequence[Any]) -> tuple[Figure, Axes]:
    """Axes for a heat map of members and columns, named; of very many only every second, third, … is."""
    width, height = max(4.5, 2.5 + 0.4 * min(len(columns), FEW)), 3 + 0.3 * min(len(names), FEW)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    labels = [_text(column) for column in columns]
    step, jump = math.ceil(len(labels) / FEW) or 1, math.ceil(len(names) / FEW) or 1
    upright = max(map(len, labels), default=0) > 3
    axes.set_xticks(range(0, len(labels), step), labels[::step], rotation=90 if upright else 0, fontsize=8)
    axes.set_yticks(range(0, len(names), jump), [_text(name) for name in names[::jump]], fontsize=8)
    return figure, axes


def _text(label: Any) -> str:
    """A label as it is, signs of formulas included, cut where it is very long."""
    text = str(label)
    return (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…").replace("$", r"\$")
