"""Regression: a value is true, and a value is said, or a Gaussian.

Shapes: N rows, B resamples; true values (N,), predicted values (N, 1) and variances (N, 1).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from sklearn import metrics as sk

from fuseline.evaluation.metrics.common import Floats, Predicted, weighted_means

REGRESSION = ("rmse", "mae", "r2", "nll", "crps", "coverage_90")
NOMINAL = 0.9
"""The share that the central interval of ``coverage_90`` should cover."""


def regression(target: Floats, predicted: Predicted) -> dict[str, float]:
    """Root mean squared error, mean absolute error, R² (NaN if the target does not vary), and what the Gaussian is worth.

    See :func:`gaussian_scores` for ``nll``, ``crps`` and ``coverage_90``, which are NaN if no variances are said.
    """
    y, v = _columns(target, predicted)
    return {
        "rmse": float(sk.root_mean_squared_error(y, v)),
        "mae": float(sk.mean_absolute_error(y, v)),
        "r2": float(sk.r2_score(y, v)) if len(y) > 1 and np.ptp(y) > 0 else float("nan"),
        **{name: float(score.mean()) for name, score in gaussian_scores(y, predicted).items()},
    }


def resampled_regression(target: Floats, predicted: Predicted, weights: Floats) -> dict[str, Floats]:
    """Every regression metric of each resample (B,)."""
    y, v = _columns(target, predicted)
    error = v - y
    total = weights.sum(1)
    squared = weights @ error**2 / total
    mean = weights @ y / total
    variance = weights @ (y - y.mean()) ** 2 / total - (mean - y.mean()) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(variance > 1e-12 * max(float(y.var()), 1e-300), 1 - squared / variance, np.nan)
    return {
        "rmse": np.sqrt(squared),
        "mae": weights @ np.abs(error) / total,
        "r2": r2,
        **weighted_means(gaussian_scores(y, predicted), weights),
    }


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
