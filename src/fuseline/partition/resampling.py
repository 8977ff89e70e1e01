# ruff: noqa: ARG001 - every rule takes the same arguments
"""Rules that look at no value of a row: all rows, draws with replacement, folds, and shards."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fuseline.data.dealing import deal
from fuseline.partition.shares import Generators, Pool, Share, Shares

Positive = Annotated[float, Field(gt=0, le=1)]
Folds = Annotated[int, Field(ge=2, le=50)]


def full(pool: Pool, members: Generators, generator: np.random.Generator) -> Shares:
    """Every member sees every training row; members differ by their seed and settings alone (Lakshminarayanan et al. 2017)."""
    return [[Share(pool.rows)] for _ in members]


def bootstrap(pool: Pool, members: Generators, generator: np.random.Generator, *, fraction: Positive = 1.0) -> Shares:
    """Each member draws ``fraction · n`` training rows with replacement, by its own generator (Breiman 1996, bagging)."""
    size = max(1, round(fraction * len(pool.rows)))
    return [[Share(np.sort(member.choice(pool.rows, size)))] for member in members]


def kfold(pool: Pool, members: Generators, generator: np.random.Generator, *, folds: Folds = 5) -> Shares:
    """K replicas of each member, each trained without one fold and judging that fold (van der Laan et al. 2007).

    Folds are stratified, the same for all members, and keep the rows of a unit together.
    """
    fold = _folds(pool, folds, generator)
    return [[Share(pool.rows[fold != k], judged=pool.rows[fold == k]) for k in range(folds)] for _ in members]


def disjoint(pool: Pool, members: Generators, generator: np.random.Generator) -> Shares:
    """Stratified shards: every training row goes to exactly one member."""
    if len(members) == 1:
        return [[Share(pool.rows)]]
    shard = _folds(pool, len(members), generator)
    return [[Share(pool.rows[shard == m])] for m in range(len(members))]


def _folds(pool: Pool, folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return deal(pool.strata, pool.units, [1 / folds] * folds, generator)
