"""Calibration of fused outputs: temperature for probabilities, a scale for variances. One number each, so a few rows do.

Shapes: B rows, C classes.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor

from fuseline.fusion.combine import TINY, Fused

PRIOR = 0.25
"""Standard deviation of the Gaussian prior on the logarithm of a temperature."""


def fit_temperature(probabilities: Tensor, target: Tensor) -> float:
    """The temperature of the highest posterior: log loss on B rows and a prior ln T ~ N(0, 0.25²).

    Without a prior, rows that are all classified rightly would drive T to 0 and promise certainty; the prior fades as 1/B.

    >>> import torch
    >>> p = torch.tensor([[0.9, 0.1]]).repeat(1000, 1)
    >>> y = torch.tensor([0] * 700 + [1] * 300)
    >>> 2.2 < fit_temperature(p, y) < 2.7
    True
    """
    if len(target) == 0:
        return 1.0
    logs = probabilities.clamp(min=TINY).log()
    index = target.long()[:, None]

    def loss(log_t: float) -> float:
        nll = -(logs / np.exp(log_t)).log_softmax(1).gather(1, index).sum()
        return float(nll) + log_t**2 / (2 * PRIOR**2)

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def fit_scale(values: Tensor, variances: Tensor, target: Tensor) -> float:
    """The factor on the variances of the highest posterior, for Gaussian likelihood and ln s ~ N(0, 1).

    The maximum of the likelihood alone is mean((y − μ)² / σ²); the prior keeps a handful of rows from deciding too much.
    """
    if len(target) == 0:
        return 1.0
    ratio = float((((target - values[:, 0]) ** 2) / variances[:, 0]).sum())
    count = len(target)

    def loss(log_s: float) -> float:
        return float(0.5 * (count * log_s + ratio * np.exp(-log_s)) + log_s**2 / 2)

    return float(np.exp(minimize_scalar(loss, bounds=(-20, 20), method="bounded").x))


def fit_calibration(fused: Fused, target: Tensor) -> float:
    """The one number that calibrates a fused output: a temperature, or a factor on the variances."""
    if fused.variances is None:
        return fit_temperature(fused.values, target)
    return fit_scale(fused.values, fused.variances, target)
