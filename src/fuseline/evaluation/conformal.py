"""Sets of classes and intervals of values that hold the truth with a probability asked for: split conformal prediction.

The calibration rows' scores say how far off the truth the ensemble may be; the threshold t is their quantile of the level
⌈(n + 1)·coverage⌉ / n. If a new row and the n calibration rows are exchangeable, and nothing else was fitted on these, then

    coverage ≤ P(truth in the set) ≤ coverage + 1 / (n + 1)     (the upper bound where scores have no ties),

over the draw of both: on the whole, not for each class or each kind of row (Vovk, Gammerman and Shafer 2005; Lei, G'Sell,
Rinaldo, Tibshirani and Wasserman 2018, theorem 2.2).

- classification, ordinal: the score is 1 − p(true class), the set {c: p(c) ≥ 1 − t}, which is the smallest on average (least
  ambiguous sets: Sadinle, Lei and Wasserman 2019). The answer itself is always in, which can only raise the coverage.
- regression: |y − μ| / σ, and μ ± t·σ (locally weighted: Lei et al. 2018, section 5.2).
- quantile: max(q_low − y, y − q_high), and [q_low − t, q_high + t] (conformalized quantile regression: Romano, Patterson and
  Candès 2019). t may be negative.

**The calibration rows are used twice**, for the one number that calibrates a fused output and for t. For a regression that
changes nothing: a factor on all variances cancels out of t·σ. For the others the scores of the calibration rows are slightly too
good for having been fitted by one number, so the statement above holds only about: by what one number out of n rows can do, of
the order 1/n. It holds exactly with ``calibration.method: none``. Where rows come in groups, so many groups and not rows are
exchangeable, and the coverage varies more than n says.

Shapes: B rows, C classes, quantiles or 1.
"""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fuseline.component import Part
from fuseline.data.schema import TargetSchema

Floats = NDArray[np.float64]


class Conformal(Part):
    """How one target's sets or intervals are made.

    Attributes:
        score: ``probability``, ``scaled`` (by the standard deviation) or ``quantiles``.
        coverage: what was asked for.
        rows: how many calibration rows there were.
        threshold: t; None where so few rows can't promise the coverage, so that all classes or values are in.
    """

    score: Literal["probability", "scaled", "quantiles"]
    coverage: float
    rows: int
    threshold: float | None


def threshold(scores: Floats, coverage: float) -> float | None:
    """The ⌈(n + 1)·coverage⌉-th smallest of n scores; None if there is none.

    >>> threshold(np.arange(1.0, 100.0), 0.9)
    90.0
    >>> threshold(np.arange(1.0, 9.0), 0.9) is None
    True
    """
    place = ceil((len(scores) + 1) * coverage - 1e-9)  # (n + 1)·coverage may miss a whole number by a rounding
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else None


def fit_conformal(
    task: TargetSchema, values: Floats, variances: Floats | None, truth: NDArray[np.generic], coverage: float
) -> Conformal | None:
    """What calibration rows say; None for multilabel targets, whose labels come as they are.

    Args:
        values: the calibrated answers: probabilities (B, C), values (B, 1) or quantiles (B, C).
        variances: of a regression, calibrated (B,).
        truth: the classes' positions (B,), or values (B,).
    """
    if task.kind == "multilabel":
        return None
    if task.exclusive:
        kind, scores = "probability", 1 - values[np.arange(len(values)), truth.astype(np.int64)]
    elif task.levels:
        kind, scores = "quantiles", np.maximum(values[:, 0] - truth, truth - values[:, -1])
    else:
        assert variances is not None
        kind, scores = "scaled", np.abs(truth - values[:, 0]) / np.sqrt(variances)
    return Conformal.model_validate(
        {"score": kind, "coverage": coverage, "rows": len(values), "threshold": threshold(scores.astype(np.float64), coverage)}
    )


def classes_in(rule: Conformal, values: Floats) -> NDArray[np.bool_]:
    """Which classes (B, C) are in the set of each row."""
    t = np.inf if rule.threshold is None else rule.threshold
    inside = 1 - values <= t
    inside[np.arange(len(values)), values.argmax(1)] = True
    return np.asarray(inside)


def interval(rule: Conformal, values: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """The lower and the upper end (B,) of each row's interval."""
    t = np.inf if rule.threshold is None else rule.threshold
    if rule.score == "quantiles":
        least = (values[:, 0] - values[:, -1]) / 2  # narrower than nothing, the ends would cross
        reach = np.maximum(t, least)
        return values[:, 0] - reach, values[:, -1] + reach
    reach = t * np.sqrt(variances)
    return values[:, 0] - reach, values[:, 0] + reach
