"""What the metrics of all kinds share: how a prediction is handed over, and means that pass over what is not known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.integer[Any]]
Counts = NDArray[np.integer[Any]] | Floats
"""How often each resample draws each row: whole numbers of any type."""


class Predicted(NamedTuple):
    """What is said of N rows, whatever the kind of target; M members side by side where diversity is measured.

    Attributes:
        values: probabilities of classes or labels (N, C), values (N, 1) or quantiles (N, Q); of M members (M, N, ...).
        variances: of a regression's Gaussian (N, 1), positive; None if only values are said.
        levels: of the quantiles (Q,), ascending, between 0 and 1.
    """

    values: Floats
    variances: Floats | None = None
    levels: Floats | None = None

    def rows(self, some: slice) -> Predicted:
        """What is said of some of the rows."""
        return Predicted(self.values[some], None if self.variances is None else self.variances[some], self.levels)


def ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, and 0 where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def over(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, and NaN where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0))


def macro(scores: Floats) -> Floats:
    """The mean over the first axis of what is not NaN; NaN where all are."""
    known = ~np.isnan(scores)
    return over(np.where(known, scores, 0.0).sum(0), known.sum(0).astype(np.float64))
