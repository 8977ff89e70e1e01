"""The score of each row, for metrics whose mean over the rows it is: what two models can be compared by, row by row.

Shapes: N rows; what is true and what is said as :mod:`fuseline.evaluation.metrics` takes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fuseline.evaluation.metrics import FAMILIES, LOWER_IS_BETTER, SHARES, Predicted
from fuseline.evaluation.metrics.sums import Rows
from fuseline.terms import Kind

Floats = NDArray[np.floating[Any]]

UNORDERED = {"accuracy": "right", "log_loss": "loss", "brier": "brier"}
PER_ROW: dict[Kind, dict[str, str]] = {
    "classification": UNORDERED,
    "ordinal": {**UNORDERED, "rps": "rps", "mae": "distance"},
    "multilabel": {"subset_accuracy": "all_right", "hamming_accuracy": "right", "log_loss": "loss", "brier": "brier"},
    "regression": {"rmse": "squared", "mae": "absolute", "nll": "nll", "crps": "crps"},
    "quantile": {"pinball": "pinball", "interval_score": "interval", "mae": "distance"},
}
"""By kind, the metrics that have a score for each row, and the part of the metric's family that holds it."""

POOLED = frozenset({"hamming_accuracy", "log_loss", "brier"})
"""Of several labels, these are means over all known labels."""

DEFAULT: dict[Kind, str] = {
    "classification": "log_loss",
    "ordinal": "log_loss",
    "multilabel": "log_loss",
    "regression": "rmse",
    "quantile": "pinball",
}
"""By which metric a kind of target is compared if the recipe names none."""


class RowScores(NamedTuple):
    """Scores (N,) and how much each row counts (N,): the metric is Σ score / Σ weight."""

    scores: Floats
    weights: Floats


def row_scores(kind: Kind, metric: str, target: NDArray[Any], predicted: Predicted) -> RowScores:
    """The score of each row; NaN where something that is no number is said of it.

    The root of a mean square is no mean over rows; (e² + r²) / (2r), with r that root, is to first order what each row
    contributes to it, and its mean is r.

    >>> said = Predicted(np.array([[3.0], [4.0]]))
    >>> row_scores("regression", "rmse", np.zeros(2), said).scores.mean() == np.sqrt(12.5)
    np.True_
    """
    parts = FAMILIES[kind].parts
    rows = Rows(target, predicted._replace(values=np.asarray(predicted.values, np.float64)))
    scores = np.array(parts[PER_ROW[kind][metric]](rows).values, np.float64)
    if metric == "rmse":
        root = float(np.sqrt(scores.mean()))
        scores = (scores + root**2) / (2 * root) if root > 0 else scores
    scores[~np.isfinite(rows.predicted.values).all(1)] = np.nan  # else the first class would be named
    pooled = kind == "multilabel" and metric in POOLED
    weights = np.asarray(parts["known"](rows).values, np.float64) if pooled else np.ones(len(scores))
    return RowScores(scores, weights)


def row_gains(kind: Kind, metric: str, target: NDArray[Any], champion: Predicted, challenger: Predicted) -> RowScores:
    """How much better the challenger is than the champion on each row."""
    old, new = (row_scores(kind, metric, target, said) for said in (champion, challenger))
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    return RowScores(sign * (new.scores - old.scores), new.weights)


def can_lose(metric: str) -> float:
    """What a row can lose at the most: 1 where it either counts or does not, and 0 where that is not known."""
    return 1.0 if metric in SHARES or metric == "hamming_accuracy" else 0.0
