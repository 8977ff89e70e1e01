import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

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
