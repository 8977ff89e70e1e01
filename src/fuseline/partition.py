"""Partition rules: which training rows each member learns from.

A rule is a function ``(rows, members, generator, *, settings) → shares``, where ``shares[m]`` holds one share per replica of
member m. All rows are positions in the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fuseline.data.dealing import deal
from fuseline.errors import RecipeError

Rows = NDArray[np.int64]


def _none() -> Rows:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Pool:
    """The training rows to divide.

    Attributes:
        rows: positions in the data set (n,).
        strata: their stratum (n,), classes for a classification.
        units: their unit (n,); rows of one unit are never parted.
    """

    rows: Rows
    strata: NDArray[np.int64]
    units: NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """What one replica of a member sees: rows to train on, its own held-out rows for early stopping, and the rows that it is
    the one to judge out of fold."""

    train: Rows
    holdout: Rows = field(default_factory=_none)
    judged: Rows = field(default_factory=_none)


Generators = Sequence[np.random.Generator]
Shares = list[list[Share]]
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


PARTITIONS: dict[str, Callable[..., Shares]] = {
    "full": full,
    "bootstrap": bootstrap,
    "kfold": kfold,
    "disjoint": disjoint,
}


def _folds(pool: Pool, folds: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return deal(pool.strata, pool.units, [1 / folds] * folds, generator)


def hold_out(share: Share, pool: Pool, fraction: float, generator: np.random.Generator) -> Share:
    """Set ``fraction`` of a share's rows aside for early stopping, stratified, whole units, every copy of a drawn row."""
    distinct = np.unique(share.train)
    at = np.searchsorted(pool.rows, distinct)
    fraction = max(fraction, 1 / max(1, len(np.unique(pool.units[at]))))  # one unit at least
    aside = distinct[deal(pool.strata[at], pool.units[at], [1 - fraction, fraction], generator) == 1]
    return Share(share.train[~np.isin(share.train, aside)], aside, share.judged)


def check_shares(shares: Shares, names: Sequence[str], targets: dict[str, NDArray[Any]], classes: dict[str, int]) -> None:
    """Refuse a partition that leaves a member without rows, or with one class only.

    Args:
        targets: class codes of each classification target (N,).
        classes: how many classes each of them has.
    """
    for name, replicas in zip(names, shares, strict=True):
        for share in replicas:
            if len(share.train) < 2:
                text = f"partition: member {name!r} would get {len(share.train) or 'no'} training rows"
                raise RecipeError(f"{text}; use fewer members or more data.")
            for target, width in classes.items():
                if width > 1 and len(np.unique(targets[target][share.train])) < 2:
                    raise RecipeError(f"partition: member {name!r} would see one class of {target!r} only; use another rule.")


def overlap(shares: Shares) -> NDArray[np.float64]:
    """Pairwise overlap of members' training rows (M, M): the Jaccard index of the sets, |A ∩ B| / |A ∪ B|."""
    sets = [np.unique(np.concatenate([s.train for s in replicas])) for replicas in shares]
    table = np.ones((len(sets), len(sets)))
    for i, a in enumerate(sets):
        for j in range(i):
            common = len(np.intersect1d(a, sets[j], assume_unique=True))
            table[i, j] = table[j, i] = common / (len(a) + len(sets[j]) - common)
    return table
