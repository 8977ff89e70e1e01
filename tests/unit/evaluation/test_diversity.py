"""Diversity against hand-made 2x2 tables, scikit-learn and numpy."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from fuseline.evaluation.diversity import (
    COUNTED,
    DIVERSITY,
    agreement,
    classification_diversity,
    mean_pair,
    multilabel_diversity,
    regression_diversity,
)
from fuseline.evaluation.metrics import METRICS, Predicted

CLASSIFICATION = {"disagreement", "q", "kappa", "double_fault", "correlation"}


def random_members(seed=0, members=4, rows=80, classes=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, rows), rng.dirichlet(np.ones(classes), (members, rows))


def two_members(both, only_first, only_second, neither):
    """Two members of a two-class problem, all of whose true codes are 0, with this table of who is right."""
    first = [0] * (both + only_first) + [1] * (only_second + neither)
    second = [0] * both + [1] * only_first + [0] * only_second + [1] * neither
    return np.zeros(len(first), int), np.eye(2)[np.array([first, second])]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((4, 3, 2, 1), {"disagreement": 0.5, "q": -0.2, "double_fault": 0.1, "correlation": -2 / np.sqrt(7 * 3 * 6 * 4)}),
        ((5, 0, 0, 5), {"disagreement": 0.0, "q": 1.0, "double_fault": 0.5, "correlation": 1.0, "kappa": 1.0}),
        ((0, 5, 5, 0), {"disagreement": 1.0, "q": -1.0, "double_fault": 0.0, "correlation": -1.0, "kappa": -1.0}),
        ((4, 4, 4, 4), {"disagreement": 0.5, "q": 0.0, "double_fault": 0.25, "correlation": 0.0, "kappa": 0.0}),
    ],
)
def test_tables_made_by_hand(table, expected):
    got = classification_diversity(*two_members(*table))
    assert {name: got[name][0, 1] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_kappa_equals_scikit_learns_of_the_classes_named(seed):
    target, p = random_members(seed)
    said, kappa = p.argmax(2), classification_diversity(target, p)["kappa"]
    for i in range(4):
        for j in range(4):
            assert kappa[i, j] == pytest.approx(cohen_kappa_score(said[i], said[j]))


@pytest.mark.parametrize("seed", range(3))
def test_correlation_and_disagreement_equal_numpys(seed):
    target, p = random_members(seed)
    said, got = p.argmax(2), classification_diversity(target, p)
    assert got["correlation"] == pytest.approx(np.corrcoef(said == target))
    assert got["disagreement"] == pytest.approx(np.array([[(a != b).mean() for b in said] for a in said]))
    assert got["double_fault"] == pytest.approx(np.array([[((a != target) & (b != target)).mean() for b in said] for a in said]))


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 40), st.integers(2, 6))
def test_what_is_counted_by_codes_equals_products_of_one_hot_tables(seed, members, rows, classes):
    target, p = random_members(seed, members, rows, classes)
    said = np.eye(classes)[p.argmax(2)]  # (M, N, C)
    right = (said * np.eye(classes)[target]).sum(2)
    agree, named = np.einsum("inc,jnc->ij", said, said) / rows, said.mean(1)
    got = classification_diversity(target, p)
    assert got["disagreement"] == pytest.approx(1 - agree)
    assert got["double_fault"] == pytest.approx((1 - right) @ (1 - right).T / rows)
    chance = named @ named.T
    known = np.abs(1 - chance) > 1e-9
    assert np.array_equal(np.isnan(got["kappa"]), ~known)
    assert got["kappa"][known] == pytest.approx(((agree - chance) / np.where(known, 1 - chance, 1))[known])
    a, d = right @ right.T, (1 - right) @ (1 - right).T
    b, c = right @ (1 - right).T, (1 - right) @ right.T
    some = a * d + b * c > 0
    assert np.array_equal(np.isnan(got["q"]), ~some)
    assert got["q"][some] == pytest.approx((a * d - b * c)[some] / (a * d + b * c)[some])


@pytest.mark.parametrize("classes", [2, 256, 257, 300])
def test_however_many_classes_there_are_codes_stay_apart(classes):
    said = np.array([[0, classes - 1], [classes - 1, classes - 1]])
    got = agreement(np.array([0, classes - 1]), said, classes)
    assert got.right.tolist() == [[2, 1], [1, 1]]
    assert got.same.tolist() == [[2, 1], [1, 2]]
    assert got.said.shape == (2, classes)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 30), max_size=3), st.sampled_from(["classification", "regression"]))
def test_what_is_counted_of_blocks_adds_up_to_what_is_counted_of_all_rows(seed, cuts, kind):
    rng = np.random.default_rng(seed)
    values = 1e3 + rng.normal(size=(4, 30, 1))
    target, said = (rng.normal(size=30), values) if kind == "regression" else random_members(seed, rows=30)
    edges = [0, *sorted(cuts), 30]
    parts = [COUNTED[kind](target[i:j], Predicted(said[:, i:j])) for i, j in pairwise(edges)]
    together, whole = reduce(add, parts).tables(), COUNTED[kind](target, Predicted(said)).tables()
    for name, table in whole.items():
        assert together[name] == pytest.approx(table, rel=1e-9, abs=1e-9, nan_ok=True), name


def test_tables_are_symmetric_and_follow_the_order_of_members():
    target, p = random_members()
    order, got = [2, 0, 3, 1], classification_diversity(target, p)
    permuted = classification_diversity(target, p[order])
    assert set(got) == CLASSIFICATION
    for name, table in got.items():
        assert table == pytest.approx(table.T)
        assert permuted[name] == pytest.approx(table[np.ix_(order, order)])


def test_identical_members_are_not_diverse():
    target, p = random_members(members=1)
    got = classification_diversity(target, np.repeat(p, 3, axis=0))
    wrong = (p[0].argmax(1) != target).mean()
    expected = {"disagreement": 0, "q": 1, "kappa": 1, "double_fault": wrong, "correlation": 1}
    for name, value in expected.items():
        assert got[name] == pytest.approx(np.full((3, 3), value)), name


def test_measures_without_a_denominator_are_nan():
    got = classification_diversity(*two_members(6, 0, 0, 0))
    assert {name for name in got if np.isnan(got[name]).all()} == {"q", "kappa", "correlation"}


def test_regression_correlates_errors_and_not_values():
    rng = np.random.default_rng(1)
    target, values = 100 * rng.normal(size=50), rng.normal(size=(3, 50))
    got = regression_diversity(target, target + values)
    assert got["correlation"] == pytest.approx(np.corrcoef(values))
    expected = [[np.sqrt(np.mean((a - b) ** 2)) for b in values] for a in values]
    assert got["disagreement"] == pytest.approx(np.array(expected))


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1.0, 1e6])
def test_the_targets_unit_does_not_change_the_correlation_of_errors(unit):
    rng = np.random.default_rng(2)
    target, values = rng.normal(size=50), rng.normal(size=(3, 50))
    got = regression_diversity(unit * target, unit * values)
    assert got["correlation"] == pytest.approx(np.corrcoef(values - target))
    assert got["disagreement"][0, 1] == pytest.approx(unit * np.sqrt(np.mean((values[0] - values[1]) ** 2)))


def test_identical_values_and_a_constant_error():
    rng = np.random.default_rng(3)
    target, values = rng.normal(size=20), rng.normal(size=20)
    got = regression_diversity(target, np.stack([values, values, target + 0.25]))
    assert got["disagreement"][0, 1] == 0
    assert got["correlation"][0, 1] == pytest.approx(1)
    assert np.isnan(got["correlation"][2]).all()


def test_the_mean_over_pairs_counts_each_pair_once_without_the_diagonal():
    table = np.array([[9.0, 1.0, 2.0], [1.0, 9.0, 6.0], [2.0, 6.0, 9.0]])
    assert mean_pair(table) == 3
    table[0, 1] = table[1, 0] = np.nan
    assert mean_pair(table) == 4


@pytest.mark.parametrize("table", [np.ones((1, 1)), np.full((2, 2), np.nan)])
def test_the_mean_over_no_pairs_is_nan(table):
    assert np.isnan(mean_pair(table))


def random_labels(seed, members=3, rows=40, labels=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (rows, labels)).astype(float)
    truth[rng.random((rows, labels)) < 0.3] = np.nan
    return truth, rng.random((members, rows, labels))


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_counted_one_by_one_where_they_are_known(seed):
    truth, p = random_labels(seed)
    cells = [(n, c) for n in range(40) for c in range(4) if not np.isnan(truth[n, c])]
    said = np.array([[member[n, c] > 0.5 for n, c in cells] for member in p])
    true = np.array([truth[n, c] == 1 for n, c in cells])
    got = multilabel_diversity(truth, p)
    assert set(got) == CLASSIFICATION
    assert got["disagreement"] == pytest.approx(np.array([[(a != b).mean() for b in said] for a in said]))
    assert got["double_fault"] == pytest.approx(np.array([[((a != true) & (b != true)).mean() for b in said] for a in said]))
    assert got["correlation"] == pytest.approx(np.corrcoef(said == true))
    assert got["kappa"] == pytest.approx(np.array([[cohen_kappa_score(a, b) for b in said] for a in said]))


def test_one_label_is_a_classification_of_two_classes():
    truth, p = random_labels(5, labels=1)
    known = ~np.isnan(truth[:, 0])
    two = np.concatenate([1 - p, p], axis=2)[:, known]
    expected = classification_diversity(truth[known, 0].astype(int), two)
    assert all(table == pytest.approx(expected[name]) for name, table in multilabel_diversity(truth, p).items())


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


def test_each_kind_of_target_has_its_measures():
    target, p = random_members()
    expected = classification_diversity(target, p)
    assert equal(DIVERSITY["classification"](target, Predicted(p)), expected)
    assert equal(DIVERSITY["ordinal"](target, Predicted(p)), expected)
    truth, labels = random_labels(0)
    assert equal(DIVERSITY["multilabel"](truth, Predicted(labels)), multilabel_diversity(truth, labels))
    assert tuple(DIVERSITY) == tuple(METRICS)


def test_values_are_compared_themselves_and_quantiles_by_their_median():
    rng = np.random.default_rng(4)
    target, values = rng.normal(size=30), rng.normal(size=(3, 30, 3))
    one = Predicted(values[:, :, :1], np.ones((3, 30, 1)))
    assert equal(DIVERSITY["regression"](target, one), regression_diversity(target, values[:, :, 0]))
    quantiles = Predicted(values, levels=np.array([0.1, 0.5, 0.9]))
    assert equal(DIVERSITY["quantile"](target, quantiles), regression_diversity(target, values[:, :, 1]))
