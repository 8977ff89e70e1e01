"""Classification: one class of C is true, and the classes have no order.

Shapes: N rows, C classes, B resamples; codes (N,), probabilities (N, C). What is said is the most probable class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from fuseline.evaluation.metrics.binning import error_of_bins, gaps, most_probable
from fuseline.evaluation.metrics.common import Codes, Counts, Floats, Predicted, macro, ratio
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.metrics.ranking import AREA, Column
from fuseline.evaluation.metrics.sums import Measure, Part, Rows, Sums, every_row, mean

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


def classification(target: Codes, predicted: Predicted, names: Sequence[str] = CLASSIFICATION) -> dict[str, float]:
    """Classification metrics. A class that the rows lack has no part in macro means.

    ``roc_auc`` is the macro mean over classes of one against the rest; ``mcc`` is Matthews' correlation coefficient, for
    several classes (Gorodkin 2004), and 0 where it has no denominator, as scikit-learn's; ``brier`` is Σ_c (p_c − [y = c])²,
    between 0 and 2 (Brier 1950); ``ece`` see :func:`~fuseline.evaluation.metrics.binning.calibration_error`.
    """
    return CLASSES.point(target, predicted, names)


def resampled_classification(
    target: Codes, predicted: Predicted, weights: Counts, names: Sequence[str] = CLASSIFICATION
) -> dict[str, Floats]:
    """Classification metrics of each resample (B,). A class that a resample lacks has no part in its macro means."""
    return CLASSES.resampled(target, predicted, weights, names)


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


def _right(rows: Rows) -> Part:
    return Part(most_probable(rows.target, rows.predicted.values)[1])


def _loss(rows: Rows) -> Part:
    true = rows.predicted.values[np.arange(len(rows.target)), rows.target]
    return Part(-np.log(np.clip(true, np.finfo(np.float64).eps, 1)))


def _brier(rows: Rows) -> Part:
    gap = rows.predicted.values.copy()
    gap[np.arange(len(gap)), rows.target] -= 1
    return Part((gap**2).sum(1))


def _gaps(rows: Rows) -> Part:
    return gaps(*most_probable(rows.target, rows.predicted.values))


def _hits(rows: Rows) -> Part:
    return _by_class(rows, rows.target, most_probable(rows.target, rows.predicted.values)[1])


def _support(rows: Rows) -> Part:
    return _by_class(rows, rows.target, np.ones(len(rows.target)))


def _named(rows: Rows) -> Part:
    return _by_class(rows, rows.predicted.values.argmax(1), np.ones(len(rows.target)))


def _by_class(rows: Rows, codes: Codes, values: Floats) -> Part:
    return Part(values, codes, rows.predicted.values.shape[1])


def _present(sums: Sums) -> Floats:
    return np.where(sums["support"] > 0, 1.0, np.nan)


def _recall(sums: Sums) -> Floats:
    return macro(ratio(sums["hits"], sums["support"]) * _present(sums))


def _precision(sums: Sums) -> Floats:
    return macro(ratio(sums["hits"], sums["named"]) * _present(sums))


def _f1(sums: Sums) -> Floats:
    return macro(ratio(2 * sums["hits"], sums["support"] + sums["named"]) * _present(sums))


def _matthews(sums: Sums) -> Floats:
    """(c n − Σ_k t_k s_k) / √((n² − Σ t_k²)(n² − Σ s_k²)) with c rows right of n, t_k true and s_k said to be of class k."""
    support, named = sums["support"], sums["named"]
    n, right = support.sum(0), sums["hits"].sum(0)
    spread = (n**2 - (support**2).sum(0)) * (n**2 - (named**2).sum(0))
    return ratio(right * n - (support * named).sum(0), np.sqrt(spread))


def _one_against_the_rest(target: Codes, predicted: Predicted) -> Iterator[Column]:
    """Of two classes only the second: the first says the same."""
    classes = predicted.values.shape[1]
    every = slice(None)
    for first in range(0, classes, TOGETHER):
        scores = np.array(predicted.values[:, first : first + TOGETHER].T, np.float64, order="C")
        for c, score in enumerate(scores, first):
            if classes != 2 or c == 1:
                yield Column(every, target == c, score)


TOGETHER = 8
"""So many columns are read at once: a line of the processor's cache, in float64."""

UNORDERED_PARTS = {
    "rows": every_row,
    "right": _right,
    "loss": _loss,
    "brier": _brier,
    "gaps": _gaps,
    "hits": _hits,
    "support": _support,
}
UNORDERED = {
    "accuracy": mean("right"),
    "balanced_accuracy": Measure(("hits", "support"), _recall),
    "log_loss": mean("loss"),
    "brier": mean("brier"),
    "ece": Measure(("rows", "gaps"), lambda sums: error_of_bins(sums["gaps"], sums["rows"][0])),
}
"""What is measured of classes whether they have an order or not."""

CLASSES = Family(
    parts={**UNORDERED_PARTS, "named": _named},
    measures={
        **UNORDERED,
        "precision_macro": Measure(("hits", "support", "named"), _precision),
        "recall_macro": UNORDERED["balanced_accuracy"],  # the same by definition
        "f1_macro": Measure(("hits", "support", "named"), _f1),
        "mcc": Measure(("hits", "support", "named"), _matthews),
    },
    rankings={"roc_auc": AREA},
    columns=_one_against_the_rest,
)
