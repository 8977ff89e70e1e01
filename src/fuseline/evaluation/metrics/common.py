"""What the metrics of all kinds share: how a prediction is handed over, and means that pass over what is not known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.integer[Any]]


class Predicted(NamedTuple):
    """What is said of N rows, whatever the kind of target; M members side by side where diversity is measured.

    Attributes:
        values: probabilities of classes or labels (N, C), values (N, 1) or quantiles (N, Q); of M members (M, N, ...).
        variances: of a regression's Gaussian (N, 1), positive; None if only values are said.
        levels: of the quantiles (Q,), ascending, between 0 and 1.
    """

    values: Floats
    variances: Floats | None = None
    levels: Floats | None = None


def ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, and 0 where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def macro(columns: Floats) -> Floats:
    """The mean over the second axis of what is not NaN; NaN where all are."""
    known = ~np.isnan(columns)
    count = known.sum(1)
    total = np.where(known, columns, 0.0).sum(1)
    return np.asarray(np.divide(total, count, out=np.full(len(columns), np.nan), where=count > 0))


def weighted_means(scores: dict[str, Floats], weights: Floats) -> dict[str, Floats]:
    """The mean of each per-row score (N,) over each resample (B,)."""
    total = weights.sum(1)
    return {name: np.asarray(weights @ score / total) for name, score in scores.items()}
