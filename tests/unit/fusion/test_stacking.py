"""Stacking against scikit-learn, the penalised optimum's own conditions and a least squares computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fuseline.fusion.combine import Outputs
from fuseline.fusion.stacking import stacking

LAWS = settings(derandomize=True, deadline=None, max_examples=20)
NO_RANDOMNESS = torch.Generator().manual_seed(0)


def classes_said(seed, members=3, rows=150, classes=3):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    logits = rng.normal(size=(members, rows, classes)) + rng.uniform(0, 2, (members, 1, 1)) * np.eye(classes)[y]
    return Outputs(torch.from_numpy(logits).softmax(2)), torch.from_numpy(y)


def values_said(seed, members=3, rows=40, unit=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    values = y * rng.uniform(0.5, 1.5, (members, 1)) + rng.normal(size=(members, rows)) + rng.normal(size=(members, 1))
    shape = (members, rows, 1)
    return Outputs(torch.from_numpy(unit * values + offset)[:, :, None], torch.ones(shape).double()), torch.from_numpy(
        unit * y + offset
    )


def log_features(outputs):
    return np.concatenate([np.log(np.clip(member, 1e-7, None)) for member in outputs.values.numpy()], axis=1)


def shrunk_least_squares(outputs, y, l2):
    """Least squares of y minus the members' mean, in units of y's spread, with rows of √l2 that pull coefficients to 0."""
    values, unit = outputs.values.numpy()[:, :, 0].T, y.numpy().std()
    even = values.mean(1)
    rows, members = values.shape
    design = np.vstack([np.column_stack([values / unit, np.ones(rows)]), np.eye(members, members + 1) * np.sqrt(l2)])
    found = np.linalg.lstsq(design, np.append((y.numpy() - even) / unit, np.zeros(members)), rcond=None)[0]
    return even + unit * (values / unit @ found[:members] + found[members])


@pytest.mark.parametrize("l2", [0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_stacking_equals_scikit_learn_on_log_probabilities(classes, l2):
    outputs, y = classes_said(classes, classes=classes)
    expected = LogisticRegression(C=1 / l2, max_iter=500).fit(log_features(outputs), y.numpy())
    got = stacking(outputs, y, NO_RANDOMNESS, l2=l2)(outputs).values.numpy()
    assert got == pytest.approx(expected.predict_proba(log_features(outputs)), abs=1e-6)


@pytest.mark.parametrize("l2", [1.0, 10.0])
def test_logistic_stacking_meets_the_conditions_of_its_penalised_optimum(l2):
    outputs, y = classes_said(7)
    combiner = stacking(outputs, y, NO_RANDOMNESS, l2=l2)
    residual = combiner(outputs).values.numpy() - np.eye(3)[y.numpy()]
    pull = residual.T @ log_features(outputs)
    assert np.abs(pull + l2 * combiner.coefficients.numpy()).max() < 0.1 * np.abs(pull).max()
    assert np.abs(residual.sum(0)).max() < 0.05


def test_a_larger_penalty_gives_smaller_coefficients():
    outputs, y = classes_said(8)
    sizes = [float(stacking(outputs, y, NO_RANDOMNESS, l2=l2).coefficients.norm()) for l2 in (0.1, 10.0, 1000.0)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_logistic_stacking_listens_to_the_member_that_knows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    knows = np.where(np.eye(2)[y] == 1, 0.9, 0.1)
    outputs = Outputs(torch.from_numpy(np.stack([rng.dirichlet([1, 1], 400), knows])))
    combiner = stacking(outputs, torch.from_numpy(y), NO_RANDOMNESS)
    assert combiner.coefficients[:, 2:].norm() > 10 * combiner.coefficients[:, :2].norm()


@pytest.mark.parametrize("present", [[0, 1], [0, 2], [1, 2], [0, 1, 3]])
def test_a_class_that_the_rows_lack_is_possible_but_improbable(present):
    outputs, y = classes_said(9, classes=max(present) + 2)
    rows = torch.isin(y, torch.tensor(present)).nonzero()[:, 0]
    outputs, y = outputs.rows(rows), y[rows]
    said = stacking(outputs, y, NO_RANDOMNESS)(outputs).values
    absent = [c for c in range(said.shape[1]) if c not in present]
    assert torch.isfinite(said).all()
    assert torch.allclose(said.sum(1), torch.ones(len(y)).double())
    assert (said > 0).all()
    assert said[:, absent].mean() < 1 / len(y)
    expected = LogisticRegression(C=0.1, max_iter=500).fit(log_features(outputs), y.numpy())
    odds = said[:, present] / said[:, present].sum(1, keepdim=True)
    assert odds.numpy() == pytest.approx(expected.predict_proba(log_features(outputs)), abs=1e-6)


def test_rows_of_a_single_class_give_finite_probabilities():
    outputs, y = classes_said(10, rows=20)
    said = stacking(outputs, torch.zeros_like(y), NO_RANDOMNESS)(outputs).values
    assert torch.isfinite(said).all()
    assert (said.argmax(1) == 0).all()


@LAWS
@given(st.integers(0, 9999), st.integers(1, 5), st.sampled_from([1e-3, 1.0, 10.0, 1e4]))
def test_ridge_equals_shrunk_least_squares(seed, members, l2):
    outputs, y = values_said(seed, members)
    got = stacking(outputs, y, NO_RANDOMNESS, l2=l2)(outputs).values[:, 0].numpy()
    assert got == pytest.approx(shrunk_least_squares(outputs, y, l2), rel=1e-6, abs=1e-8)


def test_an_endless_penalty_leaves_the_members_mean_less_its_bias():
    outputs, y = values_said(1)
    combiner = stacking(outputs, y, NO_RANDOMNESS, l2=1e12)
    even = outputs.values[:, :, 0].mean(0)
    assert combiner.coefficients.tolist() == pytest.approx([1 / 3] * 3)
    assert combiner(outputs).values[:, 0].numpy() == pytest.approx((even + (y - even).mean()).numpy())


def test_no_penalty_gives_least_squares():
    outputs, y = values_said(2)
    design = np.column_stack([outputs.values.numpy()[:, :, 0].T, np.ones(40)])
    expected = design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    assert stacking(outputs, y, NO_RANDOMNESS, l2=1e-9)(outputs).values[:, 0].numpy() == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "offset"), [(1000.0, 0.0), (1e-6, 0.0), (1.0, 1e6), (0.1, -30.0)])
def test_ridge_follows_the_targets_unit_and_origin(unit, offset):
    plain, y = values_said(3)
    moved, moved_y = values_said(3, unit=unit, offset=offset)
    expected = stacking(plain, y, NO_RANDOMNESS)(plain).values * unit + offset
    assert torch.allclose(stacking(moved, moved_y, NO_RANDOMNESS)(moved).values, expected, rtol=1e-9, atol=1e-7 * unit)


@pytest.mark.parametrize("constant", [0.0, 0.1, 7.0])
def test_a_target_that_does_not_vary_is_met_without_large_coefficients(constant):
    outputs, _ = values_said(4)
    combiner = stacking(outputs, torch.full((40,), constant).double(), NO_RANDOMNESS)
    assert combiner.coefficients.abs().max() < 2
    assert torch.isfinite(combiner(outputs).values).all()
