"""Classification: one class of C is true, and the classes have no order.

Shapes: N rows, C classes, B resamples; codes (N,), probabilities (N, C). What is said is the most probable class.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from fuseline.evaluation.metrics.binning import calibration_error, calibration_errors, most_probable
from fuseline.evaluation.metrics.common import Codes, Floats, Predicted, macro, ratio
from fuseline.evaluation.metrics.ranking import area, steps

CLASSIFICATION = (
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "mcc",
    "roc_auc",
    "log_loss",
    "brier",
    "ece",
)


def classification(target: Codes, predicted: Predicted) -> dict[str, float]:
    """Every classification metric. A class that the rows lack has no part in macro means.

    ``roc_auc`` is the macro mean over classes of one against the rest; ``mcc`` is Matthews' correlation coefficient, for
    several classes (Gorodkin 2004), and 0 where it has no denominator, as scikit-learn's.
    """
    p = np.asarray(predicted.values, np.float64)
    said = p.argmax(1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        target, said, labels=np.unique(target), average="macro", zero_division=0
    )
    scores = {
        **without_order(target, p),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "mcc": _unwarned(sk.matthews_corrcoef, target, said),
        "roc_auc": _auc(target, p),
    }
    return {name: scores[name] for name in CLASSIFICATION}


def without_order(target: Codes, p: Floats) -> dict[str, float]:
    """What is measured of classes whether they have an order or not.

    ``brier`` is Σ_c (p_c − [y = c])², between 0 and 2 (Brier 1950); ``ece`` see :func:`calibration_error`.
    """
    classes = p.shape[1]
    said = p.argmax(1)
    return {
        "accuracy": float(sk.accuracy_score(target, said)),
        "balanced_accuracy": _unwarned(sk.balanced_accuracy_score, target, said),
        "log_loss": float(sk.log_loss(target, p, labels=np.arange(classes))),
        "brier": float(((p - np.eye(classes)[target]) ** 2).sum(1).mean()),
        "ece": calibration_error(target, p),
    }


def resampled_classification(target: Codes, predicted: Predicted, weights: Floats) -> dict[str, Floats]:
    """Every classification metric of each resample (B,). A class that a resample lacks has no part in its macro means."""
    p = np.asarray(predicted.values, np.float64)
    hits, support, named = counted = counts(target, p, weights)
    present = np.where(support > 0, 1.0, np.nan)
    shared = resampled_without_order(target, p, weights, counted)
    scores = {
        **shared,
        "precision_macro": macro(ratio(hits, named) * present),
        "recall_macro": shared["balanced_accuracy"],  # the same by definition
        "f1_macro": macro(ratio(2 * hits, support + named) * present),
        "mcc": _matthews(counted),
        "roc_auc": _resampled_auc(target, p, weights),
    }
    return {name: scores[name] for name in CLASSIFICATION}


class Counts(NamedTuple):
    """Of each resample, how often each class is said rightly, is true, and is said (B, C)."""

    hits: Floats
    support: Floats
    named: Floats


def counts(target: Codes, p: Floats, weights: Floats) -> Counts:
    """Count each class of each resample."""
    one_hot = np.eye(p.shape[1])
    _, right = most_probable(target, p)
    return Counts(weights @ (one_hot[target] * right[:, None]), weights @ one_hot[target], weights @ one_hot[p.argmax(1)])


def resampled_without_order(target: Codes, p: Floats, weights: Floats, counted: Counts) -> dict[str, Floats]:
    """As :func:`without_order`, of each resample (B,)."""
    n, classes = p.shape
    total = weights.sum(1)
    confidence, right = most_probable(target, p)
    true = np.clip(p[np.arange(n), target], np.finfo(np.float64).eps, 1)
    present = np.where(counted.support > 0, 1.0, np.nan)
    return {
        "accuracy": weights @ right / total,
        "balanced_accuracy": macro(ratio(counted.hits, counted.support) * present),
        "log_loss": weights @ -np.log(true) / total,
        "brier": weights @ ((p - np.eye(classes)[target]) ** 2).sum(1) / total,
        "ece": calibration_errors(confidence[:, None], right[:, None], weights),
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


def _unwarned(score: Callable[[Codes, Codes], float], target: Codes, said: Codes) -> float:
    """A score, without scikit-learn's word on a class that is said but absent, or the only one: both are as they should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(score(target, said))


def _matthews(counted: Counts) -> Floats:
    """(c n − Σ_k t_k s_k) / √((n² − Σ t_k²)(n² − Σ s_k²)) with c rows right of n, t_k true and s_k said to be of class k."""
    n, right = counted.support.sum(1), counted.hits.sum(1)
    together = right * n - (counted.support * counted.named).sum(1)
    spread = (n**2 - (counted.support**2).sum(1)) * (n**2 - (counted.named**2).sum(1))
    return ratio(together, np.sqrt(spread))


def _auc(target: Codes, p: Floats) -> float:
    """NaN where a class is absent from the rows or the only one there."""
    scores = []
    for c in _against_the_rest(p):
        positive = target == c
        if positive.any() and not positive.all():
            scores.append(sk.roc_auc_score(positive, p[:, c]))
    return float(np.mean(scores)) if scores else float("nan")


def _resampled_auc(target: Codes, p: Floats, weights: Floats) -> Floats:
    return macro(np.stack([area(*steps(target == c, p[:, c], weights)) for c in _against_the_rest(p)], axis=1))


def _against_the_rest(p: Floats) -> range:
    """Of two classes only the second: the first says the same."""
    return range(1, 2) if p.shape[1] == 2 else range(p.shape[1])
