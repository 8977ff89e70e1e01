"""Classification against scikit-learn and naive definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import Predicted

LAWS = settings(derandomize=True, deadline=None, max_examples=12)


def classification(target, probabilities):
    return metrics.classification(target, Predicted(probabilities))


def resampled_classification(target, probabilities, weights):
    return metrics.resampled_classification(target, Predicted(probabilities), weights)


def random_case(seed, rows=120, classes=3):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), rows)
    target = np.array([rng.choice(classes, p=p) for p in probabilities])
    target[:classes] = np.arange(classes)
    return target, probabilities


@st.composite
def tied_cases(draw, absent_allowed=True):
    """Few rows and coarse probabilities, so that scores tie and resamples lose classes."""
    classes, rows = draw(st.integers(2, 4)), draw(st.integers(4, 9))
    parts = draw(arrays(np.int64, (rows, classes), elements=st.integers(1, 4)))
    target = draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    if not absent_allowed:
        target[:classes] = np.arange(classes)
    return target, parts / parts.sum(1, keepdims=True)


@st.composite
def resampled_cases(draw):
    target, probabilities = draw(tied_cases(absent_allowed=False))
    weights = draw(arrays(np.int64, (2, len(target)), elements=st.integers(0, 3)))
    weights[:, draw(st.integers(0, len(target) - 1))] += 1
    return target, probabilities, weights.astype(float)


def brier(target, probabilities):
    return np.mean([sum((p[c] - (c == y)) ** 2 for c in range(len(p))) for y, p in zip(target, probabilities, strict=True)])


def matthews(target, said, classes):
    """The correlation of the indicators of what is true and what is said, over all rows and classes (Gorodkin 2004).

    0 if one of them does not vary.
    """
    true, named = (one_hot - one_hot.mean(0) for one_hot in (np.eye(classes)[target], np.eye(classes)[said]))
    together, spread = (true * named).sum(), np.sqrt((true**2).sum() * (named**2).sum())
    return together / spread if spread > 1e-9 else 0.0


def naive_auc(positive, score):
    """The share of (positive, negative) pairs in the right order, a tie counting half."""
    pairs = [(a > b) + (a == b) / 2 for a, b in product(score[positive], score[~positive])]
    return np.mean(pairs) if pairs else np.nan


def naive_macro_auc(target, p):
    if p.shape[1] == 2:
        return naive_auc(target == 1, p[:, 1])
    scores = [naive_auc(target == c, p[:, c]) for c in range(p.shape[1])]
    known = [s for s in scores if not np.isnan(s)]
    return np.mean(known) if known else np.nan


def sklearn_over_present_classes(target, p):
    """What scikit-learn says when the macro means run over the classes that the rows hold; without ``ece``."""
    said, labels = p.argmax(1), np.unique(target)
    macro = {"labels": labels, "average": "macro", "zero_division": 0}
    return {
        "accuracy": sk.accuracy_score(target, said),
        "balanced_accuracy": sk.recall_score(target, said, **macro),
        "precision_macro": sk.precision_score(target, said, **macro),
        "recall_macro": sk.recall_score(target, said, **macro),
        "f1_macro": sk.f1_score(target, said, **macro),
        "mcc": matthews(target, said, p.shape[1]),
        "roc_auc": naive_macro_auc(target, p),
        "log_loss": sk.log_loss(target, p, labels=np.arange(p.shape[1])),
        "brier": brier(target, p),
    }


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_points_equal_scikit_learn(seed, classes):
    target, p = random_case(seed, classes=classes)
    said = p.argmax(1)
    auc = sk.roc_auc_score(target, p[:, 1]) if classes == 2 else sk.roc_auc_score(target, p, multi_class="ovr", average="macro")
    expected = {
        "accuracy": sk.accuracy_score(target, said),
        "balanced_accuracy": sk.balanced_accuracy_score(target, said),
        "precision_macro": sk.precision_score(target, said, average="macro"),
        "recall_macro": sk.recall_score(target, said, average="macro"),
        "f1_macro": sk.f1_score(target, said, average="macro"),
        "mcc": matthews(target, said, classes),
        "roc_auc": auc,
        "log_loss": sk.log_loss(target, p),
        "brier": brier(target, p),
    }
    got = classification(target, p)
    assert tuple(got) == metrics.CLASSIFICATION
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_brier_of_two_classes_is_twice_scikit_learns():
    target, p = random_case(5, classes=2)
    assert classification(target, p)["brier"] == pytest.approx(2 * sk.brier_score_loss(target, p[:, 1]))


@pytest.mark.parametrize(("certain_of", "value"), [(0, 0.0), (1, 2.0)])
def test_brier_lies_between_zero_and_two(certain_of, value):
    p = np.eye(2)[[certain_of] * 4]
    assert classification(np.array([0, 0, 0, 0]), p)["brier"] == value


def test_certainty_of_a_wrong_class_has_a_finite_log_loss_in_points_and_resamples_alike():
    target, p = np.array([0, 1, 1]), np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    point = classification(target, p)["log_loss"]
    assert 10 < point < 20
    assert resampled_classification(target, p, np.ones((1, 3)))["log_loss"][0] == pytest.approx(point)


@LAWS
@given(tied_cases(absent_allowed=False))
def test_a_resample_that_draws_each_row_once_equals_the_point(case):
    target, p = case
    resampled = resampled_classification(target, p, np.ones((1, len(target))))
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx(classification(target, p), nan_ok=True)


def test_a_resample_that_draws_each_row_once_equals_the_point_where_the_rows_lack_a_class():
    target = np.array([0, 0, 1, 1])
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    resampled = resampled_classification(target, p, np.ones((1, 4)))
    assert {name: values[0] for name, values in resampled.items()} == pytest.approx(classification(target, p))


@LAWS
@given(resampled_cases())
def test_a_resample_equals_the_metric_of_physically_repeated_rows(case):
    target, p, weights = case
    got = resampled_classification(target, p, weights)
    assert tuple(got) == metrics.CLASSIFICATION
    for b, row in enumerate(weights):
        drawn = np.repeat(np.arange(len(target)), row.astype(int))
        expected = sklearn_over_present_classes(target[drawn], p[drawn])
        assert {name: got[name][b] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_resample_equals_scikit_learn_with_sample_weights(seed, classes):
    target, p = random_case(seed, rows=60, classes=classes)
    weight = np.random.default_rng(seed).multinomial(60, np.full(60, 1 / 60)).astype(float)
    weight[:classes] += 1
    said, options = p.argmax(1), {"sample_weight": weight}
    one_against_rest = [sk.roc_auc_score(target == c, p[:, c], **options) for c in range(classes)]
    expected = {
        "accuracy": sk.accuracy_score(target, said, **options),
        "balanced_accuracy": sk.balanced_accuracy_score(target, said, **options),
        "precision_macro": sk.precision_score(target, said, average="macro", **options),
        "recall_macro": sk.recall_score(target, said, average="macro", **options),
        "f1_macro": sk.f1_score(target, said, average="macro", **options),
        "mcc": sk.matthews_corrcoef(target, said, **options),
        "roc_auc": np.mean(one_against_rest),
        "log_loss": sk.log_loss(target, p, **options),
    }
    got = resampled_classification(target, p, weight[None])
    assert {name: got[name][0] for name in expected} == pytest.approx(expected)


def test_a_resample_of_a_single_class_has_no_auc_and_its_macro_means_are_that_classes():
    target, p = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    got = resampled_classification(target, p, np.array([[1.0, 1.0, 0.0]]))
    assert np.isnan(got["roc_auc"][0])
    assert got["recall_macro"][0] == got["balanced_accuracy"][0] == 0.5
    assert got["precision_macro"][0] == 1.0
    assert got["f1_macro"][0] == pytest.approx(2 / 3)


@LAWS
@given(tied_cases())
def test_tied_scores_count_half_in_the_area_under_the_curve(case):
    target, p = case
    expected = pytest.approx(naive_macro_auc(target, p), nan_ok=True)
    assert classification(target, p)["roc_auc"] == expected
    assert resampled_classification(target, p, np.ones((1, len(target))))["roc_auc"][0] == expected


def test_scores_that_are_all_equal_have_an_area_of_one_half():
    target, p = np.array([0, 1, 1, 0, 1]), np.full((5, 2), 0.5)
    assert classification(target, p)["roc_auc"] == 0.5


def test_accuracy_is_over_the_whole_set_and_not_the_mean_over_batches():
    target = np.array([0] * 64 + [1])
    p = np.tile([0.9, 0.1], (65, 1))
    batches = [np.mean(p[i : i + 32].argmax(1) == target[i : i + 32]) for i in range(0, 65, 32)]
    assert np.mean(batches) == pytest.approx(0.6667, abs=1e-4)
    assert classification(target, p)["accuracy"] == pytest.approx(0.9846, abs=1e-4)


def test_auc_is_over_the_whole_set_where_every_batch_is_in_perfect_order():
    target, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert [naive_auc(target[i : i + 2] == 1, score[i : i + 2]) for i in (0, 2)] == [1, 1]
    assert classification(target, np.stack([1 - score, score], 1))["roc_auc"] == 0.75


@LAWS
@given(tied_cases(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(case, random):
    target, p = case
    order = np.array(random.sample(range(len(target)), len(target)))
    assert classification(target[order], p[order]) == pytest.approx(classification(target, p), nan_ok=True)


def test_confusion_has_the_true_class_in_rows_and_absent_classes_too():
    said = np.eye(3)[[0, 1, 1, 1]]
    assert metrics.confusion(np.array([0, 0, 0, 1]), said).tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_per_class_scores_follow_from_the_confusion():
    target, p = random_case(4, classes=4)
    table, got = metrics.confusion(target, p), metrics.per_class(target, p)
    precision, recall = np.diag(table) / table.sum(0), np.diag(table) / table.sum(1)
    assert got["precision"] == pytest.approx(precision)
    assert got["recall"] == pytest.approx(recall)
    assert got["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert got["support"] == [np.sum(target == c) for c in range(4)]


def test_per_class_scores_of_a_class_that_is_neither_said_nor_true_are_zero():
    got = metrics.per_class(np.array([0, 1]), np.eye(3)[[0, 1]])
    assert {name: scores[2] for name, scores in got.items()} == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
