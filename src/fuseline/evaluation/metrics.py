"""Metrics of one prediction, as a point and over bootstrap resamples, always over the whole set of rows.

Shapes: N rows, C classes, B resamples. Probabilities (N, C), codes or values (N,). A resample is a row of ``weights`` (B, N):
how often it draws each row. Points come from scikit-learn where it has the metric; resamples are computed all at once from
per-row scores, sums and sorted scores, and equal scikit-learn's result with those sample weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.integer[Any]]

CLASSIFICATION = (
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "roc_auc",
    "log_loss",
    "brier",
    "ece",
)
REGRESSION = ("rmse", "mae", "r2")
METRICS = {"classification": CLASSIFICATION, "regression": REGRESSION}
LOWER_IS_BETTER = {"log_loss", "brier", "ece", "rmse", "mae"}
BINS = 15


def classification(target: Codes, probabilities: Floats) -> dict[str, float]:
    """Every classification metric. A class that the rows lack has no part in macro means.

    ``roc_auc`` is the macro mean over classes of one against the rest; ``brier`` is Σ_c (p_c − [y = c])², between 0 and 2
    (Brier 1950); ``ece`` see :func:`calibration_error`.
    """
    p = np.asarray(probabilities, np.float64)
    classes = p.shape[1]
    said = p.argmax(1)
    present = np.unique(target)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(target, said, labels=present, average="macro", zero_division=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class that is said but absent; recall ignores it, as it should
        balanced = sk.balanced_accuracy_score(target, said)
    return {
        "accuracy": float(sk.accuracy_score(target, said)),
        "balanced_accuracy": float(balanced),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "roc_auc": _auc(target, p),
        "log_loss": float(sk.log_loss(target, p, labels=np.arange(classes))),
        "brier": float(((p - np.eye(classes)[target]) ** 2).sum(1).mean()),
        "ece": calibration_error(target, p),
    }


def regression(target: Floats, values: Floats) -> dict[str, float]:
    """Root mean squared error, mean absolute error, and R² (NaN if the target does not vary)."""
    y = np.asarray(target, np.float64)
    v = np.asarray(values, np.float64).reshape(len(y))
    return {
        "rmse": float(sk.root_mean_squared_error(y, v)),
        "mae": float(sk.mean_absolute_error(y, v)),
        "r2": float(sk.r2_score(y, v)) if len(y) > 1 and np.ptp(y) > 0 else float("nan"),
    }


def calibration_error(target: Codes, probabilities: Floats, bins: int = BINS) -> float:
    """Expected calibration error of the most probable class: Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins
    (Naeini et al. 2015; Guo et al. 2017, equation 3).

    >>> calibration_error(np.array([0, 0, 1, 1]), np.array([[0.75, 0.25]] * 4))
    0.25
    """
    return float(_calibration_errors(target, np.asarray(probabilities, np.float64), np.ones((1, len(target))), bins)[0])


def resampled_classification(target: Codes, probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Every classification metric of each resample (B,). A class that a resample lacks has no part in its macro means."""
    p = np.asarray(probabilities, np.float64)
    n, classes = p.shape
    total = weights.sum(1)
    one_hot = np.eye(classes)
    said = p.argmax(1)
    right = (said == target).astype(np.float64)
    true = np.clip(p[np.arange(n), target], np.finfo(np.float64).eps, 1)
    hits = weights @ (one_hot[target] * right[:, None])  # (B, C)
    support = weights @ one_hot[target]
    named = weights @ one_hot[said]
    recall = _ratio(hits, support)
    present = np.where(support > 0, 1.0, np.nan)
    return {
        "accuracy": weights @ right / total,
        "balanced_accuracy": _macro(recall * present),
        "precision_macro": _macro(_ratio(hits, named) * present),
        "recall_macro": _macro(recall * present),
        "f1_macro": _macro(_ratio(2 * hits, support + named) * present),
        "roc_auc": _resampled_auc(target, p, weights),
        "log_loss": weights @ -np.log(true) / total,
        "brier": weights @ ((p - one_hot[target]) ** 2).sum(1) / total,
        "ece": _calibration_errors(target, p, weights, BINS),
    }


