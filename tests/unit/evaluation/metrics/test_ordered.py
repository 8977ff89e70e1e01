"""Ordinal metrics against scikit-learn and naive definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.ordered import median_class, ranked_probability_scores


def random_case(seed, rows=90, classes=5):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), rows)
    return np.array([rng.choice(classes, p=p) for p in probabilities]), probabilities


def ordinal(target, probabilities):
    return metrics.ordinal(target, Predicted(probabilities))


def naive_kappa(target, said, classes):
    """Cohen 1968, from the table of counts and the product of its margins."""
    table, chance, weight = np.zeros((classes,) * 2), np.zeros((classes,) * 2), np.zeros((classes,) * 2)
    for i in range(classes):
        for j in range(classes):
            table[i, j] = np.mean((target == i) & (said == j))
            chance[i, j] = np.mean(target == i) * np.mean(said == j)
            weight[i, j] = (i - j) ** 2 / (classes - 1) ** 2
    return 1 - (weight * table).sum() / (weight * chance).sum()


def naive_rps(code, p):
    """The loop of Epstein 1969, divided by the number of steps."""
    return sum((sum(p[: c + 1]) - (code <= c)) ** 2 for c in range(len(p) - 1)) / (len(p) - 1)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_points_equal_naive_definitions_and_classifications(seed, classes):
    target, p = random_case(seed, classes=classes)
    said = median_class(p)
    got, unordered = ordinal(target, p), metrics.classification(target, Predicted(p))
    assert tuple(got) == metrics.ORDINAL
    assert got["mae"] == pytest.approx(np.mean([abs(a - b) for a, b in zip(target, said, strict=True)]))
    assert got["kappa_quadratic"] == pytest.approx(naive_kappa(target, said, classes))
    assert got["rps"] == pytest.approx(np.mean([naive_rps(y, row) for y, row in zip(target, p, strict=True)]))
    for name in ("accuracy", "balanced_accuracy", "log_loss", "brier", "ece"):
        assert got[name] == unordered[name]


@pytest.mark.parametrize("seed", range(4))
def test_resampled_kappa_and_mae_equal_scikit_learn_with_sample_weights(seed):
    target, p = random_case(seed, rows=40)
    said, weights = median_class(p), np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40), size=4).astype(float)
    got = metrics.resampled_ordinal(target, Predicted(p), weights)
    kappa = [sk.cohen_kappa_score(target, said, weights="quadratic", sample_weight=w) for w in weights]
    assert got["kappa_quadratic"] == pytest.approx(kappa)
    assert got["mae"] == pytest.approx([sk.mean_absolute_error(target, said, sample_weight=w) for w in weights])


def test_a_perfect_forecast():
    target = np.array([0, 1, 2, 3, 3])
    expected = {
        "accuracy": 1,
        "mae": 0,
        "kappa_quadratic": 1,
        "rps": 0,
        "balanced_accuracy": 1,
        "log_loss": 0,
        "brier": 0,
        "ece": 0,
    }
    assert ordinal(target, np.eye(4)[target]) == pytest.approx(expected, abs=1e-12)


def test_the_order_reversed_has_a_negative_kappa_and_the_worst_rps():
    target = np.array([0, 0, 3, 3])
    got = ordinal(target, np.eye(4)[3 - target])
    assert (got["kappa_quadratic"], got["rps"], got["mae"]) == (-1, 1, 3)


def test_one_class_alone_has_no_kappa_and_a_constant_answer_a_kappa_of_zero():
    p, target = np.eye(3)[[1, 1, 1]], np.array([1, 1, 2])
    assert np.isnan(ordinal(target[:2], p[:2])["kappa_quadratic"])
    assert ordinal(target, p)["kappa_quadratic"] == pytest.approx(0)
    resampled = metrics.resampled_ordinal(target, Predicted(p), np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]))
    assert np.isnan(resampled["kappa_quadratic"][0])
    assert resampled["kappa_quadratic"][1] == pytest.approx(0)


def test_a_larger_error_costs_more_where_the_order_counts_and_as_much_where_it_does_not():
    target = np.array([0, 1, 2, 3])
    near, far = (ordinal(target, np.eye(4)[said]) for said in ([1, 1, 2, 3], [3, 1, 2, 3]))
    assert near["mae"] < far["mae"]
    assert near["rps"] < far["rps"]
    assert near["kappa_quadratic"] > far["kappa_quadratic"]
    assert near["accuracy"] == far["accuracy"]
    assert near["brier"] == far["brier"]


@given(st.integers(0, 10_000), st.integers(2, 7))
def test_the_median_class_has_the_least_expected_distance(seed, classes):
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), 20)
    distance = np.abs(np.arange(classes)[:, None] - np.arange(classes))
    assert np.array_equal(median_class(p), (p @ distance).argmin(1))


def test_a_half_that_rounding_has_taken_a_hair_from_is_a_half():
    p = np.float32([[0.45, 0.05, 0.5], [0.35, 0.15, 0.5], [0.3, 0.2, 0.5]]) - np.float32(1e-8)
    assert (p.astype(np.float64)[:, :2].sum(1) < 0.5).any()
    assert median_class(p.astype(np.float64)).tolist() == [1, 1, 1]


@given(st.integers(0, 10_000), st.integers(2, 7))
def test_the_rps_lies_between_zero_and_one_and_of_two_classes_is_half_the_brier_score(seed, classes):
    target, p = random_case(seed, rows=30, classes=classes)
    scores = ranked_probability_scores(target, p)
    assert ((scores >= 0) & (scores <= 1)).all()
    if classes == 2:
        assert scores.mean() == pytest.approx(ordinal(target, p)["brier"] / 2)


def test_no_other_distribution_has_a_lower_expected_rps_than_the_true_one():
    rng = np.random.default_rng(4)
    true = rng.dirichlet(np.ones(4))

    def expected(said):
        return true @ ranked_probability_scores(np.arange(4), np.tile(said, (4, 1)))

    assert all(expected(true) < expected(other) for other in rng.dirichlet(np.ones(4), 200))


def test_a_single_class_is_always_right():
    assert ranked_probability_scores(np.array([0, 0]), np.ones((2, 1))).tolist() == [0, 0]
