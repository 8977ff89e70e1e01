"""The change of a metric, by simulation: how often an interval of a difference holds the true one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fuseline.evaluation.intervals import Interval, _wilson
from fuseline.evaluation.regression import change, read


def test_symmetric_intervals_give_the_usual_one() -> None:
    """With estimates ± z s the interval is d ± z √(s₁² + s₂²)."""
    z = norm.ppf(0.975)
    its = change("log_loss", Interval(0.3, 0.3 - z * 0.03, 0.3 + z * 0.03), Interval(0.5, 0.5 - z * 0.04, 0.5 + z * 0.04))
    assert its is not None
    assert its[:3] == pytest.approx((0.2, 0.2 - z * 0.05, 0.2 + z * 0.05))
    assert its.worse


def test_what_is_better_when_larger_is_worse_when_smaller() -> None:
    its = change("accuracy", Interval(0.9, 0.88, 0.92), Interval(0.7, 0.66, 0.74))
    assert its is not None
    assert its.value == pytest.approx(0.2)
    assert its.low < its.value < its.high
    assert its.worse
    other = change("accuracy", Interval(0.7, 0.66, 0.74), Interval(0.9, 0.88, 0.92))
    assert other is not None
    assert not other.worse
    assert (other.low, other.high) == pytest.approx((-its.high, -its.low))


def test_unchanged_shares_are_seldom_called_worse() -> None:
    """Of 4,000 pairs of samples with an equal share, 2.5 % are expected to."""
    random = np.random.default_rng(0)
    shares = random.binomial(400, 0.9, size=(4000, 2)) / 400
    every = [[Interval(s, *_wilson(s, 400, 0.95)) for s in pair] for pair in shares]
    worse = sum(its.worse for then, now in every if (its := change("accuracy", then, now)) is not None)
    assert 60 <= worse <= 140


def test_what_has_no_better_or_is_not_known_is_left_open() -> None:
    known = Interval(0.9, 0.8, 1.0)
    assert change("coverage", known, known) is None
    assert change("accuracy", known, Interval(0.9, float("nan"), 1.0)) is None
    assert np.isnan(read({"value": None, "low": 0.1, "high": 0.2}).value)
