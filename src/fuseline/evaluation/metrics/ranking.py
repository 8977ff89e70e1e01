"""Metrics of the order in which scores put the rows, of each resample at once.

Rows of equal score are one step. Shapes: N rows, B resamples, S steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.evaluation.metrics.common import Floats, ratio


def steps(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """How many positive and how many negative rows each resample has at each score, from the lowest score up (B, S), each.

    Args:
        positive: whether a row is of the class (N,).
        score: how much is said for it (N,), between 0 and 1.
        weights: how often each resample draws each row (B, N).
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-1.0))  # the first row of each run of equal scores
    sorted_weights, mask = weights[:, order], positive[order]
    ups = np.add.reduceat(sorted_weights * mask, starts, axis=1)
    return ups, np.add.reduceat(sorted_weights * ~mask, starts, axis=1)


def area(ups: Floats, downs: Floats) -> Floats:
    """The area under the ROC curve (B,): the share of (positive, negative) pairs in order, ties counting half.

    NaN for a resample of one side alone.
    """
    below = np.cumsum(downs, axis=1) - downs / 2
    return _over((ups * below).sum(1), ups.sum(1) * downs.sum(1))


def average_precision(ups: Floats, downs: Floats) -> Floats:
    """Σ_s (R_s − R_{s−1}) P_s over the steps from the highest score down (B,), as scikit-learn's: no interpolation.

    NaN for a resample without a positive row.
    """
    hits = _from_above(ups)
    named = hits + _from_above(downs)
    return _over((ups * ratio(hits, named)).sum(1), ups.sum(1))


def _from_above(steps: Floats) -> Floats:
    return np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]


def _over(part: Floats, whole: Floats) -> NDArray[Any]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
