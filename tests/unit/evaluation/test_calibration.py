"""Calibration: known temperatures and scales are recovered, and the prior holds where rows are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import norm

from fuseline.data.schema import TargetSchema
from fuseline.evaluation import calibration
from fuseline.evaluation.calibration import (
    PRIOR,
    calibrated_scores,
    fit_calibration,
    fit_labels_temperature,
    fit_scale,
    fit_temperature,
    fit_width,
)
from fuseline.fusion.combine import Fused, calibrate, temper, temper_labels
from fuseline.fusion.scores import row_scores

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


def labels_at(temperature, rows, seed=0, unknown=0.0, labels=3):
    """Probabilities of labels, and labels drawn from them tempered by ``temperature``, some unknown."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, (rows, labels))
    y = (rng.random((rows, labels)) < 1 / (1 + np.exp(-logit / temperature))).astype(np.float32)
    y[rng.random(y.shape) < unknown] = np.nan
    return torch.from_numpy(1 / (1 + np.exp(-logit))), torch.from_numpy(y)


def best_labels_on_a_grid(p, y):
    """ln T of the highest posterior for labels, by looking everywhere."""
    grid = np.linspace(-4, 4, 4001)
    known = ~np.isnan(y.numpy())
    q, label = np.clip(p.numpy()[known], 1e-7, 1 - 1e-7), y.numpy()[known]
    logit = np.log(q / (1 - q)) * (2 * label - 1)
    nll = np.minimum(np.log1p(np.exp(-logit[None] / np.exp(grid)[:, None])), -np.log(1e-7)).sum(1)
    return grid[np.argmin(nll + grid**2 / (2 * PRIOR**2))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_of_labels_is_recovered_from_many_rows(temperature):
    assert fit_labels_temperature(*labels_at(temperature, 20_000, unknown=0.2)) == pytest.approx(temperature, rel=0.05)


@LAWS
@given(st.integers(0, 9999), st.integers(1, 12), st.sampled_from([0.2, 1.0, 5.0]), st.sampled_from([0.0, 0.5, 0.9]))
def test_the_temperature_of_labels_has_the_highest_posterior(seed, rows, temperature, unknown):
    p, y = labels_at(temperature, rows, seed, unknown)
    if y.isnan().all():
        assert fit_labels_temperature(p, y) == 1
    else:
        assert np.log(fit_labels_temperature(p, y)) == pytest.approx(best_labels_on_a_grid(p, y), abs=3e-3)


def test_what_is_said_of_unknown_labels_has_no_part():
    p, y = labels_at(2.0, 50, unknown=0.5)
    other = torch.where(y.isnan(), 1 - p, p)
    assert not torch.equal(p, other)
    assert fit_labels_temperature(other, y) == fit_labels_temperature(p, y)


def test_one_label_of_two_classes_is_calibrated_as_two_classes():
    p, y = labels_at(2.0, 80, labels=1)
    assert fit_labels_temperature(p, y) == pytest.approx(fit_temperature(torch.cat([1 - p, p], 1), y[:, 0].long()), rel=1e-4)


LEVELS = TargetSchema(kind="quantile", levels=[0.05, 0.3, 0.5, 0.9])


def normal_quantiles(width, rows, seed=0, task=LEVELS):
    """A normal's quantiles, and values drawn from it ``width`` times as wide."""
    rng = np.random.default_rng(seed)
    center, spread = rng.normal(size=(rows, 1)), rng.uniform(0.5, 2, (rows, 1))
    said = center + spread * norm.ppf(task.levels)
    y = rng.normal(center, width * spread)[:, 0]
    return Fused(torch.from_numpy(said), None, task), torch.from_numpy(y)


def best_width_on_a_grid(fused, y):
    """ln s of the highest posterior, by looking everywhere, with scikit-learn's pinball loss."""
    grid = np.linspace(-3, 3, 1001)
    said, levels = fused.values.numpy(), np.array(fused.task.levels)
    middle = said[:, [np.abs(levels - 0.5).argmin()]]

    def loss(factor):
        gap = y.numpy()[:, None] - (middle + factor * (said - middle))
        return np.maximum(levels * gap, (levels - 1) * gap).mean(1)

    losses = np.array([loss(np.exp(x)).sum() for x in grid])
    return grid[np.argmin(losses / loss(1.0).mean() + grid**2 / (2 * PRIOR**2))]


@pytest.mark.parametrize("width", [0.5, 1.0, 3.0])
def test_a_known_width_is_recovered_from_many_rows(width):
    assert fit_width(*normal_quantiles(width, 20_000)) == pytest.approx(width, rel=0.05)


@LAWS
@given(st.integers(0, 9999), st.integers(1, 30), st.sampled_from([0.3, 1.0, 3.0]))
def test_the_width_has_the_highest_posterior(seed, rows, width):
    fused, y = normal_quantiles(width, rows, seed)
    assert np.log(fit_width(fused, y)) == pytest.approx(best_width_on_a_grid(fused, y), abs=8e-3)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_width_does_not_hang_on_the_targets_unit(unit):
    fused, y = normal_quantiles(2.0, 40)
    assert fit_width(fused._replace(values=fused.values * unit), y * unit) == pytest.approx(fit_width(fused, y), rel=1e-4)


@LAWS
@given(st.integers(0, 9999), st.floats(1e-3, 1e3), st.sampled_from([[0.1, 0.2], [0.05, 0.5, 0.95], [0.6, 0.7, 0.8, 0.9]]))
def test_quantiles_still_ascend_once_they_are_widened_and_the_middle_one_stays(seed, factor, levels):
    fused, _ = normal_quantiles(1.0, 20, seed, TargetSchema(kind="quantile", levels=levels))
    wide = calibrate(fused, factor).values
    assert (wide.diff(dim=1) >= 0).all()
    assert torch.equal(wide[:, fused.task.middle], fused.values[:, fused.task.middle])
    torch.testing.assert_close(wide[:, -1] - wide[:, 0], factor * (fused.values[:, -1] - fused.values[:, 0]))


def test_quantiles_that_are_all_right_are_left_alone():
    y = torch.arange(5).double()
    assert fit_width(Fused(y[:, None].repeat(1, 4), None, LEVELS), y) == 1


@pytest.mark.parametrize("width", [0.4, 2.5])
def test_widening_lowers_the_pinball_loss_on_fresh_rows(width):
    number = fit_width(*normal_quantiles(width, 1000, seed=1))
    fused, y = normal_quantiles(width, 1000, seed=2)
    assert row_scores(calibrate(fused, number), y).mean() < row_scores(fused, y).mean() - 0.01


def test_tempering_lowers_the_log_loss_of_labels_on_fresh_rows():
    number = fit_labels_temperature(*labels_at(3.0, 1000, seed=1))
    p, y = labels_at(3.0, 1000, seed=2)
    task = TargetSchema(kind="multilabel", classes=["u", "v", "w"])
    before, after = (row_scores(Fused(q, None, task), y).mean() for q in (p, temper_labels(p, number)))
    assert after < before - 0.01


def test_without_rows_nothing_is_calibrated():
    nothing = torch.zeros(0).double()
    assert fit_labels_temperature(torch.zeros(0, 3).double(), torch.zeros(0, 3)) == 1
    assert fit_width(Fused(torch.zeros(0, 4).double(), None, LEVELS), nothing) == 1
    for kind, width in (("classification", 2), ("ordinal", 2), ("multilabel", 2), ("regression", 1)):
        task = TargetSchema(kind=kind, classes=["u", "v"] if width == 2 else [])
        variances = torch.zeros(0, 1).double() if kind == "regression" else None
        target = torch.zeros(0, 2) if kind == "multilabel" else nothing
        assert fit_calibration(Fused(torch.zeros(0, width).double(), variances, task), target) == 1
    assert fit_temperature(torch.zeros(0, 3).double(), nothing) == 1
    assert fit_scale(torch.zeros(0, 1).double(), torch.zeros(0, 1).double(), nothing) == 1


def test_probabilities_are_calibrated_by_a_temperature_and_values_by_a_scale():
    p, y = drawn_at(2.0, 500)
    assert fit_calibration(Fused(p), y) == fit_temperature(p, y)
    values = p[:, :1], p[:, 1:2] + 0.1, y.double()
    assert fit_calibration(Fused(*values[:2]), values[2]) == fit_scale(*values)


def test_each_kind_is_calibrated_by_a_number_of_its_own():
    p, y = drawn_at(2.0, 100)
    ordinal = TargetSchema(kind="ordinal", classes=["u", "v", "w"])
    assert fit_calibration(Fused(p, None, ordinal), y) == fit_temperature(p, y)
    q, labels = labels_at(2.0, 100)
    assert fit_calibration(Fused(q, None, TargetSchema(kind="multilabel", classes=["u", "v", "w"])), labels) == (
        fit_labels_temperature(q, labels)
    )
    fused, values = normal_quantiles(2.0, 100)
    assert fit_calibration(fused, values) == fit_width(fused, values)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_calibration_lowers_the_log_loss_on_fresh_rows(temperature):
    number = fit_temperature(*drawn_at(temperature, 2000, seed=1))
    p, y = drawn_at(temperature, 2000, seed=2)
    before, after = (-q.gather(1, y[:, None]).log().mean() for q in (p, temper(p, number)))
    assert after < before - 0.01


@pytest.mark.parametrize("kind", ["classification", "ordinal", "multilabel", "regression", "quantile"])
def test_calibrated_some_rows_at_a_time_it_is_the_same(said_of, monkeypatch, kind):
    outputs, y = said_of(kind, rows=50)
    fused = outputs.fused(outputs.values[0], None if outputs.variances is None else outputs.variances[0])
    number = fit_calibration(fused, y)
    whole = row_scores(calibrate(fused, number), y)
    np.testing.assert_array_equal(calibrated_scores(fused, y, number), whole)
    monkeypatch.setattr(calibration, "AT_ONCE", 7)
    assert fit_calibration(fused, y) == pytest.approx(number, rel=1e-6)
    np.testing.assert_allclose(calibrated_scores(fused, y, number), whole, rtol=1e-12)
