"""Diversity: how differently members err.

Shapes: M members, N rows, C classes. Pairwise measures are (M, M) over the 2×2 table of who is right: a both, b only the
first, c only the second, d neither, as shares of the rows (Kuncheva and Whitaker 2003, section 2). They follow from what is
counted of rows, and counts of different rows add up, so that no more than a block of rows is ever looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.quantiles import middle
from fuseline.terms import Kind

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.integer[Any]]


class Counted(Protocol):
    """What is counted of some rows; of others it is added."""

    def __add__(self, other: Self) -> Self: ...

    def tables(self) -> dict[str, Floats]:
        """The pairwise measures (M, M)."""
        ...


@dataclass(frozen=True)
class Agreement:
    """Of ``decisions`` between classes: how often both of two members are right and how often they say the same (M, M), and
    how often each says each class (M, C)."""

    decisions: int
    right: Codes
    same: Codes
    said: Codes

    def __add__(self, other: Agreement) -> Agreement:
        together = (self.right + other.right, self.same + other.same, self.said + other.said)
        return Agreement(self.decisions + other.decisions, *together)

    def tables(self) -> dict[str, Floats]:
        n, each = self.decisions, np.diag(self.right)
        a, b, c = self.right / n, (each[:, None] - self.right) / n, (each - self.right) / n
        d = (n - each[:, None] - each + self.right) / n
        agree, named = self.same / n, self.said / n
        chance = named @ named.T
        return {
            "disagreement": 1 - agree,
            "q": _ratio(a * d - b * c, a * d + b * c),
            "kappa": _ratio(agree - chance, 1 - chance),
            "double_fault": d,
            "correlation": _ratio(a * d - b * c, np.sqrt((a + b) * (c + d) * (a + c) * (b + d))),
        }


@dataclass(frozen=True)
class Errors:
    """Of ``rows``: the members' mean errors (M,), the summed products of what their errors are away from these (M, M), and the
    summed squared differences of what two members say (M, M)."""

    rows: int
    means: Floats
    products: Floats
    gaps: Floats

    def __add__(self, other: Errors) -> Errors:
        """Chan, Golub and LeVeque 1983, for products."""
        rows = self.rows + other.rows
        share, apart = other.rows / max(rows, 1), other.means - self.means
        products = self.products + other.products + self.rows * share * np.outer(apart, apart)
        return Errors(rows, self.means + share * apart, products, self.gaps + other.gaps)

    def tables(self) -> dict[str, Floats]:
        largest = self.products.diagonal().max() or 1.0  # in units of the largest, so that the target's unit doesn't matter
        size = np.sqrt(self.products.diagonal() / largest)
        return {
            "disagreement": np.sqrt(self.gaps / self.rows),
            "correlation": _ratio(self.products / largest, np.outer(size, size)),
        }


def agreement(target: Codes, said: Codes, classes: int) -> Agreement:
    """Count what M members say (M, N) of rows whose classes are known (N,)."""
    members = len(said)
    said = said.astype(np.min_scalar_type(max(classes - 1, 0)))
    right = (said == target.astype(said.dtype)).astype(np.float32)
    same = np.empty((members, members), np.int64)
    for i in range(members):
        same[i, i:] = same[i:, i] = np.count_nonzero(said[i:] == said[i], axis=1)
    counts = np.stack([np.bincount(own, minlength=classes) for own in said])
    return Agreement(len(target), _whole_products(right), same, counts)


def _whole_products(table: NDArray[np.float32]) -> Codes:
    """``table @ table.T`` of 0 and 1 (M, N); exact, as single precision counts up to 2²⁴."""
    step = 1 << 24
    parts = [table[:, start : start + step] for start in range(0, max(table.shape[1], 1), step)]
    return np.asarray(sum((part @ part.T).astype(np.int64) for part in parts))


def errors(target: Floats, values: Floats) -> Errors:
    """Sum up what M members say (M, N) of rows whose values are known (N,)."""
    v = np.asarray(values, np.float64)
    error = v - target
    means = error.mean(1) if len(target) else np.zeros(len(v))
    apart = error - means[:, None]
    return Errors(len(target), means, apart @ apart.T, np.stack([((v - own) ** 2).sum(1) for own in v]))


def classification_diversity(target: Codes, probabilities: Floats) -> dict[str, Floats]:
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
    return _of_classes(target, Predicted(np.asarray(probabilities))).tables()


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
    return _of_labels(target, Predicted(np.asarray(probabilities))).tables()


def regression_diversity(target: Floats, values: Floats) -> dict[str, Floats]:
    """Pairwise ``correlation`` of the members' errors, and ``disagreement``: the root mean squared difference of two members.

    Args:
        target: values (N,).
        values: what each member says (M, N).
    """
    return errors(target, values).tables()


def _of_classes(target: NDArray[Any], said: Predicted) -> Agreement:
    return agreement(target, said.values.argmax(2), said.values.shape[2])


def _of_labels(target: NDArray[Any], said: Predicted) -> Agreement:
    known = ~np.isnan(target)
    return agreement(target[known].astype(np.int64), (said.values[:, known] > 0.5).astype(np.uint8), 2)


def _of_values(target: NDArray[Any], said: Predicted) -> Errors:
    """Of the values said, and of quantiles the level that stands for the median."""
    column = 0 if said.levels is None else middle(said.levels)
    return errors(target, said.values[:, :, column])


COUNTED: dict[Kind, Callable[[NDArray[Any], Predicted], Any]] = {
    "classification": _of_classes,
    "ordinal": _of_classes,
    "multilabel": _of_labels,
    "regression": _of_values,
    "quantile": _of_values,
}
"""What is counted of some rows for each kind of target: see :class:`Counted`."""


def _measure(kind: Kind) -> Callable[[NDArray[Any], Predicted], dict[str, Floats]]:
    def tables(target: NDArray[Any], said: Predicted) -> dict[str, Floats]:
        counted: Counted = COUNTED[kind](target, said)
        return counted.tables()

    return tables


DIVERSITY: dict[Kind, Callable[[NDArray[Any], Predicted], dict[str, Floats]]] = {kind: _measure(kind) for kind in COUNTED}
"""The measures of each kind of target, of what M members say: ``values`` (M, N, ...), and the quantiles' ``levels``."""


def mean_pair(table: Floats) -> float:
    """The mean over all pairs of two different members, NaN left out."""
    pairs = np.asarray(table)[np.triu_indices(len(table), 1)]
    known = pairs[~np.isnan(pairs)]
    return float(known.mean()) if len(known) else float("nan")


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=np.abs(whole) > 1e-12)
