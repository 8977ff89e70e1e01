"""What holds of the metrics of every kind of target."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import LOWER_IS_BETTER, METRICS, POINT, RESAMPLED, SHARES, UNDIRECTED, Predicted
from fuseline.terms import Kind

KINDS = get_args(Kind)
LEVELS = np.array([0.1, 0.5, 0.8])
LAWS = settings(derandomize=True, deadline=None, max_examples=8)


def random_case(kind, seed, rows=12):
    """Few rows, of which resamples lose classes and labels; coarse probabilities, so that scores tie."""
    rng = np.random.default_rng(seed)
    if kind in ("classification", "ordinal"):
        parts = rng.integers(1, 5, (rows, 4)).astype(float)
        return rng.integers(0, 4, rows), Predicted(parts / parts.sum(1, keepdims=True))
    if kind == "multilabel":
        truth = rng.integers(0, 2, (rows, 3)).astype(float)
        truth[rng.random((rows, 3)) < 0.4] = np.nan
        truth[np.isnan(truth).all(1), 0] = 1
        return truth, Predicted(rng.integers(1, 10, (rows, 3)) / 10)
    mean, deviation = rng.normal(size=(rows, 1)), rng.gamma(2, size=(rows, 1))
    y = rng.normal(mean, deviation)[:, 0]
    if kind == "regression":
        return y, Predicted(mean, deviation**2)
    return y, Predicted(mean + deviation * norm.ppf(LEVELS), levels=LEVELS)


def rows_of(predicted, rows):
    variances = None if predicted.variances is None else predicted.variances[rows]
    return Predicted(predicted.values[rows], variances, predicted.levels)


@pytest.mark.parametrize("kind", KINDS)
@LAWS
@given(seed=st.integers(0, 10_000))
def test_a_resample_equals_the_point_of_the_rows_it_draws(kind, seed):
    target, predicted = random_case(kind, seed)
    weights = np.random.default_rng(seed + 1).multinomial(12, np.full(12, 1 / 12), size=2)
    got = RESAMPLED[kind](target, predicted, weights.astype(float))
    for b, w in enumerate(weights):
        drawn = np.repeat(np.arange(12), w)
        expected = POINT[kind](target[drawn], rows_of(predicted, drawn))
        assert {name: values[b] for name, values in got.items()} == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@LAWS
@given(seed=st.integers(0, 10_000))
def test_the_order_of_rows_changes_nothing(kind, seed):
    target, predicted = random_case(kind, seed)
    order = np.random.default_rng(seed).permutation(12)
    assert POINT[kind](target[order], rows_of(predicted, order)) == pytest.approx(POINT[kind](target, predicted), nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_has_a_point_and_resamples_in_the_order_of_its_kind(kind):
    target, predicted = random_case(kind, 0)
    point, resampled = POINT[kind](target, predicted), RESAMPLED[kind](target, predicted, np.ones((5, 12)))
    assert tuple(point) == tuple(resampled) == METRICS[kind]
    assert all(type(value) is float for value in point.values())
    assert all(values.shape == (5,) for values in resampled.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_in_float32_is_measured_in_float64(kind):
    target, predicted = random_case(kind, 1)
    coarse = predicted._replace(values=predicted.values.astype(np.float32))
    if kind in ("classification", "ordinal"):
        coarse = coarse._replace(values=np.float32([[0.25, 0.25, 0.25, 0.25]] * 12))  # what adds up to 1 in float32 too
    fine = coarse._replace(values=coarse.values.astype(np.float64))
    assert POINT[kind](target, coarse) == pytest.approx(POINT[kind](target, fine), nan_ok=True, rel=1e-12)
    assert all(values.dtype == np.float64 for values in RESAMPLED[kind](target, coarse, np.ones((2, 12))).values())


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_alone_has_metrics_that_are_numbers_or_nan(kind):
    target, predicted = random_case(kind, 2)
    point = POINT[kind](target[:1], rows_of(predicted, [0]))
    resampled = RESAMPLED[kind](target[:1], rows_of(predicted, [0]), np.ones((1, 1)))
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx(point, nan_ok=True)
    headline = METRICS[kind][0]
    assert np.isfinite(point[headline])


def test_each_kind_has_metrics_and_each_named_set_names_known_ones():
    every = {name for names in METRICS.values() for name in names}
    assert tuple(METRICS) == tuple(POINT) == tuple(RESAMPLED) == KINDS
    assert LOWER_IS_BETTER.issubset(every)
    assert UNDIRECTED <= SHARES <= every
    assert not LOWER_IS_BETTER & UNDIRECTED
    assert set(metrics.__all__) <= set(dir(metrics))
