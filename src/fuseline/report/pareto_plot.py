"""The picture of a pruned ensemble's Pareto front, drawn without any global state of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

SMALLEST, LARGEST = 20.0, 220.0
"""The areas of the points of least and of most memory, in square points."""

LONGEST = 40


def pareto(target: str, table: Sequence[Mapping[str, Any]]) -> Figure:
    """The subsets of a front by loss and latency, larger for more memory, lighter for more diversity, the chosen one ringed.

    A grey line joins those that no other beats in loss and latency alone.

    Args:
        table: the front, as :func:`fuseline.fusion.pruned.front_table` gives it.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    latency, loss, memory = (np.array([entry[key] for entry in table], float) for key in ("latency", "loss", "memory"))
    size = areas(memory)
    _stairs(axes, latency, loss)
    points = axes.scatter(latency, loss, s=size, c=[entry["diversity"] for entry in table], cmap="viridis", zorder=2)
    figure.colorbar(points, ax=axes, label="diversity", shrink=0.8)
    for i in dict.fromkeys([int(memory.argmin()), int(memory.argmax())]):
        axes.scatter([], [], s=size[i], color="0.6", label=f"{memory[i]:.3g} MB")
    for i in (i for i, entry in enumerate(table) if entry["chosen"]):
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": "C3", "linewidths": 2, "zorder": 3}
        axes.scatter(latency[i], loss[i], s=size[i] + 120, label=f"chosen: {_names(table[i]['members'])}", **ring)
    axes.set(xlabel="latency in microseconds per row", ylabel="loss on the rows that the choice was made on")
    axes.set_title(f"{target}: subsets of members that none beats in everything")
    axes.legend(fontsize=8, labelspacing=1, borderpad=0.8)
    return figure


def areas(memory: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points' areas, linear in the memory.

    >>> areas(np.array([1.0, 3.0, 2.0])).tolist(), areas(np.array([4.0, 4.0])).tolist()
    ([20.0, 220.0, 120.0], [20.0, 20.0])
    """
    span = memory.max() - memory.min()
    return np.asarray(SMALLEST + (LARGEST - SMALLEST) * (memory - memory.min()) / (span if span > 0 else 1.0))


def _stairs(axes: Axes, latency: NDArray[np.float64], loss: NDArray[np.float64]) -> None:
    """The lowest loss that each latency buys."""
    order = np.lexsort((loss, latency))
    lowest = np.minimum.accumulate(loss[order])
    axes.step(latency[order], lowest, where="post", color="0.8", lw=1, zorder=1)


def _names(members: Sequence[str]) -> str:
    """The members' names, or how many there are where the names are too long."""
    text = ", ".join(members)
    return (text if len(text) <= LONGEST else f"{len(members)} members").replace("$", r"\$")
