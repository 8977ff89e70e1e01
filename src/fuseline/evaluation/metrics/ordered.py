"""Ordinal targets: one class of C is true, and the classes have an order, so that one error is larger than another.

Shapes: N rows, C classes, B resamples; codes (N,) and probabilities (N, C) in the order of the classes. Where the distance of
classes counts (``mae``, ``kappa_quadratic``) the median class is what is said; elsewhere it is the most probable one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fuseline.evaluation.metrics.classes import UNORDERED, UNORDERED_PARTS
from fuseline.evaluation.metrics.common import Codes, Counts, Floats, Predicted, over
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.metrics.sums import Measure, Part, Rows, Sums, mean

ORDINAL = ("accuracy", "mae", "kappa_quadratic", "rps", "balanced_accuracy", "log_loss", "brier", "ece")


def ordinal(target: Codes, predicted: Predicted, names: Sequence[str] = ORDINAL) -> dict[str, float]:
    """Ordinal metrics.

    ``mae`` is the mean number of classes between the median class and the true one; ``kappa_quadratic`` is Cohen's kappa with
    the squared distance as the weight of a disagreement (Cohen 1968), NaN where both always say one and the same class;
    ``rps`` see :func:`ranked_probability_scores`; the others are those of
    :func:`~fuseline.evaluation.metrics.classes.classification`.
    """
    return ORDERED.point(target, predicted, names)


def resampled_ordinal(target: Codes, predicted: Predicted, weights: Counts, names: Sequence[str] = ORDINAL) -> dict[str, Floats]:
    """Ordinal metrics of each resample (B,)."""
    return ORDERED.resampled(target, predicted, weights, names)


def median_class(probabilities: Floats) -> Codes:
    """The first class up to which half of the probability lies (N,): of all classes the one with the least expected distance.

    >>> median_class(np.array([[0.4, 0.2, 0.4], [0.5, 0.0, 0.5], [0.1, 0.2, 0.7]]))
    array([1, 0, 2])
    """
    reached = np.cumsum(probabilities, axis=1) >= 0.5 - 1e-6  # half, but for what float32 has rounded off
    return np.asarray(reached.argmax(1))


def ranked_probability_scores(target: Codes, probabilities: Floats) -> Floats:
    """Σ_c (F_c − [y ≤ c])² / (C − 1) with F the distribution function (Epstein 1969), of each row (N,), between 0 and 1.

    It is proper, and of two classes it is half the Brier score.

    >>> ranked_probability_scores(np.array([0, 0]), np.eye(3)[[1, 2]])  # one class off, and two
    array([0.5, 1. ])
    """
    classes = probabilities.shape[1]
    steps = np.asarray(target)[:, None] <= np.arange(classes)
    return np.asarray(((np.cumsum(probabilities, axis=1) - steps)[:, :-1] ** 2).sum(1) / max(classes - 1, 1))


def _distance(rows: Rows) -> Part:
    return Part(np.abs(median_class(rows.predicted.values) - rows.target))


def _moments(rows: Rows) -> Part:
    """(y − s)², y² + s², y and s of each row, true and said."""
    y, s = rows.target.astype(np.float64), median_class(rows.predicted.values).astype(np.float64)
    return Part(np.stack([(y - s) ** 2, y**2 + s**2, y, s], axis=1))


def _kappa(sums: Sums) -> Floats:
    """1 − Σ_ij w_ij O_ij / Σ_ij w_ij E_ij with w_ij = (i − j)², by moments: both sums are times n, hence exact."""
    n, (apart, squares, true, said) = sums["rows"][0], sums["moments"]
    expected = n * squares - 2 * true * said
    return 1 - over(n * apart, expected)


ORDERED = Family(
    parts={
        **UNORDERED_PARTS,
        "distance": _distance,
        "rps": lambda rows: Part(ranked_probability_scores(rows.target, rows.predicted.values)),
        "moments": _moments,
    },
    measures={
        **UNORDERED,
        "mae": mean("distance"),
        "rps": mean("rps"),
        "kappa_quadratic": Measure(("rows", "moments"), _kappa),
    },
)
