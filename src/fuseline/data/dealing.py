"""Dealing rows out by shares: evenly within strata, whole units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def deal(strata: Numbers, units: Numbers, shares: Sequence[float], generator: np.random.Generator) -> Numbers:
    """Deal rows to hands by their shares, spread evenly along the strata.

    Units in random order, stratum after stratum, go one by one to the hand that is furthest behind its share: so each hand
    has its share of the units to within one, and of those of each stratum to within two.

    Args:
        strata: the stratum of each row (n,); a unit belongs to that of its first row.
        units: the unit of each row (n,); rows of one unit are never parted.
        shares: what each hand is to get; they add up to 1.

    Returns:
        The hand of each row (n,).

    >>> deal(np.zeros(8, int), np.arange(8), [0.75, 0.25], np.random.default_rng(0)).tolist().count(1)
    2
    """
    _, first, number = np.unique(units, return_index=True, return_inverse=True)
    order = generator.permutation(len(first))
    order = order[np.argsort(strata[first][order], kind="stable")]
    wanted, given = np.asarray(shares, np.float64), np.zeros(len(shares))
    hand = np.empty(len(first), np.int64)
    for step, unit in enumerate(order, start=1):
        chosen = int(np.argmax(np.round(wanted * step - given, 9)))
        given[chosen] += 1
        hand[unit] = chosen
    return hand[number]
