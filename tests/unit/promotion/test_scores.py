"""Scores of rows: their mean is the metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuseline.evaluation.metrics import LOWER_IS_BETTER, METRICS, POINT, Predicted
from fuseline.promotion.scores import DEFAULT, PER_ROW, can_lose, row_gains, row_scores
from fuseline.terms import Kind

ROWS, CLASSES = 40, 4


def given(kind: Kind, seed: int = 0) -> tuple[Any, Predicted]:
    random = np.random.default_rng(seed)
    if kind in ("classification", "ordinal"):
        p = random.dirichlet(np.ones(CLASSES), ROWS)
        return np.random.default_rng(9).integers(0, CLASSES, ROWS), Predicted(p)
    if kind == "multilabel":
        truth = np.random.default_rng(9).integers(0, 2, (ROWS, CLASSES)).astype(float)
        truth[np.random.default_rng(8).random(truth.shape) < 0.2] = np.nan
        truth[:, 0] = 1
        return truth, Predicted(random.random((ROWS, CLASSES)))
    truth = np.random.default_rng(9).normal(size=ROWS)
    if kind == "regression":
        return truth, Predicted(random.normal(size=(ROWS, 1)), random.random((ROWS, 1)) + 0.1)
    return truth, Predicted(np.sort(random.normal(size=(ROWS, 3)), axis=1), levels=np.array([0.1, 0.5, 0.9]))


EVERY = [(kind, metric) for kind, metrics in PER_ROW.items() for metric in metrics]


@pytest.mark.parametrize(("kind", "metric"), EVERY)
def test_the_mean_of_the_rows_scores_is_the_metric(kind: Kind, metric: str) -> None:
    target, said = given(kind)
    its = row_scores(kind, metric, target, said)
    assert its.scores.shape == its.weights.shape == (ROWS,)
    assert its.scores.sum() / its.weights.sum() == pytest.approx(POINT[kind](target, said, [metric])[metric])


@pytest.mark.parametrize(("kind", "metric"), EVERY)
def test_a_gain_is_how_much_better_the_metric_is(kind: Kind, metric: str) -> None:
    (target, old), (_, new) = given(kind, 1), given(kind, 2)
    gains = row_gains(kind, metric, target, old, new)
    before, after = (POINT[kind](target, said, [metric])[metric] for said in (old, new))
    expected = before - after if metric in LOWER_IS_BETTER else after - before
    assert gains.scores.sum() / gains.weights.sum() == pytest.approx(expected)
    assert (gains.scores >= -can_lose(metric) * gains.weights - 1e-12).all() or not can_lose(metric)


def test_every_kind_has_a_default_and_all_its_metrics_are_known() -> None:
    assert all(DEFAULT[kind] in metrics and set(metrics) <= set(METRICS[kind]) for kind, metrics in PER_ROW.items())


def test_the_scores_of_a_root_follow_each_row_as_its_derivative_does() -> None:
    """Against what the root loses if a row counts a little more."""
    target, said = given("regression")
    squares = (said.values[:, 0] - target) ** 2
    its = row_scores("regression", "rmse", target, said).scores
    root = np.sqrt(squares.mean())
    for row in range(3):
        weights = np.ones(ROWS)
        weights[row] += 1e-6
        moved = (np.sqrt(np.average(squares, weights=weights)) - root) / 1e-6 * ROWS
        assert moved == pytest.approx(its[row] - root, rel=1e-4)


def test_a_model_without_error_has_no_score_to_divide_by() -> None:
    exact = Predicted(np.zeros((3, 1)))
    assert row_scores("regression", "rmse", np.zeros(3), exact).scores.tolist() == [0, 0, 0]
