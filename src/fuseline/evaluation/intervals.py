"""Intervals: bootstrap percentiles over rows, the same resamples for every candidate, so that differences are paired."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fuseline.evaluation.metrics import FAMILIES, LOWER_IS_BETTER, SHARES, UNDIRECTED, Predicted
from fuseline.evaluation.metrics.common import Counts
from fuseline.evaluation.room import Room
from fuseline.terms import Kind

Floats = NDArray[np.floating[Any]]


class Interval(NamedTuple):
    """A value and the bounds of its interval."""

    value: float
    low: float
    high: float


class Scores(NamedTuple):
    """A candidate's metrics: as points, and of each resample (B,); ``rows`` says how many independent rows they stand on."""

    point: dict[str, float]
    resampled: dict[str, Floats]
    rows: float


DRAWN = 1 << 22
"""So many counts are drawn at once, 32 MB; how many changes nothing of what is drawn."""


def resamples(
    units: NDArray[np.integer[Any]], count: int, generator: np.random.Generator, room: Room = np.empty
) -> NDArray[np.uint8]:
    """How often each of ``count`` bootstrap resamples draws each row (count, N) (Efron 1979).

    Units (N,) are drawn as wholes, since rows of equal content or of one group say the same thing twice. A byte holds a count:
    that a unit among any number is drawn more than 255 times has a probability below 10⁻⁵⁰⁰. Row by row they lie side by side.

    Args:
        room: gives the array that they are written to.
    """
    _, number = np.unique(units, return_inverse=True)
    n = int(number.max()) + 1
    counts = room((len(units), count), np.uint8)
    size = max(1, DRAWN // max(n, len(units)))
    for start in range(0, count, size):
        drawn = generator.multinomial(n, np.full(n, 1 / n), size=min(size, count - start))
        counts[:, start : start + size] = drawn.astype(np.uint8).T[number]
    return counts.T


def independent_rows(units: NDArray[np.integer[Any]]) -> float:
    """How many independent rows the rows are worth, if those of a unit (N,) all say the same: (Σ n_u)² / Σ n_u² (Kish 1965).

    >>> independent_rows(np.array([0, 0, 1, 1])), independent_rows(np.arange(5))
    (2.0, 5.0)
    """
    sizes = np.unique(units, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def score(kind: Kind, target: NDArray[Any], predicted: Predicted, weights: Counts, names: list[str], rows: float) -> Scores:
    """The metrics ``names`` of what is said of N rows, and of its resamples; no others are computed.

    Args:
        kind: of the target.
        target: codes or values (N,), or labels (N, C) with NaN where one is not known.
        predicted: what is said.
        weights: how often each resample draws each row (B, N).
        names: some of ``METRICS[kind]``.
        rows: how many independent rows the N are worth.
    """
    found = FAMILIES[kind].measured(target, predicted, weights, names)
    return Scores({name: float(v[0]) for name, v in found.items()}, {name: v[1:] for name, v in found.items()}, rows)


def interval(scores: Scores, name: str, level: float) -> Interval:
    """The percentile interval of a metric; for a share of the rows the Wilson score interval (Wilson 1927).

    The bootstrap says [1, 1] of an accuracy of 1 on whatever few rows; Wilson's interval does not. ``hamming_accuracy`` is a
    share of labels, and those of one row depend on each other, so its interval is by resamples of rows.
    """
    value = scores.point[name]
    if name in SHARES:
        return Interval(value, *_wilson(value, scores.rows, level))
    return Interval(value, *_percentiles(scores.resampled[name], level))


def paired_gain(candidate: Scores, reference: Scores, name: str, level: float) -> Interval:
    """How much better the candidate is than the reference, with its paired interval; above 0 is better.

    Raises:
        ValueError: neither more nor less of the metric is better, as of a coverage.
    """
    if name in UNDIRECTED:
        raise ValueError(f"neither more nor less {name} is better")
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    gains = sign * (candidate.resampled[name] - reference.resampled[name]) + 0.0  # no gain is 0 and not −0
    return Interval(sign * (candidate.point[name] - reference.point[name]) + 0.0, *_percentiles(gains, level))


def _wilson(share: float, rows: float, level: float) -> tuple[float, float]:
    z = float(norm.ppf((1 + level) / 2))
    center = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return float(max(center - reach, 0.0)), float(min(center + reach, 1.0))


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
