"""Bounds of a paired gain: against independent oracles, by their laws, and by what they promise over many trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, skew, t, ttest_1samp

from fuseline.conditions import Gate
from fuseline.promotion.paired import Gain, level_of, paired_gain

LEVEL = Gate().level
TRIALS = 400


def bounds(gains: NDArray[Any], level: float = 0.05, smallest: float = 0.0) -> Gain:
    return paired_gain(gains, np.ones(len(gains)), np.arange(len(gains)), level, smallest)


def promoted(gains: NDArray[Any], attempt: int = 1) -> bool:
    return bounds(gains, level_of(attempt, LEVEL), 1.0).low > 0


# ------------------------------------------------------------------------------------------------- what is promised


def discordant(random: np.random.Generator, trials: int, rows: int, better: float, worse: float) -> NDArray[np.float64]:
    """Gains of accuracy (trials, rows)."""
    drawn = random.random((trials, rows))
    return np.where(drawn < better, 1.0, np.where(drawn < better + worse, -1.0, 0.0))


def losses(random: np.random.Generator, trials: int, rows: int) -> NDArray[np.float64]:
    """Gains of log loss (trials, rows) of two models that are as good: their margins are one's own about a common one."""
    common = random.normal(1.5, 2, (trials, rows))
    one, other = (np.logaddexp(0, -(common + random.normal(size=(trials, rows)))) for _ in range(2))
    return one - other


@pytest.mark.parametrize("rows", [50, 300])
@pytest.mark.parametrize("metric", ["accuracy", "log loss"])
def test_of_two_equal_models_one_is_promoted_in_at_most_8_of_100_trials(metric: str, rows: int) -> None:
    random = np.random.default_rng(11)
    gains = discordant(random, TRIALS, rows, 0.05, 0.05) if metric == "accuracy" else losses(random, TRIALS, rows)
    assert np.mean([promoted(its) for its in gains]) <= 0.08


def test_of_thirty_equal_challengers_in_a_row_any_is_promoted_in_at_most_8_of_100_sequences() -> None:
    """All meet the same champion on the same test rows, and each differs from it on a tenth of them."""
    random, rows = np.random.default_rng(12), 300
    lucky = 0
    for _ in range(TRIALS):
        right = random.random(rows) < 0.8
        flipped = random.random((30, rows)) < np.where(right, 0.05 / 0.8, 0.05 / 0.2)
        gains = flipped * np.where(right, -1.0, 1.0)
        lucky += any(promoted(its, attempt) for attempt, its in enumerate(gains, start=1))
    assert lucky / TRIALS <= 0.08


def test_a_model_that_is_better_by_two_points_is_promoted_in_at_least_80_of_100_trials() -> None:
    """0.80 and 0.82, a tenth of 2,000 rows discordant, the first challenger."""
    gains = discordant(np.random.default_rng(13), TRIALS, 2000, 0.06, 0.04)
    assert np.mean([promoted(its) for its in gains]) >= 0.8


def test_a_challenger_that_wins_little_often_and_loses_much_rarely_gains_nothing_by_it() -> None:
    """Where Student's t alone says yes in 5.4 of 100 trials for a level of 3.5."""
    random = np.random.default_rng(14)
    gains = 1 - random.exponential(1, (3000, 200))
    assert np.mean([promoted(its) for its in gains]) <= 0.045


