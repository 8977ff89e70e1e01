"""Experts by class: the deal of classes, and who sees which rows of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.partition import Pool, by_class, check_shares, expert_target

SEEDS = st.integers(0, 2**32 - 1)
Make = Callable[..., Pool]
Generators = Callable[..., list[np.random.Generator]]


def codes_of(pool: Pool) -> np.ndarray:
    assert pool.dataset is not None
    return np.asarray(pool.dataset.targets["kind"])


@given(seed=SEEDS, classes=st.integers(2, 12), members=st.integers(1, 8), data=st.data())
def test_classes_are_dealt_evenly_and_each_often_enough(
    pool_of: Make, generators: Generators, seed: int, classes: int, members: int, data: st.DataObject
) -> None:
    copies = data.draw(st.integers(1, members))
    pool = pool_of(seed, classes=classes)
    shares = by_class(pool, generators(members), np.random.default_rng(seed), copies=copies)
    owned = [share.own.tolist() or list(range(classes)) for (share,) in shares]
    assert all(own == sorted(set(own)) for own in owned)
    known = Counter(code for own in owned for code in own)
    sizes = [len(own) for own in owned]
    assert set(known) == set(range(classes))
    assert min(known.values()) >= copies
    assert max(known.values()) - min(known.values()) <= 1
    assert max(sizes) - min(sizes) <= 1
    if classes * copies >= members:
        assert sum(sizes) == classes * copies


@given(seed=SEEDS, members=st.integers(1, 6), fraction=st.sampled_from([0.02, 0.3, 0.5, 1.0]), unknown=st.sampled_from([0, 0.2]))
def test_an_expert_sees_all_its_own_rows_and_whole_units_of_the_others(
    pool_of: Make, generators: Generators, seed: int, members: int, fraction: float, unknown: float
) -> None:
    pool = pool_of(seed, unit_size=2, unknown=unknown)
    codes = codes_of(pool)[pool.rows]
    for (share,) in by_class(pool, generators(members), np.random.default_rng(seed), rest_fraction=fraction):
        own = np.isin(codes, share.own) if len(share.own) else np.ones(len(codes), bool)
        seen = np.isin(pool.rows, share.train)
        assert len(share.train) == seen.sum()
        assert seen[own].all() or not len(share.own)
        rest, wanted = pool.units[~own], fraction * len(np.unique(pool.units[~own]))
        drawn = np.unique(rest[seen[~own]])
        assert np.isin(rest, drawn).tolist() == seen[~own].tolist()
        assert abs(len(drawn) - wanted) <= 1


@given(seed=SEEDS, fraction=st.sampled_from([0.25, 0.5, 0.75]))
def test_the_other_rows_are_stratified(pool_of: Make, generators: Generators, seed: int, fraction: float) -> None:
    pool = pool_of(seed, n=120, classes=6)
    codes = codes_of(pool)
    whole = Counter(codes[pool.rows].tolist())
    for (share,) in by_class(pool, generators(3), np.random.default_rng(seed), rest_fraction=fraction):
        counts = Counter(codes[share.train].tolist())
        for code, n in whole.items():
            assert abs(counts[code] - (n if code in share.own else fraction * n)) <= (0 if code in share.own else 2)


@given(seed=SEEDS, classes=st.integers(2, 8), members=st.integers(1, 8))
def test_an_expert_without_the_rest_sees_its_own_two_classes_or_more_and_nothing_else(
    pool_of: Make, generators: Generators, seed: int, classes: int, members: int
) -> None:
    pool = pool_of(seed, classes=classes, unknown=0.1)
    codes = codes_of(pool)
    seen = []
    for (share,) in by_class(pool, generators(members), np.random.default_rng(seed), rest="absent"):
        mine = set(np.unique(codes[share.train]).tolist())
        assert -1 not in mine
        assert set(share.train) == {row for row in pool.rows if codes[row] in mine}
        assert len(share.own) == 0
        seen.append(mine)
    assert set().union(*seen) == set(range(classes))
    assert min(map(len, seen)) >= 2


def test_rows_of_unknown_class_are_among_the_others(pool_of: Make, generators: Generators) -> None:
    pool = pool_of(0, unknown=0.3)
    unknown = set(pool.rows[codes_of(pool)[pool.rows] < 0])
    assert len(unknown) > 5
    for (share,) in by_class(pool, generators(2), np.random.default_rng(0)):
        assert unknown <= set(share.train)


def test_the_rest_is_drawn_by_each_members_own_generator(pool_of: Make, generators: Generators) -> None:
    pool = pool_of(1, classes=2)
    first = by_class(pool, generators(2, 1), np.random.default_rng(0), rest_fraction=0.5)
    other = by_class(pool, [generators(1, 1)[0], np.random.default_rng(99)], np.random.default_rng(0), rest_fraction=0.5)
    assert first[0][0].train.tolist() == other[0][0].train.tolist()
    assert first[1][0].train.tolist() != other[1][0].train.tolist()


def test_experts_may_be_trained(pool_of: Make, generators: Generators) -> None:
    """One class and the rest are two events, whatever the member's own classes are."""
    pool = pool_of(2, classes=5)
    shares = by_class(pool, generators(5), np.random.default_rng(0))
    assert [len(share.own) for (share,) in shares] == [1] * 5
    check_shares(shares, list("abcde"), {"kind": codes_of(pool)}, {"kind": 5})


def test_more_copies_than_members_are_refused(pool_of: Make, generators: Generators, refusal: Callable[..., str]) -> None:
    sentence = refusal(RecipeError, by_class, pool_of(0), generators(2), np.random.default_rng(0), copies=3)
    assert sentence.startswith("partition.by_class.copies: 3 members can't know each class when there are 2")


def test_without_exclusive_classes_there_are_no_experts(
    pool_of: Make, generators: Generators, refusal: Callable[..., str]
) -> None:
    schema = Schema(numeric=["a", "b", "c"], targets={"size": TargetSchema(kind="regression")})
    sentence = refusal(RecipeError, by_class, pool_of(0, schema=schema), generators(2), np.random.default_rng(0))
    assert sentence.startswith("partition.by_class: no target has exclusive classes")


@pytest.mark.parametrize(("kinds", "chosen"), [(["regression", "ordinal", "classification"], "1"), (["multilabel"], None)])
def test_the_first_target_with_exclusive_classes_is_the_experts(kinds: list[str], chosen: str | None) -> None:
    targets = {str(i): TargetSchema(kind=kind, classes=["u", "v"]) for i, kind in enumerate(kinds)}  # type: ignore[arg-type]
    assert expert_target(Schema(numeric=["a"], targets=targets)) == chosen
