"""Metrics of one prediction, as a point and over bootstrap resamples, always over the whole set of rows.

Shapes: N rows, C classes or labels, Q levels, B resamples. A resample is a row of ``weights`` (B, N): how often it draws each
row. ``POINT[kind](target, predicted, names)`` gives those metrics of ``METRICS[kind]`` as numbers, ``RESAMPLED[kind](target,
predicted, weights, names)`` as (B,), and ``FAMILIES[kind].measured`` both at once; without names all of them, and never more than
is asked for. They follow from sums over rows (``sums.py``) and from the order of scores (``ranking.py``), a block of rows or of
resamples at a time, and equal scikit-learn's result on the rows so repeated. A metric that the rows or the prediction do not
determine is NaN. Every row has a known target; for ``multilabel`` at least one known label.
"""

from __future__ import annotations

from collections.abc import Callable

from fuseline.evaluation.metrics.binning import BINS, calibration_error, reliability
from fuseline.evaluation.metrics.classes import (
    CLASSES,
    CLASSIFICATION,
    classification,
    confusion,
    per_class,
    resampled_classification,
)
from fuseline.evaluation.metrics.common import Floats, Predicted
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.metrics.labels import LABELS, MULTILABEL, multilabel, resampled_multilabel
from fuseline.evaluation.metrics.ordered import ORDERED, ORDINAL, ordinal, resampled_ordinal
from fuseline.evaluation.metrics.quantiles import QUANTILE, QUANTILES, quantile, resampled_quantile
from fuseline.evaluation.metrics.values import REGRESSION, VALUES, regression, resampled_regression
from fuseline.terms import Kind

__all__ = [
    "BINS",
    "CLASSIFICATION",
    "FAMILIES",
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

FAMILIES: dict[Kind, Family] = {
    "classification": CLASSES,
    "ordinal": ORDERED,
    "multilabel": LABELS,
    "regression": VALUES,
    "quantile": QUANTILES,
}
POINT: dict[Kind, Callable[..., dict[str, float]]] = {
    "classification": classification,
    "ordinal": ordinal,
    "multilabel": multilabel,
    "regression": regression,
    "quantile": quantile,
}
RESAMPLED: dict[Kind, Callable[..., dict[str, Floats]]] = {
    "classification": resampled_classification,
    "ordinal": resampled_ordinal,
    "multilabel": resampled_multilabel,
    "regression": resampled_regression,
    "quantile": resampled_quantile,
}
