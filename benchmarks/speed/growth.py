"""How the time of training grows: with members, with rows and with classes, one of them at a time."""

from __future__ import annotations

import numpy as np

from speed import fuselines
from speed.clock import timed
from speed.plain import THREADS

COLUMNS = 64
AXES: dict[str, list[int]] = {
    "members": [1, 2, 4, 8, 16, 32, 64],
    "rows": [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
    "classes": [2, 10, 30, 100, 300, 1000],
}
MIDDLE = {"members": 8, "rows": 10_000, "classes": 10}
"""Where the other two stand meanwhile."""


def point(members: int, rows: int, classes: int, round: int) -> dict[str, float]:
    """Seconds of one epoch of MLPs 64-64-64-C, batches of 128."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (rows, 1, 8, 8), dtype=np.uint8)
    y = random.integers(0, classes, rows)
    dataset = fuselines.pictures(x, y, classes)
    spec = fuselines.spec({"mlp": {"hidden": [64, 64], "dropout": 0.0}}, 1, 128, THREADS)
    few = fuselines.share(min(rows, 256))
    fuselines.together(dataset, spec, [few] * members, list(range(members)))
    shares, seeds = [fuselines.share(rows)] * members, [1000 * round + member for member in range(members)]
    _, seconds = timed(lambda: fuselines.together(dataset, spec, shares, seeds))
    return {"seconds": seconds}


def slopes(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """The slope of log seconds over log size: over all sizes by least squares, and between the two largest.

    >>> [round(slope, 6) for slope in slopes([1, 10, 100], [2.0, 20.0, 2000.0])]
    [1.5, 2.0]
    """
    x, y = np.log(sizes), np.log(seconds)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))
