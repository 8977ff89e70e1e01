"""Whether a metric on new rows is worse than it was on the test rows, by the intervals of both."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fuseline.evaluation.intervals import Interval
from fuseline.evaluation.metrics import LOWER_IS_BETTER, UNDIRECTED


class Change(NamedTuple):
    """How much worse a metric is than it was, above 0 is worse, with the change's interval; and whether that lies above 0."""

    value: float
    low: float
    high: float
    worse: bool


def change(name: str, then: Interval, now: Interval) -> Change | None:
    """The change of a metric between two sets of rows that have none in common.

    The interval is that of a difference of independent estimates, made of the two estimates' own intervals, which need not be
    symmetric: L = d − √((n − lₙ)² + (uₜ − t)²), U = d + √((uₙ − n)² + (t − lₜ)²) for d = n − t (Zou and Donner 2008,
    equations 10 and 11). It has the level that these have.

    Returns:
        None where neither more nor less is better, or where a number is not known.

    >>> change("log_loss", Interval(0.30, 0.26, 0.34), Interval(0.40, 0.37, 0.43)).worse
    True
    >>> change("accuracy", Interval(0.90, 0.86, 0.94), Interval(0.88, 0.84, 0.92)).worse
    False
    """
    if name in UNDIRECTED or not all(map(math.isfinite, (*then, *now))):
        return None
    difference = now.value - then.value
    low = difference - math.hypot(now.value - now.low, then.high - then.value)
    high = difference + math.hypot(now.high - now.value, then.value - then.low)
    if name not in LOWER_IS_BETTER:
        difference, low, high = -difference, -high, -low
    return Change(difference + 0.0, low, high, low > 0)


def read(score: dict[str, Any]) -> Interval:
    """An interval from a report, where what is not known is null."""
    return Interval(*(math.nan if score[part] is None else score[part] for part in ("value", "low", "high")))
