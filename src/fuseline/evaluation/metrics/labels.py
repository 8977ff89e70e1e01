"""Multilabel targets: C labels, each of which is true of a row or not, or not known.

Shapes: N rows, C labels, B resamples; truth (N, C) of 0 and 1, NaN where a label is not known, which counts nowhere;
probabilities (N, C), each label a Bernoulli of its own. A label is named where its probability is above one half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from fuseline.evaluation.metrics.binning import calibration_errors
from fuseline.evaluation.metrics.common import Floats, Predicted, macro, ratio
from fuseline.evaluation.metrics.ranking import area, average_precision, steps

MULTILABEL = (
    "subset_accuracy",
    "hamming_accuracy",
    "f1_micro",
    "f1_macro",
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
    "ece",
)


def multilabel(target: Floats, predicted: Predicted) -> dict[str, float]:
    """Every multilabel metric.

    ``subset_accuracy`` is the share of rows all of whose known labels are said rightly. ``hamming_accuracy``, ``f1_micro``,
    ``log_loss`` (binary cross-entropy), ``brier`` ((p − y)², between 0 and 1) and ``ece`` (see
    :func:`~fuseline.evaluation.metrics.binning.calibration_errors`) are over all known labels of all rows in one pool. The
    others are macro means over labels, in which a label without a positive row has no part, nor in ``roc_auc`` one without a
    negative row. ``f1_micro`` is NaN if no label is true and none is named.
    """
    y, p = np.asarray(target, np.float64), np.asarray(predicted.values, np.float64)
    known = ~np.isnan(y)
    truth, pool = y[known].astype(np.int64), p[known]
    said = named(pool).astype(np.int64)
    return {
        "subset_accuracy": float(_all_right(y, p).mean()),
        "hamming_accuracy": float(1 - sk.hamming_loss(truth, said)),
        "f1_micro": float(sk.f1_score(truth, said, zero_division=np.nan)),
        "f1_macro": _over_labels(y, p, lambda t, q: sk.f1_score(t, named(q), zero_division=0), both_sides=False),
        "roc_auc": _over_labels(y, p, sk.roc_auc_score, both_sides=True),
        "average_precision": _over_labels(y, p, sk.average_precision_score, both_sides=False),
        "log_loss": float(sk.log_loss(truth, pool, labels=[0, 1])),
        "brier": float(((pool - truth) ** 2).mean()),
        "ece": float(calibration_errors(p, y, np.ones((1, len(y))))[0]),
    }


def resampled_multilabel(target: Floats, predicted: Predicted, weights: Floats) -> dict[str, Floats]:
    """Every multilabel metric of each resample (B,). A label is left out of a macro mean by what the resample holds of it."""
    y, p = np.asarray(target, np.float64), np.asarray(predicted.values, np.float64)
    known = ~np.isnan(y)
    known_labels = weights @ known.sum(1)
    f1_micro, f1_macro = _resampled_f1(y, p, weights)
    areas, precisions = _resampled_rankings(y, p, weights)
    return {
        "subset_accuracy": weights @ _all_right(y, p) / weights.sum(1),
        "hamming_accuracy": weights @ (known & (named(p) == (y == 1))).sum(1) / known_labels,
        "f1_micro": f1_micro,
        "f1_macro": f1_macro,
        "roc_auc": areas,
        "average_precision": precisions,
        "log_loss": weights @ np.where(known, _cross_entropy(y, p), 0.0).sum(1) / known_labels,
        "brier": weights @ np.where(known, (p - y) ** 2, 0.0).sum(1) / known_labels,
        "ece": calibration_errors(p, y, weights),
    }


def named(probabilities: Floats) -> NDArray[np.bool_]:
    """Which labels are said to be true."""
    return np.asarray(probabilities > 0.5)


def _all_right(y: Floats, p: Floats) -> NDArray[np.bool_]:
    return np.asarray((np.isnan(y) | (named(p) == (y == 1))).all(1))


def _over_labels(y: Floats, p: Floats, score: Callable[[Any, Any], float], *, both_sides: bool) -> float:
    """The mean score of the labels that have a positive row, and with ``both_sides`` also a negative one; NaN without any."""
    scores = []
    for c in range(y.shape[1]):
        known = ~np.isnan(y[:, c])
        truth = y[known, c].astype(np.int64)
        if truth.any() and not (both_sides and truth.all()):
            scores.append(score(truth, p[known, c]))
    return float(np.mean(scores)) if scores else float("nan")


def _resampled_f1(y: Floats, p: Floats, weights: Floats) -> tuple[Floats, Floats]:
    said, true = named(p) & ~np.isnan(y), y == 1
    hits = weights @ (said & true).astype(np.float64)  # (B, C)
    support = weights @ true.astype(np.float64)
    both = support + weights @ said.astype(np.float64)
    present = np.where(support > 0, 1.0, np.nan)
    total = both.sum(1)
    micro = np.divide(2 * hits.sum(1), total, out=np.full_like(total, np.nan), where=total > 0)
    return micro, macro(ratio(2 * hits, both) * present)


def _resampled_rankings(y: Floats, p: Floats, weights: Floats) -> tuple[Floats, Floats]:
    areas, precisions = [], []
    for c in range(y.shape[1]):
        known = ~np.isnan(y[:, c])
        ups, downs = steps(y[known, c] == 1, p[known, c], weights[:, known])
        areas.append(area(ups, downs))
        precisions.append(average_precision(ups, downs))
    return macro(np.stack(areas, axis=1)), macro(np.stack(precisions, axis=1))


def _cross_entropy(y: Floats, p: Floats) -> Floats:
    eps = np.finfo(np.float64).eps
    return np.asarray(-np.log(np.clip(np.where(y == 1, p, 1 - p), eps, 1 - eps)))
