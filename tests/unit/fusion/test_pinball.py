"""The linear programmes against a grid, the primal, and scikit-learn's quantile regression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.linear_model import QuantileRegressor

from fuseline.fusion.pinball import quantile_regression, simplex_pinball

LAWS = settings(derandomize=True, deadline=None, max_examples=25)
SEEDS = st.integers(0, 9999)


def mean_pinball(w, errors, levels):
    residual = -(w @ errors)
    return np.maximum(levels * residual, (levels - 1) * residual).mean()


def some(seed, members=3, rows=12, levels=(0.1, 0.5, 0.8), unit=1.0):
    rng = np.random.default_rng(seed)
    errors = rng.normal(rng.normal(size=(members, 1)), rng.uniform(0.2, 2, (members, 1)), (members, rows * len(levels)))
    return errors * unit, np.tile(levels, rows)


def primal(errors, levels):
    """min Σ τu + (1 − τ)v with w·e + u − v = 0, w on the simplex: the least loss by the textbook's programme."""
    members, n = errors.shape
    cost = np.concatenate([np.zeros(members), levels, 1 - levels])
    total = np.append(np.ones(members), np.zeros(2 * n))
    equations = np.vstack([np.hstack([errors.T, np.eye(n), -np.eye(n)]), total])
    return linprog(cost, A_eq=equations, b_eq=np.append(np.zeros(n), 1.0), method="highs").fun / n


@pytest.mark.parametrize("seed", range(6))
def test_no_weights_on_a_grid_do_better(seed):
    errors, levels = some(seed)
    steps = np.arange(101) / 100
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1]
    losses = [mean_pinball(np.array(w), errors, levels) for w in grid]
    w = simplex_pinball(errors, levels)
    assert mean_pinball(w, errors, levels) <= min(losses) + 1e-12
    assert np.abs(w - grid[int(np.argmin(losses))]).max() < 0.1
    assert min(losses) < 0.9 * max(losses)


@LAWS
@given(SEEDS, st.integers(1, 6), st.integers(1, 15), st.sampled_from([1e-6, 1.0, 1e6]))
def test_weights_reach_the_least_loss_of_the_primal(seed, members, rows, unit):
    errors, levels = some(seed, members, rows)
    w = simplex_pinball(errors * unit, levels)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert mean_pinball(w, errors, levels) == pytest.approx(primal(errors, levels), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("exploded", [1e2, 1e4, 1e6, 1e8, 1e10])
def test_a_member_that_diverged_does_not_spoil_the_others(exploded):
    errors, levels = some(0, members=4, rows=20)
    errors[2] = exploded * np.random.default_rng(1).normal(1, 0.1, errors.shape[1])
    w = simplex_pinball(errors, levels)
    sane = errors[[0, 1, 3]]
    assert mean_pinball(w, errors, levels) <= mean_pinball(simplex_pinball(sane, levels), sane, levels) + 1e-9


def test_members_without_error_share_the_weight():
    errors = np.array([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]])
    assert simplex_pinball(errors, np.array([0.1, 0.9])).tolist() == [0.5, 0.0, 0.5]


@LAWS
@given(SEEDS, st.integers(2, 30), st.integers(1, 4), st.floats(0.05, 0.95), st.sampled_from([0.01, 0.3, 10.0]))
def test_quantile_regression_is_as_good_as_scikit_learns(seed, rows, columns, level, l1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) + rng.normal(size=(rows, 1))
    y = x[:, 0] + rng.normal(size=rows)
    theirs = QuantileRegressor(quantile=level, alpha=l1 / rows, solver="highs").fit(x, y)

    def cost(b, c):
        return rows * mean_pinball(np.ones(1), (x @ b + c - y)[None], level) + l1 * np.abs(b).sum()

    assert cost(*quantile_regression(x, y, level, l1)) == pytest.approx(cost(theirs.coef_, theirs.intercept_), abs=1e-8)


def test_a_strong_penalty_leaves_the_quantile_of_the_target():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(101, 3)), rng.normal(size=101)
    b, c = quantile_regression(x, y, 0.25, 1e4)
    assert b.tolist() == [0, 0, 0]
    assert c == pytest.approx(np.sort(y)[25])


def test_the_unit_of_a_column_is_taken_up_by_its_coefficient():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    y = y + 3 * x[:, 0]
    plain, c = quantile_regression(x, y, 0.7, 1e-12)
    moved, same = quantile_regression(x * [1e6, 1.0], y, 0.7, 1e-12)
    assert moved * [1e6, 1.0] == pytest.approx(plain)
    assert same == pytest.approx(c)
