"""How much better one model is than another on the same rows, with bounds that keep their level in small samples too.

Shapes: N rows, U units of rows that say the same thing twice (rows of equal content, or of one group).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.floating[Any]]


class Gain(NamedTuple):
    """A mean gain per row, and its lower and upper bound, each of which is one-sided."""

    value: float
    low: float
    high: float


def level_of(attempt: int, level: float) -> float:
    """α_k = α / (k (k + 1)), the level at which the k-th challenger is judged on the same test rows.

    The sum over all k telescopes: Σ α (1/k − 1/(k + 1)) = α. By the union bound, of endless challengers that are no better than
    the champion one is promoted with a probability of at most α, however their gains depend on each other: a spending of the
    level in advance, as Lan and DeMets (1983) spend it over the looks at a trial.

    >>> level_of(1, 0.06), round(sum(level_of(k, 0.06) for k in range(1, 1000)), 4)
    (0.03, 0.0599)
    """
    return level / (attempt * (attempt + 1))


def paired_gain(gains: Floats, weights: Floats, units: NDArray[np.integer[Any]], level: float, smallest: float = 0.0) -> Gain:
    """The mean gain Σ g_i / Σ w_i and its bounds, each with an error of ``level``.

    A bound is the wider one of two. Student's t over the units' sums is right for gains that are spread evenly about their mean,
    as those of two trainings of one recipe are. Where they are skewed, because a challenger wins little on most rows and loses
    much on a few, it errs by order U^-1/2; the cubic transformation of Hall (1992, "On the removal of skewness by
    transformation", JRSS B 54, equation 2.4) of Johnson's (1978) modified t takes that error away. For accuracy this comes close
    to McNemar's exact test: of two equal models with 200 rows or 50 it promotes no more often than it may.

    Args:
        gains: what each row adds (N,), challenger minus champion, more being better.
        weights: how much each row counts (N,); 1, or the number of its known labels.
        units: the number of each row's unit (N,).
        level: the error of each bound.
        smallest: what a row can lose at the most, where that is known. If no row tells the two apart, the lower bound is that of
            Clopper and Pearson (1934) for none of U: −``smallest`` (1 − level^(1/U)).

    >>> gain = paired_gain(np.array([1.0, 0, 0, 1, 0, -1, 1, 0]), np.ones(8), np.arange(8), 0.05)
    >>> round(gain.value, 3), round(gain.low, 3), round(gain.high, 3)
    (0.25, -0.235, 0.724)
    """
    sums, sizes = _by_unit(gains, units), _by_unit(weights, units)
    count, value = len(sums), float(sums.sum() / sizes.sum())
    if count < 2 or not np.isfinite(sums).all():
        return Gain(value, float("nan"), float("nan"))
    rests = (sums - value * sizes) / sizes.mean()
    spread = float(np.sqrt((rests**2).mean()))
    if spread <= 1e-12 * max(1.0, abs(value)):
        reach = smallest * (1 - level ** (1 / count))
        return Gain(value, value - reach, value + reach)
    skew = float((rests**3).mean() / spread**3)
    quantile = -float(stdtrit(count - 1, level)) / np.sqrt(count)
    straight = quantile * np.sqrt(count / (count - 1))
    below = max(straight, _hall(quantile, skew, count))
    above = max(straight, -_hall(-quantile, skew, count))
    return Gain(value, float(value - spread * below), float(value + spread * above))


def _hall(y: float, skew: float, count: int) -> float:
    """W with W + γW²/3 + γ²W³/27 + γ/(6n) = y: how many standard deviations the mean is away from its bound."""
    if abs(skew) < 1e-9:
        return y
    return float(3 / skew * (np.cbrt(1 + skew * (y - skew / (6 * count))) - 1))


def _by_unit(values: Floats, units: NDArray[np.integer[Any]]) -> Floats:
    _, number = np.unique(units, return_inverse=True)
    return np.asarray(np.bincount(number, np.asarray(values, np.float64)), np.float64)
