"""Intervals: coverage by simulation, pairing, signs, and units drawn as wholes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from fuseline.evaluation import intervals
from fuseline.evaluation.intervals import Scores, independent_rows, interval, paired_gain, resamples, score
from fuseline.evaluation.metrics import LOWER_IS_BETTER, METRICS, UNDIRECTED, Predicted

DIRECTED = [(kind, name) for kind in METRICS for name in METRICS[kind] if name not in UNDIRECTED]


def share_scores(right, rows, name="accuracy"):
    return Scores({name: right / rows}, {name: np.full(10, right / rows)}, rows)


def wilson(right, rows, level):
    z, share = norm.ppf((1 + level) / 2), right / rows
    center = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return center - half, center + half


def spread_scores(point, resampled, name="rmse"):
    return Scores({name: point}, {name: np.asarray(resampled, float)}, 100)


def good_and_bad(kind, rows=120):
    """A target, and two predictions of which the first is better by every metric that has a better side."""
    rng = np.random.default_rng(0)
    if kind == "multilabel":
        target = rng.integers(0, 2, (rows, 3)).astype(float)
        target[rng.random((rows, 3)) < 0.2] = np.nan
        target[:, 0] = rng.integers(0, 2, rows)
        good = np.where(np.isnan(target), 0.5, np.where(target == 1, 0.98, 0.02))
        return target, Predicted(good), Predicted(np.where(rng.random((rows, 3)) < 0.5, 0.98, 0.02))
    if kind in ("regression", "quantile"):
        target = rng.normal(size=rows)
        near, far = (target + 0.1 * rng.normal(size=rows))[:, None], (target + 2 * rng.normal(size=rows))[:, None]
        if kind == "regression":
            return target, Predicted(near, np.full((rows, 1), 0.01)), Predicted(far, np.full((rows, 1), 0.01))
        levels = np.array([0.05, 0.5, 0.95])
        return target, *(Predicted(center + 0.1 * norm.ppf(levels), levels=levels) for center in (near, far))
    target = rng.integers(0, 3, rows)
    good = np.where(np.eye(3)[target] == 1, 0.98, 0.01)
    return target, Predicted(good), Predicted(np.eye(3)[rng.integers(0, 3, rows)] * 0.97 + 0.01)


@pytest.mark.parametrize("units", [np.arange(7), np.array([0, 0, 0, 1, 2, 2, 9])])
def test_units_are_drawn_as_wholes(units):
    weights = resamples(units, 50, np.random.default_rng(0))
    assert weights.shape == (50, 7)
    each = np.stack([weights[:, units == u].min(1) for u in np.unique(units)], 1)
    assert np.array_equal(each, np.stack([weights[:, units == u].max(1) for u in np.unique(units)], 1))
    assert (each.sum(1) == len(np.unique(units))).all()
    assert len(np.unique(each, axis=0)) > 1


def test_each_unit_is_drawn_once_on_average():
    units = np.repeat(np.arange(20), 2)
    assert resamples(units, 4000, np.random.default_rng(1)).mean(0) == pytest.approx(np.ones(40), abs=0.08)


def test_resamples_follow_the_generator():
    draw = [resamples(np.arange(30), 5, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])


@pytest.mark.parametrize("units", [np.arange(30), np.array([0, 0, 0, 1, 2, 2, 9] * 4)])
@pytest.mark.parametrize("at_once", [1, 100, intervals.DRAWN])
def test_counts_are_those_of_all_units_drawn_at_once_however_many_are(monkeypatch, units, at_once):
    monkeypatch.setattr(intervals, "DRAWN", at_once)
    _, number = np.unique(units, return_inverse=True)
    n = number.max() + 1
    expected = np.random.default_rng(8).multinomial(n, np.full(n, 1 / n), size=25)[:, number].astype(np.float64)
    found = resamples(units, 25, np.random.default_rng(8))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_a_single_unit_is_drawn_every_time():
    assert resamples(np.zeros(3, int), 4, np.random.default_rng(0)).tolist() == [[1, 1, 1]] * 4


def test_resamples_are_written_where_there_is_room_row_by_row():
    given_to = []

    def room(shape, dtype):
        given_to.append(np.empty(shape, dtype))
        return given_to[0]

    found = resamples(np.arange(7), 5, np.random.default_rng(0), room)
    assert given_to[0].shape == (7, 5)
    assert np.shares_memory(found, given_to[0])


def test_the_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    true, covered = np.sqrt(2 / np.pi), 0
    for _ in range(300):
        weights = resamples(np.arange(60), 200, rng)
        found = interval(score("regression", np.zeros(60), Predicted(rng.normal(size=(60, 1))), weights, ["mae"], 60), "mae", 0.9)
        covered += found.low <= true <= found.high
    assert 0.82 <= covered / 300 <= 0.96


def test_the_bootstrap_interval_covers_the_true_value_where_rows_come_in_groups():
    rng = np.random.default_rng(3)
    units, true, covered = np.repeat(np.arange(40), 5), np.sqrt(2 / np.pi), 0
    for _ in range(200):
        values = Predicted(rng.normal(size=40)[units][:, None])
        scores = score("regression", np.zeros(200), values, resamples(units, 200, rng), ["mae"], independent_rows(units))
        found = interval(scores, "mae", 0.9)
        covered += found.low <= true <= found.high
    assert 0.8 <= covered / 200 <= 0.97


def test_the_accuracy_interval_covers_the_true_value_where_rows_come_in_groups():
    rng = np.random.default_rng(4)
    units, covered = np.repeat(np.arange(40), 5), 0
    for _ in range(50):
        right = (rng.random(40) < 0.8)[units]
        probabilities = Predicted(np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]]))
        scores = score(
            "classification", np.zeros(200, int), probabilities, resamples(units, 200, rng), ["accuracy"], independent_rows(units)
        )
        found = interval(scores, "accuracy", 0.9)
        covered += found.low <= 0.8 <= found.high
    assert covered / 50 >= 0.75


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "brier"])
def test_repeating_each_row_within_its_unit_does_not_narrow_the_interval(name):
    target, _, p = good_and_bad("classification", rows=60)

    def width(copies):
        units = np.repeat(np.arange(60), copies)
        weights = resamples(units, 300, np.random.default_rng(5))
        found = interval(
            score("classification", target[units], Predicted(p.values[units]), weights, [name], independent_rows(units)),
            name,
            0.95,
        )
        return found.high - found.low

    assert width(4) == pytest.approx(width(1), rel=0.1)


@pytest.mark.parametrize("rows", [10, 30, 100])
@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_wilsons_interval_covers_the_true_accuracy_about_as_often_as_it_says(rows, accuracy):
    right = np.arange(rows + 1)
    found = [interval(share_scores(k, rows), "accuracy", 0.95) for k in right]
    covered = np.array([i.low <= accuracy <= i.high for i in found])
    assert 0.9 <= (binom.pmf(right, rows, accuracy) * covered).sum() <= 0.99


@pytest.mark.parametrize(("right", "rows"), [(0, 8), (3, 8), (8, 8), (97, 113)])
def test_wilsons_interval_follows_its_formula(right, rows):
    found = interval(share_scores(right, rows), "accuracy", 0.9)
    assert found == pytest.approx((right / rows, *wilson(right, rows, 0.9)))


@pytest.mark.parametrize("name", ["subset_accuracy", "coverage", "coverage_90"])
def test_other_shares_of_rows_have_wilsons_interval_too(name):
    assert interval(share_scores(8, 8, name), name, 0.9) == pytest.approx((1, *wilson(8, 8, 0.9)))


def test_a_share_of_labels_has_the_percentiles_of_its_resamples():
    found = interval(spread_scores(0.5, np.arange(101) / 100, "hamming_accuracy"), "hamming_accuracy", 0.9)
    assert found == pytest.approx((0.5, 0.05, 0.95))


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_an_accuracy_of_one_is_not_certain(rows):
    found = interval(share_scores(rows, rows), "accuracy", 0.95)
    assert found.value == found.high == 1
    assert found.low < 1


def test_other_metrics_have_the_percentiles_of_their_resamples():
    found = interval(spread_scores(50.0, np.arange(101)), "rmse", 0.9)
    assert found == pytest.approx((50.0, 5.0, 95.0))


def test_resamples_without_a_value_are_left_out():
    found = interval(spread_scores(50.0, [*np.arange(101), *[np.nan] * 40]), "rmse", 0.9)
    assert found == pytest.approx((50.0, 5.0, 95.0))


def test_where_no_resample_has_a_value_the_bounds_are_nan():
    found = interval(spread_scores(np.nan, [np.nan] * 3), "rmse", 0.9)
    assert np.isnan([found.low, found.high]).all()


def test_a_higher_level_gives_a_wider_interval():
    scores = spread_scores(0.0, np.random.default_rng(0).normal(size=500))
    narrow, wide = (interval(scores, "rmse", level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("kind", METRICS)
def test_a_candidate_gains_exactly_nothing_over_itself(kind):
    target, _, bad = good_and_bad(kind)
    scores = score(kind, target, bad, resamples(np.arange(120), 100, np.random.default_rng(6)), list(METRICS[kind]), 120)
    assert all(paired_gain(scores, scores, name, 0.95) == (0, 0, 0) for of, name in DIRECTED if of == kind)


@pytest.mark.parametrize(("kind", "name"), DIRECTED)
def test_a_gain_above_zero_is_better_whichever_way_the_metric_points(kind, name):
    target, good, bad = good_and_bad(kind)
    weights = resamples(np.arange(120), 100, np.random.default_rng(7))
    better, worse = (score(kind, target, said, weights, [name], len(target)) for said in (good, bad))
    gain, loss = paired_gain(better, worse, name, 0.95), paired_gain(worse, better, name, 0.95)
    assert 0 < gain.low <= gain.value <= gain.high
    assert loss == pytest.approx((-gain.value, -gain.high, -gain.low))
    assert (better.point[name] < worse.point[name]) == (name in LOWER_IS_BETTER)


@pytest.mark.parametrize(("kind", "name"), [("regression", "coverage_90"), ("quantile", "coverage")])
def test_a_coverage_has_an_interval_and_no_gain(kind, name):
    target, good, bad = good_and_bad(kind)
    weights = resamples(np.arange(120), 100, np.random.default_rng(7))
    better, worse = (score(kind, target, said, weights, [name], 120) for said in (good, bad))
    found = interval(better, name, 0.95)
    assert found == pytest.approx((better.point[name], *wilson(round(120 * better.point[name]), 120, 0.95)))
    with pytest.raises(ValueError, match=name):
        paired_gain(better, worse, name, 0.95)


def test_a_metric_that_is_not_determined_has_no_bounds():
    weights = resamples(np.arange(9), 20, np.random.default_rng(1))
    said = Predicted(np.zeros((9, 1)))
    scores = score("regression", np.arange(9.0), said, weights, ["nll", "coverage_90", "rmse"], 9)
    for name in ("nll", "coverage_90"):
        assert np.isnan(interval(scores, name, 0.9)).all()
    assert np.isfinite(interval(scores, "rmse", 0.9)).all()


def test_resamples_are_paired_so_a_constant_advantage_has_no_spread():
    reference = np.random.default_rng(8).normal(10, 3, size=200)
    gain = paired_gain(spread_scores(9.0, reference - 1), spread_scores(10.0, reference), "rmse", 0.95)
    assert gain == pytest.approx((1, 1, 1))


def test_a_lower_bound_above_zero_is_rare_between_equal_models():
    rng = np.random.default_rng(9)
    promoted, bare = 0, 0
    for _ in range(200):
        weights, target = resamples(np.arange(80), 150, rng), np.zeros(80)
        first, second = (score("regression", target, Predicted(rng.normal(size=(80, 1))), weights, ["mae"], 80) for _ in range(2))
        gain = paired_gain(first, second, "mae", 0.9)
        promoted, bare = promoted + (gain.low > 0), bare + (gain.value > 0)
    assert bare / 200 > 0.4
    assert 0 < promoted / 200 <= 0.1
