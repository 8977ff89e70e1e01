"""Partition rules and the rows held out for early stopping, against sets, scikit-learn and the laws that they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from fuseline.errors import RecipeError
from fuseline.partition import PARTITIONS, Pool, Share, bootstrap, check_shares, disjoint, full, hold_out, kfold

SEEDS = st.integers(0, 2**32 - 1)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]


@st.composite
def pools(draw: st.DrawFn, grouped: bool = True, smallest: int = 4) -> Pool:
    """Rows with gaps between them, up to four strata, and units of one to a few rows."""
    n = draw(st.integers(smallest, 60))
    random = generator(draw(SEEDS))
    rows = np.sort(random.choice(3 * n, n, replace=False))
    units = random.integers(0, draw(st.integers(max(2, n // 3), n)), n) if grouped else random.permutation(n)
    return Pool(rows, random.integers(0, draw(st.integers(1, 4)), n), units)


def units_of(pool: Pool, rows: NDArray[np.int64]) -> set[int]:
    return set(pool.units[np.isin(pool.rows, rows)].tolist())


def strata_of(pool: Pool, rows: NDArray[np.int64]) -> Counter[int]:
    return Counter(pool.strata[np.isin(pool.rows, rows)].tolist())


def test_full_gives_everything_to_everyone() -> None:
    pool = Pool(np.array([2, 3, 5]), np.zeros(3, np.int64), np.arange(3))
    shares = full(pool, generators(3), generator())
    assert [[share.train.tolist() for share in replicas] for replicas in shares] == [[[2, 3, 5]]] * 3
    assert all(len(share.judged) == 0 for replicas in shares for share in replicas)


@given(pools(), st.integers(1, 4), st.sampled_from([0.1, 0.5, 1.0]), SEEDS)
def test_bootstrap_is_the_members_own_choice(pool: Pool, members: int, fraction: float, seed: int) -> None:
    shares = bootstrap(pool, generators(members, seed), generator(), fraction=fraction)
    size = max(1, round(fraction * len(pool.rows)))
    for (share,), own in zip(shares, generators(members, seed), strict=True):
        assert Counter(share.train.tolist()) == Counter(own.choice(pool.rows, size).tolist())


@pytest.mark.parametrize("rule", ["full", "bootstrap", "kfold"])
@given(pool=pools(smallest=10), members=st.integers(1, 4), seed=SEEDS)
def test_adding_a_member_leaves_the_earlier_ones_unchanged(rule: str, pool: Pool, members: int, seed: int) -> None:
    few = PARTITIONS[rule](pool, generators(members, seed), generator(seed))
    more = PARTITIONS[rule](pool, generators(members + 1, seed), generator(seed))
    for replicas, others in zip(few, more[:members], strict=True):
        assert all((a.train == b.train).all() and (a.judged == b.judged).all() for a, b in zip(replicas, others, strict=True))


def test_bootstrap_members_differ_and_repeat_rows() -> None:
    pool = Pool(np.arange(100), np.zeros(100, np.int64), np.arange(100))
    (one,), (other,) = bootstrap(pool, generators(2), generator())
    assert one.train.tolist() != other.train.tolist()
    assert 50 < len(np.unique(one.train)) < 75  # 1 - 1/e of the rows


# ---------------------------------------------------------------------------------------------------------------- kfold


@given(pools(), st.integers(1, 3), st.integers(2, 6), SEEDS)
def test_judged_folds_partition_the_rows_and_never_meet_the_replicas_own(pool: Pool, members: int, folds: int, seed: int) -> None:
    for replicas in kfold(pool, generators(members), generator(seed), folds=folds):
        assert len(replicas) == folds
        assert np.sort(np.concatenate([share.judged for share in replicas])).tolist() == pool.rows.tolist()
        for share in replicas:
            assert sorted([*share.train, *share.judged]) == pool.rows.tolist()
            assert not units_of(pool, share.train) & units_of(pool, share.judged)
            held = hold_out(share, pool, 0.2, generator(seed))
            assert (held.judged == share.judged).all()
            assert not (units_of(pool, held.train) | units_of(pool, held.holdout)) & units_of(pool, held.judged)


def test_folds_are_the_same_for_all_members() -> None:
    pool = Pool(np.arange(30), np.arange(30) % 3, np.arange(30))
    one, other = kfold(pool, generators(2), generator(), folds=5)
    assert [share.judged.tolist() for share in one] == [share.judged.tolist() for share in other]


@given(st.lists(st.integers(6, 25), min_size=1, max_size=4), st.integers(2, 6), SEEDS)
def test_folds_are_as_even_as_scikit_learns(sizes: list[int], folds: int, seed: int) -> None:
    labels = generator(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(labels)
    (ours,) = kfold(Pool(np.arange(n), labels, np.arange(n)), generators(1), generator(seed), folds=folds)
    theirs = [test for _, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels)]
    assert sorted(len(share.judged) for share in ours) == sorted(len(test) for test in theirs)
    for label, size in enumerate(sizes):
        counts = [int((labels[share.judged] == label).sum()) for share in ours]
        assert sorted(counts) == sorted(int((labels[test] == label).sum()) for test in theirs)
        assert all(abs(count - size / folds) < 1 for count in counts)


# ------------------------------------------------------------------------------------------------------------- disjoint


@given(pools(), st.integers(1, 5), SEEDS)
def test_shards_partition_the_rows_and_units(pool: Pool, members: int, seed: int) -> None:
    shares = [share for (share,) in disjoint(pool, generators(members), generator(seed))]
    assert np.sort(np.concatenate([share.train for share in shares])).tolist() == pool.rows.tolist()
    owners = Counter(unit for share in shares for unit in units_of(pool, share.train))
    assert set(owners.values()) == {1}


@given(pools(grouped=False), st.integers(1, 5), SEEDS)
def test_shards_are_stratified(pool: Pool, members: int, seed: int) -> None:
    whole = strata_of(pool, pool.rows)
    for (share,) in disjoint(pool, generators(members), generator(seed)):
        counts = strata_of(pool, share.train)
        assert all(abs(counts[stratum] - n / members) < 1 for stratum, n in whole.items())


# ------------------------------------------------------------------------------------------------------------- hold_out


@given(pools(), st.sampled_from(["full", "bootstrap", "kfold"]), st.floats(0.01, 0.49), SEEDS)
def test_held_out_rows_share_neither_row_nor_unit_with_the_training_rows(
    pool: Pool, rule: str, fraction: float, seed: int
) -> None:
    for share, *_ in PARTITIONS[rule](pool, generators(2, seed), generator(seed)):
        held = hold_out(share, pool, fraction, generator(seed))
        assert not set(held.train) & set(held.holdout)
        assert not units_of(pool, held.train) & units_of(pool, held.holdout)
        assert set(held.train) | set(held.holdout) == set(share.train)
        assert len(set(held.holdout)) == len(held.holdout) > 0
        copies = Counter(share.train.tolist())
        assert Counter(held.train.tolist()) == Counter({row: n for row, n in copies.items() if row not in held.holdout})


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.45])
def test_the_fraction_is_held_out_of_each_stratum(fraction: float) -> None:
    pool = Pool(np.arange(300), np.repeat([0, 1, 2], [60, 90, 150]), np.arange(300))
    held = hold_out(Share(pool.rows), pool, fraction, generator())
    for stratum, n in strata_of(pool, pool.rows).items():
        assert abs(strata_of(pool, held.holdout)[stratum] - fraction * n) <= 1


def test_holding_out_does_not_change_the_share_that_is_given() -> None:
    pool = Pool(np.arange(10), np.zeros(10, np.int64), np.arange(10))
    share = Share(pool.rows.copy())
    hold_out(share, pool, 0.2, generator())
    assert share.train.tolist() == list(range(10))
    assert share.holdout.tolist() == []


# --------------------------------------------------------------------------------------------------------- check_shares

LABELS = {"y": np.array([0, 0, 1, 1, 2])}


def shares_of(*rows: list[int]) -> list[list[Share]]:
    return [[Share(np.array(r, np.int64))] for r in rows]


def test_a_member_without_rows_is_named(refusal: Callable[..., str]) -> None:
    sentence = refusal(RecipeError, check_shares, shares_of([0, 2], []), ["a", "b"], LABELS, {"y": 3})
    assert sentence.startswith("partition: member 'b' would get no training rows")


def test_a_member_that_would_see_one_class_is_named(refusal: Callable[..., str]) -> None:
    sentence = refusal(RecipeError, check_shares, shares_of([0, 2], [2, 3, 3]), ["a", "b"], LABELS, {"y": 3})
    assert sentence.startswith("partition: member 'b' would see one class of 'y' only")


def test_any_replica_counts(refusal: Callable[..., str]) -> None:
    replicas = [[Share(np.array([0, 2])), Share(np.array([0, 1]))]]
    assert "'a'" in refusal(RecipeError, check_shares, replicas, ["a"], LABELS, {"y": 3})


def test_two_classes_are_enough_and_regressions_are_not_asked() -> None:
    check_shares(shares_of([0, 2]), ["a"], LABELS, {"y": 3})
    check_shares(shares_of([0, 1]), ["a"], LABELS, {})


def test_rows_of_unknown_class_count_for_nothing(refusal: Callable[..., str]) -> None:
    labels = {"y": np.array([-1, 0, 1, 1, -1])}
    check_shares(shares_of([0, 1, 2]), ["a"], labels, {"y": 3})
    assert "would see one class of 'y' only" in refusal(RecipeError, check_shares, shares_of([0, 1]), ["a"], labels, {"y": 3})
    assert "would see no class of 'y';" in refusal(RecipeError, check_shares, shares_of([0, 4]), ["a"], labels, {"y": 3})


@pytest.mark.parametrize(
    ("rows", "own", "fine"),
    [([0, 2], [0], True), ([0, 1], [0], False), ([2, 4], [0], False), ([2, 4], [0, 1], True), ([0, 2], [0, 1], True)],
)
def test_an_experts_other_classes_count_as_one(rows: list[int], own: list[int], fine: bool, refusal: Callable[..., str]) -> None:
    shares = [[Share(np.array(rows), own=np.array(own))]]
    check = (shares, ["a"], LABELS, {"y": 3})
    if fine:
        check_shares(*check)
    else:
        assert "would see one class of 'y' only" in refusal(RecipeError, check_shares, *check)


def test_own_classes_are_those_of_the_first_target() -> None:
    shares = [[Share(np.array([0, 2]), own=np.array([0]))]]
    check_shares(shares, ["a"], LABELS | {"z": np.array([1, 1, 2, 2, 2])}, {"y": 3, "z": 3})
