"""Diversity: how differently members err.

Shapes: M members, N rows, C classes. Pairwise measures are (M, M) over the 2×2 table of who is right: a both, b only the
first, c only the second, d neither, as shares of the rows (Kuncheva and Whitaker 2003, section 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def mean_pair(table: Floats) -> float:
    """The mean over all pairs of two different members, NaN left out."""
    pairs = np.asarray(table)[np.triu_indices(len(table), 1)]
    known = pairs[~np.isnan(pairs)]
    return float(known.mean()) if len(known) else float("nan")


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=np.abs(whole) > 1e-12)
