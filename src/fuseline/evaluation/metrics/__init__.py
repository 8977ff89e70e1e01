"""Metrics of one prediction, as a point and over bootstrap resamples, always over the whole set of rows.

Shapes: N rows, C classes or labels, Q levels, B resamples. A resample is a row of ``weights`` (B, N): how often it draws each
row. ``POINT[kind](target, predicted)`` gives each metric of ``METRICS[kind]`` as a number, ``RESAMPLED[kind](target, predicted,
weights)`` as (B,). Points come from scikit-learn where it has the metric; resamples are computed all at once from per-row scores,
sums and sorted scores, and equal scikit-learn's result on the rows so repeated. A metric that the rows or the prediction do not
determine is NaN. Every row has a known target; for ``multilabel`` at least one known label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuseline.evaluation.metrics.binning import BINS, calibration_error, reliability
from fuseline.evaluation.metrics.classes import CLASSIFICATION, classification, confusion, per_class, resampled_classification
from fuseline.evaluation.metrics.common import Floats, Predicted
from fuseline.evaluation.metrics.labels import MULTILABEL, multilabel, resampled_multilabel
from fuseline.evaluation.metrics.ordered import ORDINAL, ordinal, resampled_ordinal
from fuseline.evaluation.metrics.quantiles import QUANTILE, quantile, resampled_quantile
from fuseline.evaluation.metrics.values import REGRESSION, regression, resampled_regression
from fuseline.terms import Kind

__all__ = [
    "BINS",
    "CLASSIFICATION",
    "LOWER_IS_BETTER",
    "METRICS",
    "MULTILABEL",
    "ORDINAL",
    "POINT",
    "QUANTILE",
    "REGRESSION",
    "RESAMPLED",
    "SHARES",
    "UNDIRECTED",
    "Predicted",
    "calibration_error",
    "classification",
    "confusion",
    "multilabel",
    "ordinal",
    "per_class",
    "quantile",
    "regression",
    "reliability",
    "resampled_classification",
    "resampled_multilabel",
    "resampled_ordinal",
    "resampled_quantile",
    "resampled_regression",
]

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": CLASSIFICATION,
    "ordinal": ORDINAL,
    "multilabel": MULTILABEL,
    "regression": REGRESSION,
    "quantile": QUANTILE,
}
LOWER_IS_BETTER = frozenset(
    {
        "log_loss", "brier", "ece", "rmse", "mae", "rps", "nll", "crps", "pinball", "coverage_error", "interval_score",
    }
)  # fmt: skip
UNDIRECTED = frozenset({"coverage", "coverage_90"})
"""Best at their nominal share, and worse on both sides of it. A bound on one of them is read as the least share that will do."""

SHARES = frozenset({"accuracy", "subset_accuracy", "coverage", "coverage_90"})
"""Each row either counts or does not, so that their sampling error is a binomial's."""

POINT: dict[Kind, Callable[[Any, Predicted], dict[str, float]]] = {
    "classification": classification,
    "ordinal": ordinal,
    "multilabel": multilabel,
    "regression": regression,
    "quantile": quantile,
}
RESAMPLED: dict[Kind, Callable[[Any, Predicted, Floats], dict[str, Floats]]] = {
    "classification": resampled_classification,
    "ordinal": resampled_ordinal,
    "multilabel": resampled_multilabel,
    "regression": resampled_regression,
    "quantile": resampled_quantile,
}
