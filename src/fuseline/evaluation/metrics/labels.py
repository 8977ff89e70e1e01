"""Multilabel targets: C labels, each of which is true of a row or not, or not known.

Shapes: N rows, C labels, B resamples; truth (N, C) of 0 and 1, NaN where a label is not known, which counts nowhere;
probabilities (N, C), each label a Bernoulli of its own. A label is named where its probability is above one half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fuseline.evaluation.metrics.binning import error_of_bins, gaps
from fuseline.evaluation.metrics.common import Counts, Floats, Predicted, macro, over, ratio
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.metrics.ranking import AREA, PRECISION, Column
from fuseline.evaluation.metrics.sums import Measure, Part, Rows, Sums, every_row, mean

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


def multilabel(target: Floats, predicted: Predicted, names: Sequence[str] = MULTILABEL) -> dict[str, float]:
    """Multilabel metrics.

    ``subset_accuracy`` is the share of rows all of whose known labels are said rightly. ``hamming_accuracy``, ``f1_micro``,
    ``log_loss`` (binary cross-entropy), ``brier`` ((p − y)², between 0 and 1) and ``ece`` (see
    :func:`~fuseline.evaluation.metrics.binning.calibration_errors`) are over all known labels of all rows in one pool. The
    others are macro means over labels, in which a label without a positive row has no part, nor in ``roc_auc`` one without a
    negative row. ``f1_micro`` is NaN if no label is true and none is named.
    """
    return LABELS.point(target, predicted, names)


def resampled_multilabel(
    target: Floats, predicted: Predicted, weights: Counts, names: Sequence[str] = MULTILABEL
) -> dict[str, Floats]:
    """Multilabel metrics of each resample (B,). A label is left out of a macro mean by what the resample holds of it."""
    return LABELS.resampled(target, predicted, weights, names)


def named(probabilities: Floats) -> NDArray[np.bool_]:
    """Which labels are said to be true."""
    return np.asarray(probabilities > 0.5)


def _said_rightly(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray(named(rows.predicted.values) == (rows.target == 1))


def _all_right(rows: Rows) -> Part:
    return Part((np.isnan(rows.target) | _said_rightly(rows)).all(1))


def _right(rows: Rows) -> Part:
    return Part((_known(rows) & _said_rightly(rows)).sum(1))


def _loss(rows: Rows) -> Part:
    eps = np.finfo(np.float64).eps
    p = rows.predicted.values
    losses = -np.log(np.clip(np.where(rows.target == 1, p, 1 - p), eps, 1 - eps))
    return Part(np.where(_known(rows), losses, 0.0).sum(1))


def _brier(rows: Rows) -> Part:
    return Part(np.where(_known(rows), (rows.predicted.values - rows.target) ** 2, 0.0).sum(1))


def _known(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(rows.target))


def _f1_micro(sums: Sums) -> Floats:
    return over(2 * sums["hits"].sum(0), sums["support"].sum(0) + sums["named"].sum(0))


def _f1_macro(sums: Sums) -> Floats:
    present = np.where(sums["support"] > 0, 1.0, np.nan)
    return macro(ratio(2 * sums["hits"], sums["support"] + sums["named"]) * present)


def _pooled(part: str) -> Measure:
    """The mean over all known labels of all rows."""
    return Measure(("known", part), lambda sums: np.asarray(sums[part][0] / sums["known"][0]))


def _columns(target: Floats, predicted: Predicted) -> Iterator[Column]:
    for c in range(target.shape[1]):
        known = ~np.isnan(target[:, c])
        yield Column(known, target[known, c] == 1, predicted.values[known, c].astype(np.float64))


LABELS = Family(
    parts={
        "rows": every_row,
        "known": lambda rows: Part(_known(rows).sum(1)),
        "all_right": _all_right,
        "right": _right,
        "loss": _loss,
        "brier": _brier,
        "gaps": lambda rows: gaps(rows.predicted.values, rows.target),
        "hits": lambda rows: Part(named(rows.predicted.values) & (rows.target == 1)),
        "support": lambda rows: Part(rows.target == 1),
        "named": lambda rows: Part(named(rows.predicted.values) & _known(rows)),
    },
    measures={
        "subset_accuracy": mean("all_right"),
        "hamming_accuracy": _pooled("right"),
        "f1_micro": Measure(("hits", "support", "named"), _f1_micro),
        "f1_macro": Measure(("hits", "support", "named"), _f1_macro),
        "log_loss": _pooled("loss"),
        "brier": _pooled("brier"),
        "ece": Measure(("known", "gaps"), lambda sums: error_of_bins(sums["gaps"], sums["known"][0])),
    },
    rankings={"roc_auc": AREA, "average_precision": PRECISION},
    columns=_columns,
)
