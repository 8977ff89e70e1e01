"""Counts in cells: what they keep of the rows, against NumPy on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp

from fuseline.evaluation.drift import kolmogorov_smirnov
from fuseline.evaluation.sketch import MOST, numbers, words

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)
FEW = arrays(np.float64, st.integers(2, 40), elements=st.one_of(FLOATS, st.integers(-3, 3).map(float)))


@given(FEW, FEW)
def test_with_few_values_the_distance_is_the_very_one(then: np.ndarray, now: np.ndarray) -> None:
    first = numbers(then)
    distance, p = kolmogorov_smirnov(first, first.empty().and_of(now))
    expected = ks_2samp(then, now, method="asymp")
    assert distance == pytest.approx(expected.statistic, abs=1e-12)
    assert p == pytest.approx(expected.pvalue, abs=1e-9)


@pytest.mark.parametrize("atoms", [False, True])
def test_with_many_values_the_distance_is_too_small_by_less_than_a_cell(atoms: bool) -> None:
    random = np.random.default_rng(0)
    for shift in (0.0, 0.05, 1.0, 9.0):
        then, now = random.normal(size=5000), random.normal(shift, 1.5, size=3000)
        if atoms:  # half of all rows are exactly 0
            then, now = (np.where(random.random(len(x)) < 0.5, 0.0, x) for x in (then, now))
        first = numbers(then)
        assert len(first.edges) <= MOST
        distance, p = kolmogorov_smirnov(first, first.empty().and_of(now))
        exact = ks_2samp(then, now, method="asymp")
        assert exact.statistic - 1 / MOST <= distance <= exact.statistic + 1e-12
        assert p >= exact.pvalue - 1e-12


def test_between_two_edges_lies_less_than_a_share_of_the_rows() -> None:
    values = np.random.default_rng(1).lognormal(size=10_000).round(2)
    sketch = numbers(values)
    assert sketch.counts[::2].max() <= len(values) / MOST
    assert sketch.known == len(values)


@given(FEW, FEW)
def test_parts_add_up(one: np.ndarray, other: np.ndarray) -> None:
    empty = numbers(np.concatenate([one, other])).empty()
    together, apart = empty.and_of(np.concatenate([one, other])), empty.and_of(one).and_of(other)
    assert together.counts.tolist() == apart.counts.tolist()
    values = np.concatenate([one, other])
    assert apart.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
    assert apart.spread == pytest.approx(values.std(), rel=1e-6, abs=1e-3)


def test_far_from_zero_no_digits_are_lost() -> None:
    values = 1e9 + np.random.default_rng(2).normal(size=1000)
    sketch = numbers(values)
    assert sketch.spread == pytest.approx(values.std(), rel=1e-6)


def test_missing_values_are_counted_apart() -> None:
    sketch = numbers(np.array([1.0, np.nan, 2.0])).and_of(np.array([np.nan, np.nan]))
    assert (sketch.known, sketch.missing) == (2, 3)
    assert np.isnan(numbers(np.array([np.nan])).mean)


def test_words_are_counted_by_position() -> None:
    sketch = words(("a", "b", "c"), np.array([2, 2, 0]))
    assert sketch.and_of(np.array([1])).counts.tolist() == [1, 1, 2]
    assert sketch.empty().known == 0