def resampled_regression(target: Floats, values: Floats, weights: Floats) -> dict[str, Floats]:
    """Every regression metric of each resample (B,)."""
    y = np.asarray(target, np.float64)
    error = np.asarray(values, np.float64).reshape(len(y)) - y
    total = weights.sum(1)
    squared = weights @ error**2 / total
    mean = weights @ y / total
    variance = weights @ (y - y.mean()) ** 2 / total - (mean - y.mean()) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(variance > 1e-12 * max(float(y.var()), 1e-300), 1 - squared / variance, np.nan)
    return {"rmse": np.sqrt(squared), "mae": weights @ np.abs(error) / total, "r2": r2}


POINT: dict[str, Callable[[Any, Any], dict[str, float]]] = {"classification": classification, "regression": regression}
RESAMPLED: dict[str, Callable[[Any, Any, Floats], dict[str, Floats]]] = {
    "classification": resampled_classification,
    "regression": resampled_regression,
}


def per_class(target: Codes, probabilities: Floats) -> dict[str, list[float]]:
    """Precision, recall, F1 and support of each class (C,)."""
    said = np.asarray(probabilities).argmax(1)
    labels = np.arange(np.asarray(probabilities).shape[1])
    scores = sk.precision_recall_fscore_support(target, said, labels=labels, zero_division=0)
    return {name: [float(x) for x in score] for name, score in zip(("precision", "recall", "f1", "support"), scores, strict=True)}


def confusion(target: Codes, probabilities: Floats) -> NDArray[np.int64]:
    """Rows by true class and columns by the most probable one (C, C)."""
    p = np.asarray(probabilities)
    return np.asarray(sk.confusion_matrix(target, p.argmax(1), labels=np.arange(p.shape[1])))


def reliability(target: Codes, probabilities: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """The bins of a reliability diagram that hold rows: how many, their mean confidence and their accuracy."""
    confidence, right, which = _binned(target, np.asarray(probabilities, np.float64), bins)
    rows = []
    for b in np.unique(which):
        inside = which == b
        rows.append(
            {
                "rows": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    return rows


def _auc(target: Codes, p: Floats) -> float:
    """NaN where a class is absent from the rows or the only one there."""
    scores = []
    for c in range(1, 2) if p.shape[1] == 2 else range(p.shape[1]):
        positive = target == c
        if positive.any() and not positive.all():
            scores.append(sk.roc_auc_score(positive, p[:, c]))
    return float(np.mean(scores)) if scores else float("nan")


def _resampled_auc(target: Codes, p: Floats, weights: Floats) -> Floats:
    """The weighted rank statistic: the share of (positive, negative) pairs in order, ties counting half."""
    columns = []
    for c in range(1, 2) if p.shape[1] == 2 else range(p.shape[1]):
        order = np.argsort(p[:, c], kind="stable")
        starts = np.flatnonzero(np.diff(p[order, c], prepend=-1.0))  # the first row of each run of equal scores
        sorted_weights, positive = weights[:, order], target[order] == c
        ups = np.add.reduceat(sorted_weights * positive, starts, axis=1)
        downs = np.add.reduceat(sorted_weights * ~positive, starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        pairs = ups.sum(1) * downs.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            columns.append(np.where(pairs > 0, (ups * below).sum(1) / pairs, np.nan))
    return _macro(np.stack(columns, axis=1))


def _binned(target: Codes, p: Floats, bins: int) -> tuple[Floats, Floats, Codes]:
    said = p.argmax(1)
    confidence = p[np.arange(len(p)), said]
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # bins are (low, high]
    return confidence, (said == target).astype(np.float64), which


def _calibration_errors(target: Codes, p: Floats, weights: Floats, bins: int) -> Floats:
    confidence, right, which = _binned(target, p, bins)
    gaps = np.eye(bins)[which] * (right - confidence)[:, None]
    return np.asarray(np.abs(weights @ gaps).sum(1) / weights.sum(1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def _macro(columns: Floats) -> Floats:
    """The mean over the second axis of what is not NaN; NaN where all are."""
    known = ~np.isnan(columns)
    count = known.sum(1)
    total = np.where(known, columns, 0.0).sum(1)
    return np.asarray(np.divide(total, count, out=np.full(len(columns), np.nan), where=count > 0))
