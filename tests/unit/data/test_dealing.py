import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fuseline.data import dealing
from fuseline.data.dealing import deal

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=60)
SHARES = st.lists(st.integers(1, 5), min_size=2, max_size=6).map(lambda parts: np.array(parts) / sum(parts))


def columns(rows: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    strata, units = np.array(rows, np.int64).T
    return strata, units


@given(ROWS, SHARES, st.integers(0, 9))
def test_units_stay_together(rows: list[tuple[int, int]], shares: NDArray[np.float64], seed: int) -> None:
    strata, units = columns(rows)
    hand = deal(strata, units, list(shares), np.random.default_rng(seed))
    assert all(len(set(hand[units == unit])) == 1 for unit in set(units))


@given(ROWS, SHARES, st.integers(0, 9))
def test_each_hand_gets_its_share_of_the_units(rows: list[tuple[int, int]], shares: NDArray[np.float64], seed: int) -> None:
    strata, units = columns(rows)
    hand = deal(strata, units, list(shares), np.random.default_rng(seed))
    first = np.unique(units, return_index=True)[1]
    counts = np.bincount(hand[first], minlength=len(shares))
    assert (np.abs(counts - shares * len(first)) < len(shares) - 1 + 1e-9).all()
    assert counts.sum() == len(first)


@given(ROWS, st.integers(2, 7), st.integers(0, 9))
def test_equal_hands_differ_by_one_unit_at_most_in_each_stratum(rows: list[tuple[int, int]], hands: int, seed: int) -> None:
    strata, units = columns(rows)
    hand = deal(strata, units, [1 / hands] * hands, np.random.default_rng(seed))
    first = np.unique(units, return_index=True)[1]
    for part in [first, *(first[strata[first] == stratum] for stratum in set(strata[first]))]:
        counts = np.bincount(hand[part], minlength=hands)
        assert counts.max() - counts.min() <= 1


def test_dealing_follows_its_generator() -> None:
    zeros, units = np.zeros(40, np.int64), np.arange(40)
    first, again, other = (deal(zeros, units, [0.25] * 4, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=7), st.integers(1, 3), st.sampled_from([1, 7, 999, 1000, 1001, 2600]))
@example([0.2] * 5, 1, 2600)
@example([0.64, 0.16, 0.1, 0.1], 2, 2600)
def test_each_turn_is_that_of_the_first_hand_furthest_behind(parts: list[float], digits: int, count: int) -> None:
    """By arrays, as it was first written: a split of the same data must never change."""
    rounded = np.round(parts, digits) + 10.0**-digits
    shares = rounded / rounded.sum()
    given_out, expected = np.zeros(len(shares)), []
    for step in range(1, count + 1):
        expected.append(int(np.argmax(np.round(shares * step - given_out, 9))))
        given_out[expected[-1]] += 1
    order = np.random.default_rng(0).permutation(count)
    hand = deal(np.zeros(count, np.int64), np.arange(count), list(shares), np.random.default_rng(0))
    assert hand[order].tolist() == expected


def test_turns_that_repeat_no_more_are_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As errors of rounding would have it after millions."""
    zeros, units = np.zeros(2600, np.int64), np.arange(2600)
    repeated = deal(zeros, units, [0.25] * 4, np.random.default_rng(0))
    asked = []
    monkeypatch.setattr(dealing, "_holds", lambda wanted, turns: asked.append(len(turns)))
    assert (deal(zeros, units, [0.25] * 4, np.random.default_rng(0)) == repeated).all()
    assert asked == [2600]
    monkeypatch.undo()
    turns = np.resize(np.arange(4), 2600)
    assert dealing._holds(np.full(4, 0.25), turns)
    turns[[2500, 2501]] = turns[[2501, 2500]]
    assert not dealing._holds(np.full(4, 0.25), turns)
