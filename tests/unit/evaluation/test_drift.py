"""Drift: each test against scipy on the rows themselves, the size of the whole under no drift, and its power under some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chi2_contingency

from fuseline.evaluation.drift import Shift, coarse, homogeneity, largest, shifts, stability_index
from fuseline.evaluation.sketch import Sketch, numbers, words
from fuseline.recipe import Drift

RULE = Drift()
COUNTS = st.lists(st.integers(0, 60), min_size=2, max_size=8)


def found(then: dict[str, Sketch], now: dict[str, Sketch], rule: Drift = RULE) -> list[Shift]:
    return shifts({"inputs": then}, {"inputs": now}, rule)


def of(values: np.ndarray, later: np.ndarray) -> tuple[Sketch, Sketch]:
    then = numbers(values)
    return then, then.empty().and_of(later)


def test_homogeneity_is_the_chi_squared_test() -> None:
    then, now = np.array([120, 40, 30]), np.array([90, 70, 20])
    expected = chi2_contingency(np.stack([then, now]), correction=False)
    assert homogeneity(then, now) == pytest.approx((expected.statistic, expected.pvalue))


def test_rare_words_are_merged() -> None:
    then, now = np.array([500, 500, 1, 2, 0]), np.array([490, 480, 3, 1, 9])
    merged = chi2_contingency(np.array([[500, 500, 3], [490, 480, 13]]), correction=False)
    assert homogeneity(then, now) == pytest.approx((merged.statistic, merged.pvalue))
    then, now = np.array([500, 400, 1, 1]), np.array([490, 300, 2, 0])  # what is merged is too few by itself still
    merged = chi2_contingency(np.array([[500, 402], [490, 302]]), correction=False)
    assert homogeneity(then, now) == pytest.approx((merged.statistic, merged.pvalue))


@given(COUNTS, st.randoms())
def test_homogeneity_and_index_know_no_order_and_no_side(counts: list[int], random: Any) -> None:
    then, now = np.array(counts), np.array(random.sample(counts, len(counts)))
    turn = np.random.default_rng(len(counts)).permutation(len(counts))
    assert stability_index(then[turn], now[turn]) == pytest.approx(stability_index(then, now))
    assert stability_index(now, then) == pytest.approx(stability_index(then, now))
    assert homogeneity(now, then) == pytest.approx(homogeneity(then, now))
    assert stability_index(then, then) == 0
    assert stability_index(then, now) >= 0


def test_the_index_follows_its_formula_and_takes_empty_cells() -> None:
    then, now = np.array([700_000, 300_000]), np.array([500_000, 500_000])
    expected = (0.5 - 0.7) * np.log(0.5 / 0.7) + (0.5 - 0.3) * np.log(0.5 / 0.3)
    assert stability_index(then, now) == pytest.approx(expected, rel=1e-4)
    assert 1 < stability_index(np.array([100, 0]), np.array([50, 50])) < 10


def test_bins_hold_even_shares_of_the_reference() -> None:
    random = np.random.default_rng(0)
    then, now = of(random.normal(size=4000), random.normal(3, 1, size=1000))
    before, after = coarse(then, now, 10)
    assert (before.sum(), after.sum(), len(before)) == (4000, 1000, 10)
    assert abs(before - 400).max() <= 2 * 4000 / 256
    assert after[-1] > 900


def test_a_column_of_one_value_drifts_when_another_appears() -> None:
    then, now = of(np.full(300, 7.0), np.where(np.arange(300) % 3 == 0, 8.0, 7.0))
    [shift] = found({"x": then}, {"x": now})
    assert (shift.test, shift.size, shift.then) == ("ks", "large", 7.0)
    assert shift.statistic == pytest.approx(1 / 3)


def test_missing_values_are_tested_apart() -> None:
    random = np.random.default_rng(1)
    values, later = random.normal(size=500), random.normal(size=500)
    later[:200] = np.nan
    tests = {shift.test: shift for shift in found(*({"x": its} for its in of(values, later)))}
    assert tests["missing"].size == "large"
    assert (tests["missing"].then, tests["missing"].now) == (0.0, 0.4)
    assert tests["ks"].size == "stable"
    assert tests["ks"].rows == 300


def test_what_has_no_rows_is_not_tested() -> None:
    then, now = of(np.array([np.nan, np.nan]), np.array([np.nan]))
    assert found({"x": then, "y": words(("a",), np.array([0]))}, {"x": now, "y": words(("a",), np.empty(0, int))})[0].p == 1
    assert found({}, {}) == []


def simulated(random: np.random.Generator, rows: int, rule: Drift, shift: float = 0.0) -> list[Shift]:
    """Eight columns of three kinds; with a shift the first one's mean moves by so many standard deviations."""
    then: dict[str, Sketch] = {}
    now: dict[str, Sketch] = {}
    for i in range(8):
        first, second = random.normal(size=rows), random.normal(shift if i == 0 else 0.0, size=rows)
        if i % 3 == 2:
            then[f"{i}"], now[f"{i}"] = (words("abcd", np.digitize(x, [-1.5, 0, 1])) for x in (first, second))
        else:
            then[f"{i}"], now[f"{i}"] = of(first.round(1), second.round(1)) if i % 3 else of(first, second)
    return found(then, now, rule)


