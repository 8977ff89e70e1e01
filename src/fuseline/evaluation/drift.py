"""Drift: whether new rows come from where the first ones came from, column by column, from what is kept of both.

Numbers are compared by the two-sample test of Kolmogorov and Smirnov, counts by the χ² test of homogeneity; the false discovery
rate over all of an evaluation's tests is kept at a level. With many rows every difference is significant, and with few rows a
large one is seen by chance; so only what is both, significant and large by the population stability index, is called drift.
All tests take the rows to be independent: where groups of rows say the same, the p-values are too small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, false_discovery_control, kstwo

from fuseline.evaluation.sketch import Numbers, Sketch, Words
from fuseline.recipe import Drift

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]
Size = Literal["stable", "moderate", "large"]

EXPECTED = 5.0
"""A cell of a χ² test is expected to hold so many, else it is merged with others (Cochran 1954)."""


class Shift(NamedTuple):
    """How one thing has changed.

    Attributes:
        part: ``inputs``, ``predictions`` or ``disagreement``.
        name: the column, or the target and what of its prediction.
        test: ``ks``, ``chi2``, or ``missing``: a χ² test of how many values are missing.
        statistic: the largest distance of the distribution functions, or χ².
        p: of the test alone.
        q: corrected for all tests; among those of at most this q, so large a share is expected to be no drift.
        psi: the population stability index.
        size: what it amounts to.
        then, now: the means of numbers, or the shares of what is missing; NaN of words.
        rows: how many there are now.
    """

    part: str
    name: str
    test: str
    statistic: float
    p: float
    q: float
    psi: float
    size: Size
    then: float
    now: float
    rows: int


def shifts(then: Mapping[str, Mapping[str, Sketch]], now: Mapping[str, Mapping[str, Sketch]], rule: Drift) -> list[Shift]:
    """All tests of an evaluation, by part and name, those of the largest index first.

    Args:
        then: what is kept of the reference, by part and name.
        now: of the new rows, in the same cells.
        rule: the level, the correction and the bounds.
    """
    found = [
        test._replace(part=part)
        for part, sketches in then.items()
        for name, sketch in sketches.items()
        for test in _tests(name, sketch, now[part][name], rule.bins)
    ]
    if not found:
        return []
    q = false_discovery_control([test.p for test in found], method=rule.correction)
    sized = [test._replace(q=float(own), size=_size(float(own), test.psi, rule)) for test, own in zip(found, q, strict=True)]
    return sorted(sized, key=lambda shift: -shift.psi)


def largest(found: Sequence[Shift]) -> Size:
    """The size of the largest drift among some.

    >>> largest([])
    'stable'
    """
    sizes = {shift.size for shift in found}
    return "large" if "large" in sizes else "moderate" if "moderate" in sizes else "stable"


def kolmogorov_smirnov(then: Numbers, now: Numbers) -> tuple[float, float]:
    """The largest distance between two distribution functions at the edges, and its p-value (Hodges 1958, as scipy's
    ``ks_2samp(method="asymp")`` has it).

    Between the edges the distance may be larger by less than 1/256 (see :mod:`fuseline.evaluation.sketch`), so that the p-value
    is never too small.
    """
    distance = float(np.abs(then.below - now.below).max())
    rows = then.known * now.known / (then.known + now.known)
    return distance, float(np.clip(kstwo.sf(distance, max(1, round(rows))), 0, 1))


def homogeneity(then: Counts, now: Counts) -> tuple[float, float]:
    """χ² and its p-value for two rows of counts (K,) of the same things; what is rare is merged.

    >>> homogeneity(np.array([30, 30]), np.array([30, 30]))
    (0.0, 1.0)
    """
    table = _merged(np.stack([then, now]))
    if table.shape[1] < 2 or not table.sum(1).all():
        return 0.0, 1.0
    result = chi2_contingency(table, correction=False)
    return float(result.statistic), float(result.pvalue)


def stability_index(then: Counts, now: Counts) -> float:
    """The population stability index Σ (aᵢ − eᵢ) ln(aᵢ / eᵢ) of the shares e then and a now (Siddiqi 2006, chapter 9).

    It is the symmetric divergence of Kullback and Leibler. So that empty cells have a logarithm, half a row is added to each
    cell of both. Without any change its mean is near (K − 1)(1/n + 1/m) (Yurdakul 2018): 0.18 for ten cells and a hundred
    rows each, which is why it is never looked at without a test.

    >>> round(stability_index(np.array([500, 500]), np.array([600, 400])), 3)
    0.04
    """
    e, a = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (then, now))
    return float(((a - e) * np.log(a / e)).sum())


def coarse(then: Numbers, now: Numbers, bins: int) -> tuple[Counts, Counts]:
    """The counts of both in at most so many bins, which hold nearly equal shares of the reference: cells are put together by the
    middle of what they hold of its distribution. What lies outside the reference counts for its outer bins."""
    end = np.cumsum(then.counts)
    middle = (end - then.counts / 2) / max(then.known, 1)
    bin_ = np.minimum((middle * bins).astype(np.int64), bins - 1)
    place = np.unique(bin_, return_inverse=True)[1]
    both = (np.bincount(place, sketch.counts).astype(np.int64) for sketch in (then, now))
    first, second = both
    return first, second


def _tests(name: str, then: Sketch, now: Sketch, bins: int) -> list[Shift]:
    """The tests of one thing; without rows on both sides there is nothing to test."""
    found = []
    if then.known and now.known:
        found.append(_of_words(name, then, now) if isinstance(then, Words) else _of_numbers(name, then, now, bins))
    if isinstance(then, Numbers) and isinstance(now, Numbers) and (then.missing or now.missing):
        found += _of_missing(name, then, now)
    return found


def _of_words(name: str, then: Words, now: Sketch) -> Shift:
    merged = _merged(np.stack([then.counts, now.counts]))
    return _shift(name, "chi2", homogeneity(then.counts, now.counts), stability_index(*merged), (math.nan, math.nan), now.known)


def _of_numbers(name: str, then: Numbers, now: Sketch, bins: int) -> Shift:
    assert isinstance(now, Numbers)
    index = stability_index(*coarse(then, now, bins))
    return _shift(name, "ks", kolmogorov_smirnov(then, now), index, (then.mean, now.mean), now.known)


def _of_missing(name: str, then: Numbers, now: Numbers) -> list[Shift]:
    first, second = (np.array([sketch.missing, sketch.known]) for sketch in (then, now))
    if not first.sum() or not second.sum():
        return []
    shares = (float(first[0] / first.sum()), float(second[0] / second.sum()))
    return [_shift(name, "missing", homogeneity(first, second), stability_index(first, second), shares, int(second.sum()))]


def _shift(name: str, test: str, found: tuple[float, float], psi: float, middle: tuple[float, float], rows: int) -> Shift:
    return Shift("", name, test, *found, q=1.0, psi=psi, size="stable", then=middle[0], now=middle[1], rows=rows)


def _merged(table: Counts) -> Counts:
    """A table of two rows whose cells that are expected to hold too few are put together in one, and that one, if it still does,
    with the smallest of the others."""
    rare = table.sum(0) * table.sum(1).min() / max(table.sum(), 1) < EXPECTED
    kept, rest = table[:, ~rare], table[:, rare].sum(1, keepdims=True)
    if not rest.any():
        return kept
    if kept.shape[1] and rest.sum() * table.sum(1).min() / table.sum() < EXPECTED:
        kept = kept.copy()
        kept[:, [kept.sum(0).argmin()]] += rest
        return kept
    return np.hstack([kept, rest])


def _size(q: float, psi: float, rule: Drift) -> Size:
    if q > rule.level or psi < rule.moderate:
        return "stable"
    return "large" if psi >= rule.large else "moderate"
