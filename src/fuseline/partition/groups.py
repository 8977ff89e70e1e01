# ruff: noqa: ARG001 - every rule takes the same arguments
"""``by_group``: members that each know some of the groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fuseline.errors import RecipeError
from fuseline.partition.shares import Generators, Pool, Share, Shares


def by_group(pool: Pool, members: Generators, generator: np.random.Generator, *, column: str) -> Shares:
    """Whole groups, those rows that have one value in ``column`` (a site, a person, a device): each goes to exactly one member.

    Groups that share a unit, such as rows of equal inputs, go together. The largest goes first, each to the member with the
    fewest rows so far (LPT, Graham 1969: the largest share is at most 4/3 − 1/(3M) times as large as it must be). No chance is
    in it: every seed gives the same shares. Rows without a value form one group of their own. Where one group holds most of
    the rows, so does one member.

    Args:
        column: the column whose values are the groups; it may be an input too.

    Raises:
        RecipeError: there are fewer groups than members.
    """
    assert pool.dataset is not None, "the rule reads a column"
    assert pool.dataset.group is not None, "the data set was prepared without the column"
    group = np.unique(pool.dataset.group[pool.rows], return_inverse=True)[1]
    block = _blocks(group, pool.units)
    groups, blocks = int(group.max()) + 1, int(block.max()) + 1
    if blocks < len(members):
        joined = f", and {blocks} once those are joined that have rows of one unit" if blocks < groups else ""
        text = f"the groups of {column!r} among the training rows number {groups}{joined}, for {len(members)} members"
        raise RecipeError(f"partition.by_group.column: {text}; use fewer members or another column.")
    member = _longest_first(np.bincount(block), len(members))[block]
    return [[Share(pool.rows[member == m])] for m in range(len(members))]


def _blocks(group: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers (n,) of the smallest blocks of rows that part neither a group nor a unit."""
    unit = np.unique(units, return_inverse=True)[1]
    nodes = int(group.max()) + 1
    links = coo_array((np.ones(len(group)), (group, nodes + unit)), shape=(nodes + int(unit.max()) + 1,) * 2)
    component = connected_components(links, directed=False)[1][group]
    return np.unique(component, return_inverse=True)[1].astype(np.int64)


def _longest_first(sizes: NDArray[np.int64], members: int) -> NDArray[np.int64]:
    """The member of each block: the largest block first, to the member with the least so far, ties to the first.

    >>> _longest_first(np.array([2, 5, 4, 3, 3]), 2).tolist()
    [1, 0, 1, 1, 0]
    """
    filled = np.zeros(members, np.int64)
    member = np.empty(len(sizes), np.int64)
    for block in np.argsort(-sizes, kind="stable"):
        member[block] = np.argmin(filled)
        filled[member[block]] += sizes[block]
    return member
