"""Regression: a value is true, and a value is said, or a Gaussian.

Shapes: N rows, B resamples; true values (N,), predicted values (N, 1) and variances (N, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm

from fuseline.evaluation.metrics.common import Counts, Floats, Predicted
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.metrics.sums import Measure, Part, Rows, Sums, every_row, mean

REGRESSION = ("rmse", "mae", "r2", "nll", "crps", "coverage_90")
NOMINAL = 0.9
"""The share that the central interval of ``coverage_90`` should cover."""


def regression(target: Floats, predicted: Predicted, names: Sequence[str] = REGRESSION) -> dict[str, float]:
    """Root mean squared error, mean absolute error, R² (NaN if the target does not vary), and what the Gaussian is worth.

    See :func:`gaussian_scores` for ``nll``, ``crps`` and ``coverage_90``, which are NaN if no variances are said.
    """
    return VALUES.point(target, predicted, names)


def resampled_regression(
    target: Floats, predicted: Predicted, weights: Counts, names: Sequence[str] = REGRESSION
) -> dict[str, Floats]:
    """Regression metrics of each resample (B,)."""
    return VALUES.resampled(target, predicted, weights, names)


def gaussian_scores(target: Floats, predicted: Predicted) -> dict[str, Floats]:
    """How good the Gaussian N(μ, σ²) is for the value y of each row, with z = (y − μ)/σ (N,); NaN if no variances are said.

    ``nll``: its negative log likelihood ½ ln(2πσ²) + ½ z², in nats, so that another unit of the target shifts it. ``crps``: its
    continuous ranked probability score σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π), in the target's unit (Gneiting and Raftery 2007,
    section 4.2). ``coverage_90``: whether y lies inside the central interval that should cover 90 of 100 values.

    >>> scores = gaussian_scores(np.array([0.0]), Predicted(np.array([[0.0]]), np.array([[1.0]])))
    >>> {name: round(float(score[0]), 4) for name, score in scores.items()}
    {'nll': 0.9189, 'crps': 0.2337, 'coverage_90': 1.0}
    """
    y, v = _columns(target, predicted)
    if predicted.variances is None:
        return {name: np.full(len(y), np.nan) for name in ("nll", "crps", "coverage_90")}
    variance = np.asarray(predicted.variances, np.float64).reshape(len(y))
    sigma = np.sqrt(variance)
    z = (y - v) / sigma
    return {
        "nll": 0.5 * (np.log(2 * np.pi * variance) + z**2),
        "crps": sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)),
        "coverage_90": (np.abs(z) <= norm.ppf((1 + NOMINAL) / 2)).astype(np.float64),
    }


def _columns(target: Floats, predicted: Predicted) -> tuple[Floats, Floats]:
    y = np.asarray(target, np.float64)
    return y, np.asarray(predicted.values, np.float64).reshape(len(y))


def _errors(rows: Rows) -> Floats:
    y, v = _columns(rows.target, rows.predicted)
    return v - y


def _moments(rows: Rows) -> Part:
    """The target's distance from its middle, and the square of that."""
    apart = rows.target - rows.about
    return Part(np.stack([apart, apart**2], axis=1))


def _gaussian(name: str) -> Callable[[Rows], Part]:
    return lambda rows: Part(gaussian_scores(rows.target, rows.predicted)[name])


def _r2(sums: Sums) -> Floats:
    """NaN where the target varies by less than rounding, measured against the whole target, which the first sums are of."""
    squared, (first, second) = mean("squared").of(sums), sums["moments"] / sums["rows"]
    variance = second - first**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-12 * max(float(variance[0]), 1e-300), 1 - squared / variance, np.nan)


def _median(target: Floats) -> float:
    """One of the values, so that a target that doesn't vary is exactly as far from it as it varies."""
    return float(np.partition(target, len(target) // 2)[len(target) // 2])


VALUES = Family(
    parts={
        "rows": every_row,
        "squared": lambda rows: Part(_errors(rows) ** 2),
        "absolute": lambda rows: Part(np.abs(_errors(rows))),
        "moments": _moments,
        **{name: _gaussian(name) for name in ("nll", "crps", "coverage_90")},
    },
    measures={
        "rmse": Measure(("rows", "squared"), lambda sums: np.sqrt(mean("squared").of(sums))),
        "mae": mean("absolute"),
        "r2": Measure(("rows", "squared", "moments"), _r2),
        **{name: mean(name) for name in ("nll", "crps", "coverage_90")},
    },
    middle=_median,
)
