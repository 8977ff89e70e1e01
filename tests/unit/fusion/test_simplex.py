"""The weights of least log loss: against expectation maximisation, by the conditions of optimality, and never above greedy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuseline.fusion import simplex
from fuseline.fusion.mixtures import greedy_counts, log_loss
from fuseline.fusion.simplex import simplex_log_loss

LAWS = settings(derandomize=True, deadline=None, max_examples=40)
SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 80))
LEVELS = st.sampled_from([1e-7, 1e-4, 0.01, 0.3, 0.5, 0.9, 1.0])
CASES = st.one_of(
    SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=LEVELS)),
    SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(1e-7, 1))),
)


def loss(w, true):
    return -np.log(w @ true).mean()


def excess(w, true):
    """By how much w may be above the least loss at most: the gap of duality."""
    return (true / (w @ true)).mean(1).max() - 1


def by_maximisation(true, steps=20_000):
    w = np.full(len(true), 1 / len(true))
    for _ in range(steps):
        w = w * (true / (w @ true)).mean(1)
    return w / w.sum()


@LAWS
@given(CASES)
def test_no_member_would_help_more(true):
    w = simplex_log_loss(true)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert excess(w, true) <= 1e-9


@LAWS
@given(CASES, st.sampled_from([1, 5, 25]))
def test_its_loss_is_never_above_that_of_greedy_selection(true, steps):
    picked = greedy_counts(true, log_loss, steps) / steps
    assert loss(simplex_log_loss(true), true) <= loss(picked, true) + 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_it_is_where_expectation_maximisation_ends(seed):
    true = np.random.default_rng(seed).beta(0.8, 0.5, (6, 150)).clip(1e-7)
    w, slow = simplex_log_loss(true), by_maximisation(true)
    assert loss(w, true) == pytest.approx(loss(slow, true), abs=1e-9)
    assert w == pytest.approx(slow, abs=1e-3)


@LAWS
@given(CASES)
def test_a_dozen_steps_are_enough(true):
    assert (simplex_log_loss(true, most=25) == simplex_log_loss(true)).all()


def test_a_step_is_never_worse_than_one_of_expectation_maximisation(monkeypatch):
    """Whatever the quadratic problem says: here the worst member."""
    true = np.array([[0.9, 0.8, 0.1], [0.5, 0.6, 0.7], [1e-7, 1e-7, 1e-7]])
    monkeypatch.setattr(simplex, "simplex_squared_error", lambda errors: np.eye(3)[2])
    steps = [loss(simplex_log_loss(true, most=count), true) for count in range(60)]
    assert (np.diff(steps) <= 1e-14).all()
    assert steps[-1] == pytest.approx(loss(by_maximisation(true), true), abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 40, 10**6])
def test_taken_some_rows_at_a_time_it_is_the_same(monkeypatch, at_once):
    true = np.random.default_rng(0).uniform(0.01, 1, (5, 203))
    expected = simplex_log_loss(true)
    monkeypatch.setattr(simplex, "AT_ONCE", at_once)
    assert simplex_log_loss(true) == pytest.approx(expected, abs=1e-9)
