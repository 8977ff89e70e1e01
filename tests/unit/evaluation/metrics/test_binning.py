"""Calibration errors against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from fuseline.evaluation import metrics
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.binning import calibration_errors


def random_case(seed, rows=120, classes=3):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), rows)
    target = np.array([rng.choice(classes, p=p) for p in probabilities])
    target[:classes] = np.arange(classes)
    return target, probabilities


def torchmetrics_ece(target, probabilities):
    p = torch.from_numpy(probabilities)
    return float(multiclass_calibration_error(p, torch.from_numpy(target), p.shape[1], n_bins=15, norm="l1"))


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_equals_torchmetrics(seed, classes):
    target, p = random_case(seed, classes=classes)
    assert metrics.calibration_error(target, p) == pytest.approx(torchmetrics_ece(target, p), abs=1e-6)
    assert metrics.classification(target, Predicted(p))["ece"] == metrics.calibration_error(target, p)


@pytest.mark.parametrize("seed", range(4))
def test_resampled_calibration_error_equals_torchmetrics_on_repeated_rows(seed):
    target, p = random_case(seed, rows=80)
    weights = np.random.default_rng(seed).multinomial(80, np.full(80, 1 / 80), size=3)
    expected = [torchmetrics_ece(target[i], p[i]) for i in (np.repeat(np.arange(80), w) for w in weights)]
    assert metrics.resampled_classification(target, Predicted(p), weights.astype(float))["ece"] == pytest.approx(
        expected, abs=1e-6
    )


def test_calibration_error_of_perfect_and_of_overconfident_predictions():
    coin = np.array([0, 1] * 10)
    assert metrics.calibration_error(coin, np.eye(2)[coin]) == 0
    assert metrics.calibration_error(coin, np.tile([1.0, 0.0], (20, 1))) == 0.5


def test_a_confidence_on_the_edge_of_two_bins_falls_in_the_lower_one():
    confidence = np.array([0.59, 0.60, 0.61])
    bins = metrics.reliability(np.zeros(3, int), np.stack([confidence, 1 - confidence], 1))
    assert [b["rows"] for b in bins] == [2, 1]


def test_the_reliability_bins_hold_all_rows_and_their_gaps_add_up_to_the_calibration_error():
    target, p = random_case(3, rows=200)
    bins = metrics.reliability(target, p)
    assert sum(b["rows"] for b in bins) == 200
    gaps = [b["rows"] / 200 * abs(b["accuracy"] - b["confidence"]) for b in bins]
    assert sum(gaps) == pytest.approx(torchmetrics_ece(target, p), abs=1e-6)
    assert sum(b["rows"] * b["accuracy"] for b in bins) == pytest.approx((p.argmax(1) == target).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_pooled_error_equals_torchmetrics_on_the_known_labels_of_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    p = rng.random((50, 4))
    truth = np.where(rng.random((50, 4)) < 0.3, np.nan, rng.random((50, 4)) < p)
    weights = rng.multinomial(50, np.full(50, 1 / 50), size=3)
    expected = []
    for w in weights:
        t, q = np.repeat(truth, w, axis=0), np.repeat(p, w, axis=0)
        known = ~np.isnan(t)
        pool = torch.from_numpy(q[known]), torch.from_numpy(t[known]).long()
        expected.append(float(binary_calibration_error(*pool, n_bins=15, norm="l1")))
    assert calibration_errors(p, truth, weights.astype(float)) == pytest.approx(expected, abs=1e-6)


def test_a_confidence_of_zero_or_one_has_a_bin():
    confidence, truth = np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])
    assert calibration_errors(confidence, truth, np.ones((1, 1)))[0] == 0
    assert calibration_errors(confidence, 1 - truth, np.ones((1, 1)))[0] == 1
