"""Quantile regression: a value is true, and quantiles of it at several levels are said.

Shapes: N rows, Q levels, B resamples; true values (N,), quantiles (N, Q) at levels (Q,) that ascend. The interval is the one
between the lowest and the highest level, and its nominal coverage is what lies between those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fuseline.evaluation.metrics.common import Counts, Floats, Predicted
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.metrics.sums import Measure, Part, Rows, every_row, mean

QUANTILE = ("pinball", "coverage", "coverage_error", "interval_score", "mae")


def quantile(target: Floats, predicted: Predicted, names: Sequence[str] = QUANTILE) -> dict[str, float]:
    """Quantile metrics.

    ``pinball`` is the mean over levels and rows; ``coverage`` the share of rows inside the interval, ``coverage_error`` its
    distance from the nominal one; ``interval_score`` see :func:`interval_scores`; ``mae`` is of the level nearest to one half.
    With a single level there is no interval, and what is measured of it is NaN.
    """
    return QUANTILES.point(target, predicted, names)


def resampled_quantile(
    target: Floats, predicted: Predicted, weights: Counts, names: Sequence[str] = QUANTILE
) -> dict[str, Floats]:
    """Quantile metrics of each resample (B,)."""
    return QUANTILES.resampled(target, predicted, weights, names)


def interval_scores(target: Floats, quantiles: Floats, levels: Floats) -> Floats:
    """(u − l) + (l − y)₊ / α_l + (y − u)₊ / (1 − α_u) of each row (N,), with l and u the quantiles at the outer levels α_l, α_u.

    For levels α/2 and 1 − α/2 both penalties have the weight 2/α of Gneiting and Raftery 2007, equation 43; other outer levels
    get the weights that keep the score proper. NaN with a single level.

    >>> interval_scores(np.array([0.0, 1.5]), np.array([[-1.0, 1.0]] * 2), np.array([0.05, 0.95]))
    array([ 2., 12.])
    """
    if len(levels) == 1:
        return np.full(len(target), np.nan)
    low, high = quantiles[:, 0], quantiles[:, -1]
    below, above = np.maximum(low - target, 0), np.maximum(target - high, 0)
    return np.asarray(high - low + below / levels[0] + above / (1 - levels[-1]))


def middle(levels: Floats) -> int:
    """Which level stands for the median: the one nearest to one half, the lower of two as near."""
    return int(np.abs(np.asarray(levels, np.float64) - 0.5).argmin())


def _pinball(rows: Rows) -> Part:
    y, q, levels = _columns(rows)
    error = y[:, None] - q
    return Part(np.maximum(levels * error, (levels - 1) * error).mean(1))


def _inside(rows: Rows) -> Part:
    y, q, levels = _columns(rows)
    if len(levels) == 1:
        return Part(np.full(len(y), np.nan))
    return Part((q[:, 0] <= y) & (y <= q[:, -1]))


def _excess(rows: Rows) -> Part:
    """How much more than its nominal share each row is inside."""
    _, _, levels = _columns(rows)
    return Part(_inside(rows).values - (levels[-1] - levels[0]))


def _interval(rows: Rows) -> Part:
    return Part(interval_scores(*_columns(rows)))


def _distance(rows: Rows) -> Part:
    y, q, levels = _columns(rows)
    return Part(np.abs(y - q[:, middle(levels)]))


def _columns(rows: Rows) -> tuple[Floats, Floats, Floats]:
    if rows.predicted.levels is None:
        raise ValueError("quantiles mean nothing without their levels")
    return rows.target.astype(np.float64), rows.predicted.values, np.asarray(rows.predicted.levels, np.float64)


QUANTILES = Family(
    parts={
        "rows": every_row,
        "pinball": _pinball,
        "inside": _inside,
        "excess": _excess,
        "interval": _interval,
        "distance": _distance,
    },
    measures={
        "pinball": mean("pinball"),
        "coverage": mean("inside"),
        "coverage_error": Measure(("rows", "excess"), lambda sums: np.abs(mean("excess").of(sums))),
        "interval_score": mean("interval"),
        "mae": mean("distance"),
    },
)
