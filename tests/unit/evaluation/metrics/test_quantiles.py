"""Quantile metrics against scikit-learn and the scores' formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.quantiles import interval_scores, middle

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def random_case(seed, rows=80, levels=LEVELS):
    """Each row has a Gaussian of its own, and what is said of it is somewhat off."""
    rng = np.random.default_rng(seed)
    mean, deviation = rng.normal(size=(rows, 1)), rng.gamma(2, size=(rows, 1))
    return rng.normal(mean, deviation)[:, 0], mean + rng.normal(0, 0.3, (rows, 1)) + deviation * norm.ppf(levels)


def quantile(target, quantiles, levels=LEVELS):
    return metrics.quantile(target, Predicted(quantiles, levels=levels))


def naive_interval_score(y, low, high, alpha):
    """Gneiting and Raftery 2007, equation 43."""
    return (high - low) + 2 / alpha * (low - y) * (y < low) + 2 / alpha * (y - high) * (y > high)


@pytest.mark.parametrize("seed", range(3))
def test_points_equal_scikit_learn_and_the_formulas(seed):
    y, q = random_case(seed)
    pinball = [np.mean([(a - (t < v)) * (t - v) for t, v in zip(y, q[:, i], strict=True)]) for i, a in enumerate(LEVELS)]
    inside = np.mean([low <= t <= high for t, low, high in zip(y, q[:, 0], q[:, -1], strict=True)])
    expected = {
        "pinball": np.mean(pinball),
        "coverage": inside,
        "coverage_error": abs(inside - 0.9),
        "interval_score": np.mean([naive_interval_score(t, a, b, 0.1) for t, a, b in zip(y, q[:, 0], q[:, -1], strict=True)]),
        "mae": sk.mean_absolute_error(y, q[:, 2]),
    }
    got = quantile(y, q)
    assert tuple(got) == metrics.QUANTILE
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_resampled_pinball_equals_scikit_learn_with_sample_weights(seed):
    y, q = random_case(seed, rows=30)
    weights = np.random.default_rng(seed).multinomial(30, np.full(30, 1 / 30), size=4).astype(float)
    expected = [
        np.mean([sk.mean_pinball_loss(y, q[:, i], alpha=a, sample_weight=w) for i, a in enumerate(LEVELS)]) for w in weights
    ]
    got = metrics.resampled_quantile(y, Predicted(q, levels=LEVELS), weights)
    assert got["pinball"] == pytest.approx(expected)


def test_the_pinball_loss_of_one_level_at_the_middle_is_half_the_absolute_error_and_there_is_no_interval():
    y, q = random_case(3)
    got = quantile(y, q[:, 2:3], np.array([0.5]))
    resampled = metrics.resampled_quantile(y, Predicted(q[:, 2:3], levels=np.array([0.5])), np.ones((1, 80)))
    assert got["pinball"] == pytest.approx(got["mae"] / 2)
    for name in ("coverage", "coverage_error", "interval_score"):
        assert np.isnan([got[name], resampled[name][0]]).all()


@pytest.mark.parametrize("name", ["pinball", "interval_score"])
def test_no_other_quantiles_have_a_lower_mean_score_than_the_true_ones(name):
    y = np.random.default_rng(4).normal(1, 2, size=20_000)

    def mean_score(mean, deviation):
        return quantile(y, np.tile(norm.ppf(LEVELS, mean, deviation), (len(y), 1)))[name]

    others = [(0.5, 2), (1.5, 2), (1, 1.6), (1, 2.5)]
    assert all(mean_score(1, 2) < mean_score(*other) for other in others)


@pytest.mark.parametrize("levels", [(0.05, 0.95), (0.1, 0.8), (0.3, 0.99)])
def test_the_interval_score_is_proper_for_outer_levels_that_are_not_symmetric_too(levels):
    levels = np.array(levels)
    y = np.random.default_rng(5).normal(size=50_000)
    true = norm.ppf(levels)
    best = interval_scores(y, np.tile(true, (len(y), 1)), levels).mean()
    for shift in ([0.2, 0], [-0.2, 0], [0, 0.2], [0, -0.2]):
        assert best < interval_scores(y, np.tile(true + shift, (len(y), 1)), levels).mean()


def test_true_quantiles_cover_what_they_say_and_wide_ones_all():
    rng = np.random.default_rng(6)
    mean, deviation = rng.normal(size=(4000, 1)), rng.gamma(2, size=(4000, 1))
    y = rng.normal(mean, deviation)[:, 0]
    true, wide = quantile(y, mean + deviation * norm.ppf(LEVELS)), quantile(y, mean + 100 * deviation * norm.ppf(LEVELS))
    assert true["coverage"] == pytest.approx(0.9, abs=0.02)
    assert true["coverage_error"] < 0.02
    assert (wide["coverage"], wide["coverage_error"]) == (1, pytest.approx(0.1))


def test_the_edges_belong_to_the_interval_and_crossed_quantiles_cover_nothing():
    y, levels = np.array([0.0, 1.0, 0.5]), np.array([0.25, 0.75])
    q = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert quantile(y, q, levels)["coverage"] == pytest.approx(2 / 3)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-5, 5))
def test_another_unit_scales_the_losses_and_leaves_the_coverage(seed, unit, zero):
    y, q = random_case(seed, rows=20)
    one, other = quantile(y, q), quantile(unit * y + zero, unit * q + zero)
    for name in ("pinball", "interval_score", "mae"):
        assert other[name] == pytest.approx(unit * one[name])
        assert one[name] >= 0
    assert other["coverage"] == one["coverage"]


@pytest.mark.parametrize(("levels", "place"), [((0.1, 0.5, 0.9), 1), ((0.1, 0.4, 0.9), 1), ((0.25, 0.75), 0), ((0.9,), 0)])
def test_the_level_nearest_to_one_half_stands_for_the_median(levels, place):
    assert middle(np.array(levels)) == place


def test_quantiles_without_levels_are_refused():
    with pytest.raises(ValueError, match="levels"):
        metrics.quantile(np.zeros(2), Predicted(np.zeros((2, 3))))
