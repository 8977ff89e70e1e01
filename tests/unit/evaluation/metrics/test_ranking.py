"""Rankings: steps that are joined, and resamples to first order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fuseline.evaluation.metrics import METRICS, RESAMPLED, Predicted, ranking
from fuseline.evaluation.metrics.ranking import area, area_influence, average_precision, precision_influence, steps

RANKINGS = [
    (sk.roc_auc_score, area_influence),
    (sk.average_precision_score, precision_influence),
]


def random_case(seed, rows=30, digits=1):
    """Few digits make scores tie."""
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < 0.4
    positive[:2] = [True, False]
    return positive, (rng.random(rows) + 0.5 * positive).round(digits) / 1.5


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_there_are_no_more_steps_than_the_positive_scores_tell_apart(seed, digits):
    positive, score = random_case(seed, digits=digits)
    weights = np.random.default_rng(seed).integers(0, 3, (4, 30))
    ups, downs = steps(positive, score, weights)
    assert ups.shape == downs.shape == (4, 2 * len(np.unique(score[positive])) + 1)
    assert np.array_equal(ups.sum(1), weights @ positive)
    assert np.array_equal(downs.sum(1), weights @ ~positive)


def test_rows_of_one_side_alone_have_steps_and_no_area():
    for positive in (np.zeros(3, bool), np.ones(3, bool)):
        ups, downs = steps(positive, np.array([0.1, 0.5, 0.5]), np.ones((2, 3)))
        assert np.isnan(area(ups, downs)).all()
        assert np.isnan(average_precision(ups, downs)).all() == (not positive.any())


@pytest.mark.parametrize(("score_of", "influence_of"), RANKINGS)
@given(seed=st.integers(0, 10_000), digits=st.integers(1, 3))
def test_the_influence_is_the_derivative_by_how_often_a_row_is_drawn(score_of, influence_of, seed, digits):
    positive, score = random_case(seed, digits=digits)
    value, influence = influence_of(positive, score)
    assert value == pytest.approx(score_of(positive, score))
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    row, step = seed % 30, 1e-6
    more, less = (np.where(np.arange(30) == row, 1 + sign * step, 1.0) for sign in (1, -1))
    change = score_of(positive, score, sample_weight=more) - score_of(positive, score, sample_weight=less)
    assert influence[row] == pytest.approx(change / (2 * step), abs=1e-7)


@pytest.mark.parametrize("influence_of", [area_influence, precision_influence])
def test_rows_without_a_positive_one_have_no_value_and_no_influence(influence_of):
    value, influence = influence_of(np.zeros(4, bool), np.array([0.1, 0.2, 0.2, 0.4]))
    assert np.isnan(value)
    assert not influence.any()


def large_case(kind):
    rng = np.random.default_rng(3)
    codes, said = rng.integers(0, 3, 3000), rng.random((3000, 3))
    said[np.arange(3000), codes] += 0.5
    p = said / said.sum(1, keepdims=True)
    if kind == "classification":
        return codes, Predicted(p)
    truth = np.eye(3)[codes]
    truth[rng.random((3000, 3)) < 0.2] = np.nan
    truth[np.isnan(truth).all(1), 0] = 0
    return truth, Predicted(p)


@pytest.mark.parametrize(
    ("kind", "name"), [("classification", "roc_auc"), ("multilabel", "roc_auc"), ("multilabel", "average_precision")]
)
def test_to_first_order_is_close_to_exact_where_rows_are_many(monkeypatch, kind, name):
    target, predicted = large_case(kind)
    weights = np.random.default_rng(4).multinomial(3000, np.full(3000, 1 / 3000), size=200)
    exact = RESAMPLED[kind](target, predicted, weights, [name])[name]
    monkeypatch.setattr(ranking, "EXACT", predicted.values.size - 1)
    first = RESAMPLED[kind](target, predicted, weights, [name])[name]
    assert not np.array_equal(first, exact)
    assert np.abs(first - exact).max() < 0.25 * exact.std()
    assert first.std() == pytest.approx(exact.std(), rel=0.02)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_points_are_the_same_to_first_order(monkeypatch, kind):
    target, predicted = large_case(kind)
    ones = np.ones((1, 3000))
    names = [name for name in METRICS[kind] if name in ("roc_auc", "average_precision")]
    exact = RESAMPLED[kind](target, predicted, ones, names)
    monkeypatch.setattr(ranking, "EXACT", 0)
    first = RESAMPLED[kind](target, predicted, ones, names)
    assert {name: float(v[0]) for name, v in first.items()} == pytest.approx({name: float(v[0]) for name, v in exact.items()})


def test_up_to_as_many_scores_as_are_said_to_be_exact_nothing_is_approximated(monkeypatch):
    target, predicted = large_case("classification")
    weights = np.random.default_rng(4).multinomial(3000, np.full(3000, 1 / 3000), size=3)
    monkeypatch.setattr(ranking, "EXACT", predicted.values.size)
    got = RESAMPLED["classification"](target, predicted, weights, ["roc_auc"])["roc_auc"]
    for b, w in enumerate(weights):
        areas = [sk.roc_auc_score(target == c, predicted.values[:, c], sample_weight=w) for c in range(3)]
        assert got[b] == pytest.approx(np.mean(areas), rel=1e-12)


def test_classes_that_no_row_has_are_left_out_to_first_order_too(monkeypatch):
    monkeypatch.setattr(ranking, "EXACT", 0)
    target, predicted = large_case("classification")
    wider = Predicted(np.column_stack([predicted.values, np.full(3000, 0.01)]))
    weights = np.random.default_rng(4).multinomial(3000, np.full(3000, 1 / 3000), size=3)
    narrow, wide = (RESAMPLED["classification"](target, said, weights, ["roc_auc"])["roc_auc"] for said in (predicted, wider))
    assert wide == pytest.approx(narrow)
    alone = RESAMPLED["classification"](np.zeros(3000, int), predicted, weights, ["roc_auc"])["roc_auc"]
    assert np.isnan(alone).all()
