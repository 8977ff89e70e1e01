"""Quantile regression: a value is true, and quantiles of it at several levels are said.

Shapes: N rows, Q levels, B resamples; true values (N,), quantiles (N, Q) at levels (Q,) that ascend. The interval is the one
between the lowest and the highest level, and its nominal coverage is what lies between those.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

from fuseline.evaluation.metrics.common import Floats, Predicted, weighted_means

QUANTILE = ("pinball", "coverage", "coverage_error", "interval_score", "mae")


def quantile(target: Floats, predicted: Predicted) -> dict[str, float]:
    """Every quantile metric.

    ``pinball`` is the mean over levels and rows; ``coverage`` the share of rows inside the interval, ``coverage_error`` its
    distance from the nominal one; ``interval_score`` see :func:`interval_scores`; ``mae`` is of the level nearest to one half.
    With a single level there is no interval, and what is measured of it is NaN.
    """
    y, q, levels = _columns(target, predicted)
    pinball = [sk.mean_pinball_loss(y, q[:, i], alpha=level) for i, level in enumerate(levels)]
    coverage = float(_inside(y, q).mean())
    return {
        "pinball": float(np.mean(pinball)),
        "coverage": coverage,
        "coverage_error": abs(coverage - float(levels[-1] - levels[0])),
        "interval_score": float(interval_scores(y, q, levels).mean()),
        "mae": float(sk.mean_absolute_error(y, q[:, middle(levels)])),
    }


def resampled_quantile(target: Floats, predicted: Predicted, weights: Floats) -> dict[str, Floats]:
    """Every quantile metric of each resample (B,)."""
    y, q, levels = _columns(target, predicted)
    error = y[:, None] - q
    by_row = {
        "pinball": np.maximum(levels * error, (levels - 1) * error).mean(1),
        "coverage": _inside(y, q),
        "interval_score": interval_scores(y, q, levels),
        "mae": np.abs(error[:, middle(levels)]),
    }
    scores = weighted_means(by_row, weights)
    scores["coverage_error"] = np.abs(scores["coverage"] - (levels[-1] - levels[0]))
    return {name: scores[name] for name in QUANTILE}


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


def _inside(y: Floats, q: Floats) -> Floats:
    if q.shape[1] == 1:
        return np.full(len(y), np.nan)
    return ((q[:, 0] <= y) & (y <= q[:, -1])).astype(np.float64)


def _columns(target: Floats, predicted: Predicted) -> tuple[Floats, Floats, Floats]:
    if predicted.levels is None:
        raise ValueError("quantiles mean nothing without their levels")
    levels = np.asarray(predicted.levels, np.float64)
    return np.asarray(target, np.float64), np.asarray(predicted.values, np.float64), levels
