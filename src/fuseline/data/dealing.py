"""Dealing rows out by shares: evenly within strata, whole units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]

LONGEST = 1000
"""After at most so many turns they must repeat, to be dealt in arrays rather than one by one."""


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
    hand = np.empty(len(first), np.int64)
    hand[order] = _turns(np.asarray(shares, np.float64), len(first))
    return hand[number]


def _turns(wanted: Floats, count: int) -> Numbers:
    """Whose turn it is: each time that of the first hand furthest behind its share.

    Once all hands have their shares exactly, as with shares in hundredths after at most a hundred turns, the turns repeat. What
    is repeated is checked, and counted out one by one where the errors of rounding, after millions, would have it otherwise.
    """
    turns = _counted_out(wanted, min(count, LONGEST))
    steps = np.arange(1, len(turns) + 1)
    given = np.cumsum(turns[:, None] == np.arange(len(wanted)), axis=0)
    even = np.flatnonzero((np.round(wanted * steps[:, None] - given, 9) == 0).all(1))
    if count <= LONGEST or not len(even):
        return turns if count <= LONGEST else _counted_out(wanted, count)
    repeated = np.resize(turns[: even[0] + 1], count)
    return repeated if _holds(wanted, repeated) else _counted_out(wanted, count)


def _counted_out(wanted: Floats, count: int) -> Numbers:
    given, turns = np.zeros(len(wanted)), np.empty(count, np.int64)
    for step in range(count):
        turns[step] = np.argmax(np.round(wanted * (step + 1) - given, 9))
        given[turns[step]] += 1
    return turns


def _holds(wanted: Floats, turns: Numbers) -> bool:
    """Whether these are the turns that one would count out."""
    given = np.zeros(len(wanted))
    for start in range(0, len(turns), LONGEST):
        some = turns[start : start + LONGEST]
        own = some[:, None] == np.arange(len(wanted))
        after = given + np.cumsum(own, axis=0)
        steps = np.arange(start + 1, start + 1 + len(some))
        if (np.round(wanted * steps[:, None] - (after - own), 9).argmax(1) != some).any():
            return False
        given = after[-1]
    return True
