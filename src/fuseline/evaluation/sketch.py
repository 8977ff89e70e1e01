"""What is kept of many rows so that later ones can be compared with them: counts in fixed cells, and never a row.

E edges e₁ < … < e_E cut the numbers into 2E + 1 cells: below e₁, e₁ itself, between e₁ and e₂, …, above e_E. So the distribution
function is known at each edge and just before it. The edges are quantiles of the first rows that were seen: strictly between two
of them lies less than 1/``MOST`` of those rows, so that the largest distance of their distribution function to any other one is
known to within 1/``MOST`` (and exactly, where a column has no more than ``MOST`` different values). Counts of different rows add
up, so that no more than a block of rows is ever looked at. Shapes: N rows, E edges, K words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 256
"""So many edges at the most, 6 kB in all: a distance of 1/256 is significant, at a level of 1 %, from 100,000 rows each on."""

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Numbers:
    """Numbers by their cells: ``edges`` (E,), ``counts`` (2E + 1,), how many were ``missing``, and the sums of the others and of
    their squares, both ``about`` a number near them, so that no digits are lost."""

    edges: Floats
    counts: Counts
    missing: int = 0
    about: float = 0.0
    sums: tuple[float, float] = (0.0, 0.0)

    @property
    def known(self) -> int:
        """How many there were."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return self.about + self.sums[0] / self.known if self.known else float("nan")

    @property
    def spread(self) -> float:
        """The standard deviation."""
        if not self.known:
            return float("nan")
        first, second = self.sums[0] / self.known, self.sums[1] / self.known
        return float(np.sqrt(max(second - first**2, 0.0)))

    @property
    def below(self) -> Floats:
        """The distribution function just before and at each edge, and 1 at last (2E + 1,)."""
        return np.cumsum(self.counts) / self.known

    def and_of(self, values: Floats) -> Numbers:
        """With further values (N,), NaN where they are missing."""
        known = np.asarray(values, np.float64)[~np.isnan(values)]
        cells = np.searchsorted(self.edges, known, "left") + np.searchsorted(self.edges, known, "right")
        apart = known - self.about
        return replace(
            self,
            counts=self.counts + np.bincount(cells, minlength=len(self.counts)),
            missing=self.missing + len(values) - len(known),
            sums=(self.sums[0] + float(apart.sum()), self.sums[1] + float((apart**2).sum())),
        )

    def empty(self) -> Numbers:
        """The same cells with nothing in them."""
        return Numbers(self.edges, np.zeros_like(self.counts), about=self.about)


@dataclass(frozen=True)
class Words:
    """How often each of some words was there: ``words`` and ``counts`` (K,)."""

    words: tuple[str, ...]
    counts: Counts

    @property
    def known(self) -> int:
        """How many there were."""
        return int(self.counts.sum())

    def and_of(self, codes: NDArray[np.integer[Any]]) -> Words:
        """With further ones, by their positions among the words (N,)."""
        return replace(self, counts=self.counts + np.bincount(codes, minlength=len(self.words)))

    def empty(self) -> Words:
        return Words(self.words, np.zeros_like(self.counts))


Sketch = Numbers | Words


def numbers(values: Floats) -> Numbers:
    """The cells of some numbers (N,), with NaN where they are missing, and what lies in them.

    >>> numbers(np.array([3.0, 1.0, np.nan, 3.0])).counts.tolist()  # below 1, 1, between, 3, above
    [0, 1, 0, 2, 0]
    """
    known = np.asarray(values, np.float64)[~np.isnan(values)]
    edges = np.unique(known)
    if len(edges) > MOST:
        levels = np.arange(1, MOST) / MOST
        edges = np.unique(np.quantile(known, levels, method="inverted_cdf"))
    about = float(np.median(edges)) if len(edges) else 0.0
    return Numbers(edges, np.zeros(2 * len(edges) + 1, np.int64), about=about).and_of(np.asarray(values))


def words(names: Sequence[str], codes: NDArray[np.integer[Any]]) -> Words:
    """How often each of some words is named by its position (N,).

    >>> words(("no", "yes"), np.array([1, 1, 0])).counts.tolist()
    [1, 2]
    """
    return Words(tuple(names), np.zeros(len(names), np.int64)).and_of(codes)
