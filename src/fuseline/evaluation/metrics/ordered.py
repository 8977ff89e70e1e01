"""Ordinal targets: one class of C is true, and the classes have an order, so that one error is larger than another.

Shapes: N rows, C classes, B resamples; codes (N,) and probabilities (N, C) in the order of the classes. Where the distance of
classes counts (``mae``, ``kappa_quadratic``) the median class is what is said; elsewhere it is the most probable one.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

from fuseline.evaluation.metrics.classes import counts, resampled_without_order, without_order
from fuseline.evaluation.metrics.common import Codes, Floats, Predicted, weighted_means

ORDINAL = ("accuracy", "mae", "kappa_quadratic", "rps", "balanced_accuracy", "log_loss", "brier", "ece")


def ordinal(target: Codes, predicted: Predicted) -> dict[str, float]:
    """Every ordinal metric.

    ``mae`` is the mean number of classes between the median class and the true one; ``kappa_quadratic`` is Cohen's kappa with
    the squared distance as the weight of a disagreement (Cohen 1968), NaN where both always say one and the same class;
    ``rps`` see :func:`ranked_probability_scores`.
    """
    p = np.asarray(predicted.values, np.float64)
    said = median_class(p)
    constant = len(np.unique(np.concatenate([target, said]))) == 1
    kappa = np.nan if constant else sk.cohen_kappa_score(target, said, weights="quadratic", labels=np.arange(p.shape[1]))
    scores = {
        **without_order(target, p),
        "mae": float(sk.mean_absolute_error(target, said)),
        "kappa_quadratic": float(kappa),
        "rps": float(ranked_probability_scores(target, p).mean()),
    }
    return {name: scores[name] for name in ORDINAL}


def resampled_ordinal(target: Codes, predicted: Predicted, weights: Floats) -> dict[str, Floats]:
    """Every ordinal metric of each resample (B,)."""
    p = np.asarray(predicted.values, np.float64)
    said = median_class(p)
    scores = {
        **resampled_without_order(target, p, weights, counts(target, p, weights)),
        **weighted_means({"mae": np.abs(said - target), "rps": ranked_probability_scores(target, p)}, weights),
        "kappa_quadratic": _resampled_kappa(target, said, weights),
    }
    return {name: scores[name] for name in ORDINAL}


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


def _resampled_kappa(target: Codes, said: Codes, weights: Floats) -> Floats:
    """1 − Σ_ij w_ij O_ij / Σ_ij w_ij E_ij with w_ij = (i − j)², by moments: both sums are times n, hence exact."""
    y, s = target.astype(np.float64), said.astype(np.float64)
    n = weights.sum(1)
    observed = n * (weights @ (y - s) ** 2)
    expected = n * (weights @ (y**2 + s**2)) - 2 * (weights @ y) * (weights @ s)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - observed / expected, np.nan)