@pytest.mark.parametrize("correction", ["bh", "by"])
def test_without_drift_so_many_evaluations_find_some_as_the_level_says(correction: Any) -> None:
    """Of 300 evaluations at a level of 5 %, 15 are expected to; more than 25 have a probability below 1 %."""
    random = np.random.default_rng(3)
    rule = Drift(level=0.05, correction=correction, moderate=1e-9, large=1e-9)
    false = sum(any(shift.size != "stable" for shift in simulated(random, 200, rule)) for _ in range(300))
    assert false <= 25
    assert correction == "by" or false >= 3  # it is a test and no promise never to say anything


def test_few_rows_give_no_alarm_by_their_index_alone() -> None:
    """With fifty rows an index above 0.25 is nothing; at the default level 1 % of evaluations may tell of drift."""
    random = np.random.default_rng(4)
    every = [simulated(random, 50, RULE) for _ in range(100)]
    assert sum(any(shift.psi >= RULE.moderate for shift in shifts_) for shifts_ in every) > 90
    assert sum(largest(shifts_) != "stable" for shifts_ in every) <= 4


def test_with_many_rows_what_is_significant_must_be_large_too() -> None:
    random = np.random.default_rng(5)
    small = simulated(random, 40_000, RULE, shift=0.05)
    assert next(shift for shift in small if shift.name == "0").q < RULE.level
    assert largest(small) == "stable"


def test_a_shifted_column_is_found_and_named() -> None:
    random = np.random.default_rng(6)
    every = [simulated(random, 300, RULE, shift=0.8) for _ in range(50)]
    assert sum(shifts_[0].name == "0" and shifts_[0].size == "large" for shifts_ in every) >= 49
    assert sum(shift.size != "stable" for shifts_ in every for shift in shifts_[1:]) <= 3


def test_parts_are_corrected_together() -> None:
    random = np.random.default_rng(7)
    then, now = of(random.normal(size=300), random.normal(0.25, 1, size=300))
    alone = found({"x": then}, {"x": now})[0]
    quiet = {f"y{i}": of(np.arange(300.0), np.arange(300.0)) for i in range(9)}
    parts = ({"inputs": {n: its[k] for n, its in quiet.items()}, "predictions": {"x": own}} for k, own in ((0, then), (1, now)))
    together = next(shift for shift in shifts(*parts, RULE) if shift.part == "predictions")
    assert (together.p, together.q) == (alone.p, pytest.approx(10 * alone.p))


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="'large' must not be below 'moderate'"):
        Drift(moderate=0.3, large=0.2)
