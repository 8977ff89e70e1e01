"""Calibration: known temperatures and scales are recovered, and the prior holds where rows are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from fuseline.evaluation.calibration import PRIOR, fit_calibration, fit_scale, fit_temperature
from fuseline.fusion.combine import Fused, temper

LAWS = settings(derandomize=True, deadline=None, max_examples=40)


def drawn_at(temperature, rows, seed=0, classes=3):
    """Probabilities, and codes drawn from them tempered by ``temperature``."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), rows)
    true = p ** (1 / temperature)
    cumulated = (true / true.sum(1, keepdims=True)).cumsum(1)
    y = (rng.random((rows, 1)) > cumulated[:, :-1]).sum(1)
    return torch.from_numpy(p), torch.from_numpy(y)


def best_on_a_grid(p, y):
    """ln T of the highest posterior, by looking everywhere."""
    grid = np.linspace(-4, 4, 4001)
    logs = np.log(np.clip(p.numpy(), 1e-7, None))
    scaled = log_softmax(logs[None] / np.exp(grid)[:, None, None], axis=2)
    nll = -scaled[:, np.arange(len(y)), y.numpy()].sum(1)
    return grid[np.argmin(nll + grid**2 / (2 * PRIOR**2))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_a_known_temperature_is_recovered_from_many_rows(temperature):
    assert fit_temperature(*drawn_at(temperature, 40_000)) == pytest.approx(temperature, rel=0.05)


@LAWS
@given(st.integers(0, 9999), st.integers(1, 12), st.sampled_from([0.1, 1.0, 10.0]))
def test_the_temperature_has_the_highest_posterior(seed, rows, temperature):
    p, y = drawn_at(temperature, rows, seed)
    assert np.log(fit_temperature(p, y)) == pytest.approx(best_on_a_grid(p, y), abs=3e-3)


@pytest.mark.parametrize("rows", [1, 20, 200])
def test_rows_that_are_all_right_do_not_drive_the_temperature_to_zero(rows):
    p, y = torch.tensor([[0.9, 0.1]]).double().repeat(rows, 1), torch.zeros(rows, dtype=torch.long)
    found = fit_temperature(p, y)
    assert 0.25 < found < 1
    assert np.log(found) == pytest.approx(best_on_a_grid(p, y), abs=3e-3)
    assert float(temper(p, found).max()) < 1


def test_certain_rows_that_are_all_wrong_give_a_finite_temperature():
    p, y = torch.eye(2).double()[[0] * 30], torch.ones(30, dtype=torch.long)
    assert 1 < fit_temperature(p, y) < np.exp(4)


def test_fewer_rows_stay_nearer_to_one():
    p, y = torch.tensor([[0.9, 0.1]]).double(), torch.tensor([1])
    few, some, many = (np.log(fit_temperature(p.repeat(n, 1), y.repeat(n))) for n in (1, 5, 25))
    assert 0 < few < some < many


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 400.0])
def test_a_known_scale_is_recovered_from_many_rows(scale):
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(20_000, 1)), rng.exponential(size=(20_000, 1)) + 0.1
    y = rng.normal(mean, np.sqrt(scale * variance))[:, 0]
    found = fit_scale(torch.from_numpy(mean), torch.from_numpy(variance), torch.from_numpy(y))
    assert found == pytest.approx(np.mean((y - mean[:, 0]) ** 2 / variance[:, 0]), rel=2e-3)
    assert found == pytest.approx(scale, rel=0.05)


@LAWS
@given(st.integers(0, 9999), st.integers(1, 30), st.sampled_from([1e-3, 1.0, 1e3]))
def test_the_scale_is_where_the_posteriors_slope_is_zero(seed, rows, scale):
    rng = np.random.default_rng(seed)
    mean, variance = rng.normal(size=(rows, 1)), rng.exponential(size=(rows, 1)) + 0.1
    y = rng.normal(mean, np.sqrt(scale * variance))[:, 0]
    found = fit_scale(torch.from_numpy(mean), torch.from_numpy(variance), torch.from_numpy(y))
    ratios = (y - mean[:, 0]) ** 2 / variance[:, 0]
    slope = (rows - ratios.sum() / found) / 2 + np.log(found)
    curvature = ratios.sum() / found / 2 + 1
    assert abs(slope / curvature) < 1e-3
    assert min(1, ratios.mean()) * 0.999 <= found <= max(1, ratios.mean()) * 1.001


def test_a_perfect_prediction_gives_a_positive_scale():
    y = torch.arange(20).double()
    assert 0 < fit_scale(y[:, None], torch.ones(20, 1).double(), y) < 1e-3


def test_without_rows_nothing_is_calibrated():
    nothing = torch.zeros(0).double()
    assert fit_temperature(torch.zeros(0, 3).double(), nothing) == 1
    assert fit_scale(torch.zeros(0, 1).double(), torch.zeros(0, 1).double(), nothing) == 1


def test_probabilities_are_calibrated_by_a_temperature_and_values_by_a_scale():
    p, y = drawn_at(2.0, 500)
    assert fit_calibration(Fused(p), y) == fit_temperature(p, y)
    values = p[:, :1], p[:, 1:2] + 0.1, y.double()
    assert fit_calibration(Fused(*values[:2]), values[2]) == fit_scale(*values)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_calibration_lowers_the_log_loss_on_fresh_rows(temperature):
    number = fit_temperature(*drawn_at(temperature, 2000, seed=1))
    p, y = drawn_at(temperature, 2000, seed=2)
    before, after = (-q.gather(1, y[:, None]).log().mean() for q in (p, temper(p, number)))
    assert after < before - 0.01
