"""Diversity: how differently members err.

Shapes: M members, N rows, C classes. Pairwise measures are (M, M) over the 2×2 table of who is right: a both, b only the
first, c only the second, d neither, as shares of the rows (Kuncheva and Whitaker 2003, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.quantiles import middle
from fuseline.terms import Kind

Floats = NDArray[np.floating[Any]]


def classification_diversity(target: NDArray[np.integer[Any]], probabilities: Floats) -> dict[str, Floats]:
    """Pairwise ``disagreement`` of the classes named, ``q`` statistic, ``kappa``, ``double_fault`` and ``correlation`` of being
    right.

    Args:
        target: codes (N,).
        probabilities: what each member says (M, N, C).

    A measure whose denominator is 0 (two members that are always right, say) is NaN.

    >>> p = np.eye(2)[np.array([[0, 0, 1, 1], [0, 1, 0, 1]])]
    >>> d = classification_diversity(np.array([0, 0, 0, 1]), p)
    >>> float(d["disagreement"][0, 1]), float(d["double_fault"][0, 1])
    (0.5, 0.0)
    """
    said = np.asarray(probabilities).argmax(2)
    right = (said == target).astype(np.float64)
    n = right.shape[1]
    a = right @ right.T / n
    b = right @ (1 - right).T / n
    c = b.T
    d = (1 - right) @ (1 - right).T / n
    one_hot = np.eye(np.asarray(probabilities).shape[2])[said]  # (M, N, C)
    agree = np.einsum("inc,jnc->ij", one_hot, one_hot) / n
    named = one_hot.mean(1)
    chance = named @ named.T
    return {
        "disagreement": 1 - agree,
        "q": _ratio(a * d - b * c, a * d + b * c),
        "kappa": _ratio(agree - chance, 1 - chance),
        "double_fault": d,
        "correlation": _ratio(a * d - b * c, np.sqrt((a + b) * (c + d) * (a + c) * (b + d))),
    }


def multilabel_diversity(target: Floats, probabilities: Floats) -> dict[str, Floats]:
    """As :func:`classification_diversity`, each known label of each row being one decision of its own between yes and no.

    Args:
        target: labels (N, C), NaN where one is not known.
        probabilities: of each label, by each member (M, N, C).

    >>> p = np.array([[[0.9, 0.2]], [[0.6, 0.7]]])  # two members, one row, two labels
    >>> d = multilabel_diversity(np.array([[1.0, 0.0]]), p)
    >>> float(d["disagreement"][0, 1]), float(multilabel_diversity(np.array([[1.0, np.nan]]), p)["disagreement"][0, 1])
    (0.5, 0.0)
    """
    known = ~np.isnan(target)
    yes = np.asarray(probabilities, np.float64)[:, known]
    return classification_diversity(target[known].astype(np.int64), np.stack([1 - yes, yes], axis=2))


def regression_diversity(target: Floats, values: Floats) -> dict[str, Floats]:
    """Pairwise ``correlation`` of the members' errors, and ``disagreement``: the root mean squared difference of two members.

    Args:
        target: values (N,).
        values: what each member says (M, N).
    """
    v = np.asarray(values, np.float64)
    errors = v - target
    centered = errors - errors.mean(1, keepdims=True)
    covariance = centered @ centered.T
    size = np.sqrt(np.diag(covariance))
    size = size / (size.max() or 1.0)  # in units of the largest, so that the target's unit does not matter
    covariance = covariance / (np.diag(covariance).max() or 1.0)
    gaps = np.sqrt(((v[:, None] - v[None]) ** 2).mean(2))
    return {"disagreement": gaps, "correlation": _ratio(covariance, np.outer(size, size))}


def _of_classes(target: NDArray[Any], said: Predicted) -> dict[str, Floats]:
    return classification_diversity(target, said.values)


def _of_labels(target: NDArray[Any], said: Predicted) -> dict[str, Floats]:
    return multilabel_diversity(target, said.values)


def _of_values(target: NDArray[Any], said: Predicted) -> dict[str, Floats]:
    """Of the values said, and of quantiles the level that stands for the median."""
    column = 0 if said.levels is None else middle(said.levels)
    return regression_diversity(target, said.values[:, :, column])


DIVERSITY: dict[Kind, Callable[[NDArray[Any], Predicted], dict[str, Floats]]] = {
    "classification": _of_classes,
    "ordinal": _of_classes,
    "multilabel": _of_labels,
    "regression": _of_values,
    "quantile": _of_values,
}
"""The measures of each kind of target, of what M members say: ``values`` (M, N, ...), and the quantiles' ``levels``."""


def mean_pair(table: Floats) -> float:
    """The mean over all pairs of two different members, NaN left out."""
    pairs = np.asarray(table)[np.triu_indices(len(table), 1)]
    known = pairs[~np.isnan(pairs)]
    return float(known.mean()) if len(known) else float("nan")


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=np.abs(whole) > 1e-12)
