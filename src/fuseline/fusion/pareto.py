"""Pareto fronts, and paths through the subsets of many members.

Shapes: S subsets or points, M members, Q objectives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]
"""Which members subsets consist of (S, M)."""

BLOCK = 256
"""So many points are compared with the others at a time."""


def non_dominated(points: Floats) -> NDArray[np.bool_]:
    """Which points (S, Q) no other dominates, lower being better: none is at most as high everywhere and lower somewhere.

    A point that dominates another comes before it in lexicographic order, so each is compared with the front so far alone.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0]])).tolist()
    [True, True, False, True]
    """
    front = np.zeros(len(points), bool)
    kept = points[:0]
    order = np.lexsort(points.T[::-1])
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        some = points[block]
        stays = ~_dominated(some, np.vstack([kept, some]))
        front[block[stays]] = True
        kept = np.vstack([kept, some[stays]])
    return front


def _dominated(points: Floats, rivals: Floats) -> NDArray[np.bool_]:
    no_worse = np.ones((len(points), len(rivals)), bool)
    better = np.zeros_like(no_worse)
    for own, other in zip(points.T, rivals.T, strict=True):
        no_worse &= other <= own[:, None]
        better |= other < own[:, None]
    return np.asarray((no_worse & better).any(1))


def rounded(values: Floats) -> Floats:
    """Numbers to 40 binary digits (12 decimal ones), so that sums of the same parts in another order count as equal.

    >>> 0.1 + 0.2 == 0.3, bool(rounded(np.array(0.1 + 0.2)) == rounded(np.array(0.3)))
    (False, True)
    """
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(mantissa * 2.0**40) / 2.0**40, exponent))


def thinned(points: Floats, most: int, always: int) -> NDArray[np.int64]:
    """At most so many positions in a front (S, Q), by ascending first objective.

    Kept first are ``always`` and the best by each objective; then the points that are on the front without the second objective
    too (diversity, which puts many on it), and then the others: as many as fit, evenly spread by rank in the first objective.
    """
    order = np.argsort(points[:, 0], kind="stable")
    chosen = list(dict.fromkeys([always, *points.argmin(0).tolist()]))[:most]
    core = non_dominated(np.delete(points, 1, axis=1))
    for part in (order[core[order]], order[~core[order]]):
        left = part[~np.isin(part, chosen)]
        count = min(len(left), most - len(chosen))
        chosen += left[np.linspace(0, len(left) - 1, count).round().astype(int)].tolist()
    return order[np.isin(order, chosen)]


def all_subsets(members: int) -> Masks:
    """Every subset but the empty one (2ᴹ − 1, M).

    >>> all_subsets(2).tolist()
    [[True, False], [False, True], [True, True]]
    """
    return (np.arange(1, 2**members)[:, None] >> np.arange(members) & 1).astype(bool)


def all_pairs(members: int) -> Masks:
    """Every subset of two (M(M − 1)/2, M).

    >>> all_pairs(3).tolist()
    [[True, True, False], [True, False, True], [False, True, True]]
    """
    first, second = np.triu_indices(members, 1)
    alone = np.eye(members, dtype=bool)
    return np.asarray(alone[first] | alone[second])


def walk(start: NDArray[np.bool_], forward: bool, ranks: Callable[[Masks], NDArray[np.integer]]) -> None:
    """Step from a subset (M,) on to all members (forward selection), or down to one (backward elimination), one at a time.

    Args:
        ranks: positions of the subsets that a step may lead to, the best first; it is what remembers them.
    """
    now = start
    while (count := int((now != forward).sum())) > (0 if forward else 1):
        steps = np.repeat(now[None], count, axis=0)
        steps[np.arange(count), np.flatnonzero(now != forward)] = forward
        now = steps[ranks(steps)[0]]
