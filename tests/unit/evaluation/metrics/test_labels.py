"""Multilabel metrics against scikit-learn's of whole tables of labels, and naive definitions where labels are not known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.ranking import area, average_precision, steps

NAN = np.nan


def random_case(seed, rows=60, labels=4, unknown=0.0, digits=17):
    """Truth with both sides of every label, and each row with a known one; few digits make scores tie."""
    rng = np.random.default_rng(seed)
    p = rng.random((rows, labels)).round(digits)
    truth = (rng.random((rows, labels)) < p).astype(float)
    truth[0], truth[1] = 0, 1
    hidden = rng.random((rows, labels)) < unknown
    hidden[:2] = False
    hidden[np.arange(rows), rng.integers(0, labels, rows)] = False
    truth[hidden] = NAN
    return truth, p


def multilabel(target, probabilities):
    return metrics.multilabel(target, Predicted(probabilities))


def resampled(target, probabilities, weights):
    return metrics.resampled_multilabel(target, Predicted(probabilities), np.asarray(weights, float))


def f1(truth, said):
    hits = (truth & said).sum()
    return 2 * hits / (truth.sum() + said.sum())


def by_cells(truth, p):
    """Every metric but ``ece``, label by label and cell by cell, with what is not known taken out first."""
    rows, labels = truth.shape
    known = ~np.isnan(truth)
    cells = [(truth[n, c] == 1, p[n, c]) for n in range(rows) for c in range(labels) if known[n, c]]
    y, q = np.array([t for t, _ in cells]), np.array([s for _, s in cells])
    columns = [(truth[known[:, c], c] == 1, p[known[:, c], c]) for c in range(labels)]
    whole = [all((truth[n, c] == 1) == (p[n, c] > 0.5) for c in range(labels) if known[n, c]) for n in range(rows)]
    return {
        "subset_accuracy": np.mean(whole),
        "hamming_accuracy": np.mean(y == (q > 0.5)),
        "f1_micro": f1(y, q > 0.5),
        "f1_macro": np.mean([f1(t, s > 0.5) for t, s in columns if t.any()]),
        "roc_auc": np.mean([sk.roc_auc_score(t, s) for t, s in columns if t.any() and not t.all()]),
        "average_precision": np.mean([sk.average_precision_score(t, s) for t, s in columns if t.any()]),
        "log_loss": np.mean([-np.log(s if t else 1 - s) for t, s in cells]),
        "brier": np.mean((q - y) ** 2),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [1, 17])
def test_points_equal_scikit_learns_of_whole_tables(seed, digits):
    truth, p = random_case(seed, digits=digits)
    p = p.clip(0.01, 0.99)
    y, said = truth.astype(int), (p > 0.5).astype(int)
    expected = {
        "subset_accuracy": sk.accuracy_score(y, said),
        "hamming_accuracy": 1 - sk.hamming_loss(y, said),
        "f1_micro": sk.f1_score(y, said, average="micro"),
        "f1_macro": sk.f1_score(y, said, average="macro"),
        "roc_auc": sk.roc_auc_score(y, p, average="macro"),
        "average_precision": sk.average_precision_score(y, p, average="macro"),
        "log_loss": np.mean([sk.log_loss(y[:, c], p[:, c]) for c in range(4)]),
        "brier": np.mean([sk.brier_score_loss(y[:, c], p[:, c]) for c in range(4)]),
    }
    got = multilabel(truth, p)
    assert tuple(got) == metrics.MULTILABEL
    assert {name: got[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unknown", [0.2, 0.7])
def test_points_equal_naive_definitions_where_labels_are_not_known(seed, unknown):
    truth, p = random_case(seed, unknown=unknown)
    got, expected = multilabel(truth, p), by_cells(truth, p)
    assert {name: got[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_said_of_a_label_that_is_not_known_changes_nothing(seed):
    truth, p = random_case(seed, unknown=0.5)
    other = np.where(np.isnan(truth), np.random.default_rng(seed + 9).random(truth.shape), p)
    weights = np.random.default_rng(seed).multinomial(60, np.full(60, 1 / 60), size=3)
    assert multilabel(truth, other) == multilabel(truth, p)
    before, after = resampled(truth, p, weights), resampled(truth, other, weights)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [1, 17])
def test_a_resample_equals_naive_definitions_of_repeated_rows(seed, digits):
    truth, p = random_case(seed, rows=40, unknown=0.3, digits=digits)
    p = p.clip(0.01, 0.99)
    weights = np.random.default_rng(seed).multinomial(40, np.full(40, 1 / 40), size=4)
    weights[:, :2] += 1
    got = resampled(truth, p, weights)
    for b, w in enumerate(weights):
        expected = by_cells(np.repeat(truth, w, axis=0), np.repeat(p, w, axis=0))
        assert {name: got[name][b] for name in expected} == pytest.approx(expected)


def test_a_label_that_no_row_has_is_in_no_macro_mean_yet_naming_it_costs():
    truth, p = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, NAN]]), np.array([[0.9, 0.8], [0.2, 0.1], [0.4, 0.9]])
    got = multilabel(truth, p)
    assert got["f1_macro"] == pytest.approx(2 / 3)
    assert got["roc_auc"] == got["average_precision"] == 1
    assert got["f1_micro"] == pytest.approx(2 / 4)
    assert got["subset_accuracy"] == pytest.approx(1 / 3)
    assert got["hamming_accuracy"] == pytest.approx(3 / 5)


def test_a_label_that_is_nowhere_known_is_in_no_mean():
    truth, p = random_case(1)
    wider = np.column_stack([truth, np.full(len(truth), NAN)]), np.column_stack([p, np.full(len(p), 0.9)])
    weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=3)
    assert multilabel(*wider) == pytest.approx(multilabel(truth, p))
    narrow = resampled(truth, p, weights)
    assert all(values == pytest.approx(narrow[name]) for name, values in resampled(*wider, weights).items())


def test_where_no_label_is_true_and_none_is_named_f1_and_rankings_are_nan():
    truth, p = np.zeros((3, 2)), np.full((3, 2), 0.2)
    point = multilabel(truth, p)
    again = {name: values[0] for name, values in resampled(truth, p, np.ones((1, 3))).items()}
    assert {name for name, value in point.items() if np.isnan(value)} == {"f1_micro", "f1_macro", "roc_auc", "average_precision"}
    assert again == pytest.approx(point, nan_ok=True)
    assert point["subset_accuracy"] == point["hamming_accuracy"] == 1


def test_where_every_label_is_true_there_is_no_area_but_a_precision():
    point = multilabel(np.ones((3, 2)), np.full((3, 2), 0.7))
    assert np.isnan(point["roc_auc"])
    assert point["average_precision"] == point["f1_micro"] == point["f1_macro"] == 1


def test_a_perfect_and_certain_prediction():
    truth, _ = random_case(2, unknown=0.4)
    got = multilabel(truth, np.where(np.isnan(truth), 0.3, truth))
    best = {name: float(name not in metrics.LOWER_IS_BETTER) for name in metrics.MULTILABEL}
    assert got == pytest.approx(best, abs=1e-12)


def test_certainty_of_what_is_wrong_has_a_finite_log_loss_in_points_and_resamples_alike():
    truth, p = np.array([[0.0], [1.0], [1.0]]), np.array([[1.0], [0.0], [0.5]])
    point = multilabel(truth, p)["log_loss"]
    assert 10 < point < 40
    assert resampled(truth, p, np.ones((1, 3)))["log_loss"][0] == pytest.approx(point)


def test_a_probability_of_one_half_names_nothing():
    assert multilabel(np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]]))["hamming_accuracy"] == 0.5


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_areas_and_precisions_equal_scikit_learns_with_sample_weights(seed, digits):
    rng = np.random.default_rng(seed)
    score, positive = rng.random(15).round(digits), rng.random(15) < 0.5
    positive[:2] = [True, False]
    weights = rng.integers(0, 3, (3, 15)).astype(float)
    weights[:, :2] += 1
    ups, downs = steps(positive, score, weights)
    areas = [sk.roc_auc_score(positive, score, sample_weight=w) for w in weights]
    precisions = [sk.average_precision_score(positive, score, sample_weight=w) for w in weights]
    assert area(ups, downs) == pytest.approx(areas)
    assert average_precision(ups, downs) == pytest.approx(precisions)
