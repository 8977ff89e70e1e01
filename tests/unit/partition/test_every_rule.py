"""What holds for every partition rule, whatever it looks at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseline.component import Component, complete
from fuseline.partition import PARTITIONS, Pool, Share, Shares, hold_out

SEEDS = st.integers(0, 2**32 - 1)
SETTINGS = {"by_group": {"column": "g"}, "dirichlet": {"least": 2, "alpha": 5.0}, "by_class": {"rest_fraction": 0.5}}
Make = Callable[..., Pool]
Generators = Callable[..., list[np.random.Generator]]


def divide(rule: str, pool: Pool, members: list[np.random.Generator], seed: int) -> Shares:
    component = complete(Component(name=rule, settings=SETTINGS.get(rule, {})), PARTITIONS, "partition")
    return PARTITIONS[rule](pool, members, np.random.default_rng(seed), **component.settings)


def pool_for(rule: str, pool_of: Make, seed: int, unit_size: int, unknown: float) -> Pool:
    """Units of random rows would join all groups into one."""
    return pool_of(seed, unit_size=1 if rule == "by_group" else unit_size, unknown=unknown)


def same(a: Share, b: Share) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("train", "holdout", "judged", "view", "own"))


@pytest.mark.parametrize("rule", PARTITIONS)
@settings(max_examples=12)
@given(seed=SEEDS, members=st.integers(1, 4), unit_size=st.integers(1, 2), unknown=st.sampled_from([0.0, 0.2]))
def test_shares_are_rows_of_the_pool_and_come_again_from_the_same_seeds(
    rule: str, pool_of: Make, generators: Generators, seed: int, members: int, unit_size: int, unknown: float
) -> None:
    pool = pool_for(rule, pool_of, seed, unit_size, unknown)
    first, again = (divide(rule, pool, generators(members, seed), seed) for _ in range(2))
    assert len(first) == members
    for replicas, others in zip(first, again, strict=True):
        assert len(replicas) == len(others) > 0
        for share, other in zip(replicas, others, strict=True):
            assert same(share, other)
            assert set(share.train) <= set(pool.rows)
            assert share.train.dtype == np.int64
            assert (np.diff(share.train) >= 0).all()
            assert len(share.holdout) == 0


@pytest.mark.parametrize("rule", PARTITIONS)
@settings(max_examples=8)
@given(seed=SEEDS, unit_size=st.integers(1, 2), unknown=st.sampled_from([0.0, 0.3]))
def test_rows_can_be_held_out_of_every_share(
    rule: str, pool_of: Make, generators: Generators, seed: int, unit_size: int, unknown: float
) -> None:
    pool = pool_for(rule, pool_of, seed, unit_size, unknown)
    for share, *_ in divide(rule, pool, generators(3, seed), seed):
        held = hold_out(share, pool, 0.25, np.random.default_rng(seed))
        assert set(held.train) | set(held.holdout) == set(share.train)
        units = [set(pool.units[np.isin(pool.rows, rows)]) for rows in (held.train, held.holdout)]
        assert not units[0] & units[1]
        assert len(held.holdout) > 0
        assert np.array_equal(held.view, share.view)
        assert np.array_equal(held.own, share.own)


@pytest.mark.parametrize("rule", ["disjoint", "dirichlet", "by_group", "cluster"])
@settings(max_examples=12)
@given(seed=SEEDS, members=st.integers(1, 4), unit_size=st.integers(1, 3), unknown=st.sampled_from([0.0, 0.2]))
def test_every_row_goes_to_one_member_and_units_stay_whole(
    rule: str, pool_of: Make, generators: Generators, seed: int, members: int, unit_size: int, unknown: float
) -> None:
    pool = pool_for(rule, pool_of, seed, unit_size, unknown)
    shares = [share.train for (share,) in divide(rule, pool, generators(members, seed), seed)]
    assert np.sort(np.concatenate(shares)).tolist() == pool.rows.tolist()
    owner = np.array([next(m for m, rows in enumerate(shares) if row in rows) for row in pool.rows])
    assert all(len(np.unique(owner[pool.units == unit])) == 1 for unit in np.unique(pool.units))