@pytest.mark.parametrize("rows", [30, 60, 150])
def test_accuracy_is_never_far_easier_than_mcnemars_exact_test(rows: int) -> None:
    """Over all counts of rows that only one of the two gets right, by their probability under equal models."""
    level, share = 0.035, 0.1
    size = 0.0
    for better in range(rows // 3):
        for worse in range(rows // 3):
            gains = np.repeat([1.0, -1.0, 0.0], [better, worse, rows - better - worse])
            if better > worse and bounds(gains, level, 1.0).low > 0:
                both = better + worse
                size += float(binom.pmf(both, rows, share) * binom.pmf(better, both, 0.5))
    assert 0 < size <= level


# ------------------------------------------------------------------------------------------------------ by oracles


def test_without_skew_the_bounds_are_students() -> None:
    half = np.random.default_rng(0).exponential(1, 20)
    gains = np.concatenate([half, -half]) + 0.3
    found = ttest_1samp(gains, 0).confidence_interval(0.9)
    assert bounds(gains, 0.05) == pytest.approx((gains.mean(), found.low, found.high), rel=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_with_skew_the_wider_bound_is_halls(sign: int) -> None:
    """Its transformation g(W) = W + γW²/3 + γ²W³/27 + γ/6n is inverted here by bisection."""
    gains = sign * np.random.default_rng(1).exponential(1, 60)
    n, mean, spread, gamma = 60, gains.mean(), gains.std(), skew(gains)

    def g(w: float) -> float:
        return w + gamma * w**2 / 3 + gamma**2 * w**3 / 27 + gamma / (6 * n)

    quantile = t.isf(0.02, n - 1) / np.sqrt(n)
    low, high = (mean - spread * brentq(lambda w, y=y: g(w) - y, -1.5, 1.5) for y in (quantile, -quantile))
    student = ttest_1samp(gains, 0).confidence_interval(0.96)
    assert bounds(gains, 0.02) == pytest.approx((mean, min(low, student.low), max(high, student.high)), rel=1e-6)


# --------------------------------------------------------------------------------------------------------- by laws


GAINS = st.lists(st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 3)), min_size=3, max_size=30).map(np.array)


@settings(max_examples=60, deadline=None)
@given(GAINS, st.floats(0.01, 100), st.floats(0.001, 0.3))
def test_laws(gains: NDArray[np.float64], scale: float, level: float) -> None:
    found = bounds(gains, level)
    assert found.low <= found.value + 1e-9
    assert found.value <= found.high + 1e-9
    turned = bounds(-gains, level)
    assert (-turned.high, -turned.low) == pytest.approx((found.low, found.high), abs=1e-6)
    assert bounds(gains[::-1].copy(), level) == pytest.approx(found, abs=1e-6)
    stricter = bounds(gains, level / 2)
    assert stricter.low <= found.low + 1e-9
    if gains.std() > 0.01:
        assert bounds(scale * gains, level) == pytest.approx([scale * its for its in found], rel=1e-6, abs=1e-6)


def test_rows_of_a_unit_that_say_the_same_count_once() -> None:
    gains = np.random.default_rng(2).normal(size=25)
    twice = paired_gain(np.repeat(gains, 2), np.ones(50), np.repeat(np.arange(25), 2), 0.05)
    assert twice == pytest.approx(bounds(gains))


def test_weights_make_a_mean_over_what_is_known() -> None:
    gains, known = np.array([2.0, 0.0, -1.0, 3.0]), np.array([2.0, 1.0, 2.0, 3.0])
    assert paired_gain(gains, known, np.arange(4), 0.05).value == pytest.approx(gains.sum() / known.sum())


def test_where_no_row_tells_two_models_apart_few_rows_prove_little() -> None:
    few, many = (bounds(np.zeros(rows), 0.05, 1.0).low for rows in (50, 5000))
    assert few == pytest.approx(-(1 - 0.05 ** (1 / 50)))
    assert binom.cdf(0, 50, -few) == pytest.approx(0.05)
    assert few < many < 0
    assert bounds(np.zeros(50)).low == 0  # of losses that are all the same there is nothing to lose


@pytest.mark.parametrize("gains", [[1.0], [1.0, np.nan, 2.0], [1.0, np.inf, 0.0]])
def test_what_is_no_number_or_stands_alone_has_no_bounds(gains: list[float]) -> None:
    with np.errstate(invalid="ignore"):
        found = bounds(np.array(gains))
    assert np.isnan(found.low)
    assert np.isnan(found.high)


@pytest.mark.parametrize("attempt", [1, 2, 30])
def test_the_levels_of_all_challengers_add_up_to_what_they_share(attempt: int) -> None:
    spent = sum(level_of(k, 0.06) for k in range(1, attempt + 1))
    assert spent == pytest.approx(0.06 * attempt / (attempt + 1))
