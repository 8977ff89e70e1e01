"""Regression against scikit-learn, torch, and integrals done numerically."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import norm
from sklearn import metrics as sk

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.values import gaussian_scores

LAWS = settings(derandomize=True, deadline=None, max_examples=20)
POINTS = ("rmse", "mae", "r2")


def regression(target, values):
    return metrics.regression(target, Predicted(values))


def resampled_regression(target, values, weights):
    return metrics.resampled_regression(target, Predicted(values), weights)


def gaussian(target, mean, deviation):
    """The scores of one row."""
    said = Predicted(np.array([[mean]]), np.array([[deviation**2]]))
    return {name: score[0] for name, score in gaussian_scores(np.array([target]), said).items()}


def test_rmse_and_r2_are_over_the_whole_set():
    target, values = np.array([0.0, 1.0, 10.0, 11.0]), np.array([0.0, 1.0, 12.0, 13.0])
    assert regression(target, values)["rmse"] == pytest.approx(np.sqrt(2))  # the mean over two batches is 1
    assert regression(target, values)["r2"] == pytest.approx(1 - 8 / 101)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_regression_points_equal_scikit_learn(shape):
    rng = np.random.default_rng(0)
    y, v = rng.normal(size=40), rng.normal(size=40)
    expected = {"rmse": np.sqrt(sk.mean_squared_error(y, v)), "mae": sk.mean_absolute_error(y, v), "r2": sk.r2_score(y, v)}
    got = regression(y, v.reshape(shape))
    assert tuple(got) == metrics.REGRESSION
    assert {name: got[name] for name in POINTS} == pytest.approx(expected)


@LAWS
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1e6]),
    arrays(np.int64, (3, 12), elements=st.integers(0, 3)).filter(lambda w: (w[:, :6] > 0).sum(1).min() > 1),
)
def test_resampled_regression_equals_scikit_learn_with_sample_weights(seed, offset, weights):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=12) + offset
    v = y + rng.normal(size=12)
    got = resampled_regression(y, v[:, None], weights.astype(float))
    assert tuple(got) == metrics.REGRESSION
    for b, weight in enumerate(weights):
        assert got["rmse"][b] == pytest.approx(np.sqrt(sk.mean_squared_error(y, v, sample_weight=weight)))
        assert got["mae"][b] == pytest.approx(sk.mean_absolute_error(y, v, sample_weight=weight))
        assert got["r2"][b] == pytest.approx(sk.r2_score(y, v, sample_weight=weight), rel=1e-6)


def test_r2_is_nan_where_the_target_does_not_vary():
    y, v = np.array([0.1, 0.1, 0.1, 5.0]), np.array([0.0, 1.0, 2.0, 3.0])
    assert np.isnan(regression(y[:3], v[:3])["r2"])
    assert np.isnan(regression(y[:1], v[:1])["r2"])
    assert np.isnan(resampled_regression(y, v, np.array([[1.0, 2.0, 3.0, 0.0]]))["r2"][0])


def test_without_variances_the_gaussians_metrics_are_nan():
    y = np.array([0.0, 1.0, 2.0])
    point, resampled = regression(y, y[:, None]), resampled_regression(y, y[:, None], np.ones((2, 3)))
    for name in ("nll", "crps", "coverage_90"):
        assert np.isnan(point[name])
        assert resampled[name].shape == (2,)
        assert np.isnan(resampled[name]).all()


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_the_negative_log_likelihood_equals_torchs(shape):
    rng = np.random.default_rng(1)
    y, v, variance = rng.normal(size=30), rng.normal(size=30), rng.gamma(2, size=30)
    expected = torch.nn.functional.gaussian_nll_loss(*(torch.from_numpy(a) for a in (v, y, variance)), full=True)
    got = metrics.regression(y, Predicted(v.reshape(shape), variance.reshape(shape)))
    assert got["nll"] == pytest.approx(float(expected))


@pytest.mark.parametrize("target", [-3.0, -0.2, 0.5, 4.0])
@pytest.mark.parametrize("deviation", [0.3, 2.0])
def test_the_crps_is_the_integral_of_the_squared_distance_of_the_distribution_functions(target, deviation):
    def gap(x):
        return (norm.cdf(x, 0.5, deviation) - (x >= target)) ** 2

    expected = quad(gap, -30, target, limit=200, points=[0.5])[0] + quad(gap, target, 30, limit=200, points=[0.5])[0]
    assert gaussian(target, 0.5, deviation)["crps"] == pytest.approx(expected, rel=1e-5)


def test_the_crps_of_a_narrow_gaussian_is_the_absolute_error():
    assert gaussian(3.0, 1.0, 1e-9)["crps"] == pytest.approx(2)


@pytest.mark.parametrize("name", ["nll", "crps"])
def test_no_other_gaussian_has_a_lower_mean_score_than_the_true_one(name):
    y = np.random.default_rng(2).normal(1, 2, size=20_000)

    def mean_score(mean, deviation):
        said = Predicted(np.full((len(y), 1), mean), np.full((len(y), 1), deviation**2))
        return metrics.regression(y, said)[name]

    others = [(0.5, 2), (1.5, 2), (1, 1.6), (1, 2.5)]
    assert all(mean_score(1, 2) < mean_score(*other) for other in others)


@LAWS
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 5), st.floats(0.01, 100))
def test_another_unit_scales_the_crps_and_shifts_the_nll(target, mean, deviation, unit):
    one, other = gaussian(target, mean, deviation), gaussian(unit * target, unit * mean, unit * deviation)
    assert other["crps"] == pytest.approx(unit * one["crps"])
    assert other["nll"] == pytest.approx(one["nll"] + np.log(unit), rel=1e-9, abs=1e-9)
    assert one["crps"] >= 0


def test_the_central_interval_covers_nine_in_ten_of_its_own_gaussian():
    rng = np.random.default_rng(3)
    mean, variance = rng.normal(size=(4000, 1)), rng.gamma(2, size=(4000, 1))
    y = rng.normal(mean, np.sqrt(variance))[:, 0]
    assert metrics.regression(y, Predicted(mean, variance))["coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert metrics.regression(y, Predicted(mean, 100 * variance))["coverage_90"] == 1
    assert [gaussian(t, 0.0, 2.0)["coverage_90"] for t in (-3.30, -3.28, 3.28, 3.30)] == [0, 1, 1, 0]
