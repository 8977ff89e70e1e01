"""Calibration of fused outputs: a temperature for probabilities, a scale for variances or for the quantiles' distances. One
number each, so a few rows do.

Shapes: B rows, C classes, labels or quantiles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from fuseline.fusion.combine import TINY, Fused, calibrate, temper_labels
from fuseline.fusion.scores import row_losses, row_scores, truth

Floats = NDArray[np.float64]

PRIOR = 0.25
"""Standard deviation of the Gaussian prior on the logarithm of a temperature."""

AT_ONCE = 1 << 17
"""So many numbers are calibrated at a time: a loss over many rows then takes half the time, and no copies of them all."""


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
    logs = probabilities.clamp(min=TINY).log_()
    index = target.long()[:, None]

    def loss(log_t: float) -> float:
        likelihood = _total(lambda some, own: (some / np.exp(log_t)).log_softmax(1).gather(1, own), logs, index)
        return -likelihood + log_t**2 / (2 * PRIOR**2)

    return _at_minimum(loss, 4)


def fit_labels_temperature(probabilities: Tensor, target: Tensor) -> float:
    """One temperature for all labels, of the highest posterior: the log loss of the known labels (B, C), and the same prior."""
    if target.isnan().all():
        return 1.0

    def loss(log_t: float) -> float:
        def likelihoods(some: Tensor, labels: Tensor) -> Tensor:
            return truth(temper_labels(some, np.exp(log_t)), labels)[~labels.isnan()].clamp(min=TINY).log()

        return -_total(likelihoods, probabilities, target) + log_t**2 / (2 * PRIOR**2)

    return _at_minimum(loss, 4)


def fit_width(fused: Fused, target: Tensor) -> float:
    """The factor on the quantiles' distances to the middle one of the lowest pinball loss, with a prior ln s ~ N(0, 0.25²).

    The prior counts as if the loss were a negative log-likelihood: in units of the loss that s = 1 leaves (an asymmetric
    Laplace likelihood of that scale: Yu and Moyeed 2001).
    """
    scale = float(row_losses(fused, target).mean()) if len(target) else 0.0
    if scale == 0:
        return 1.0

    def loss(log_s: float) -> float:
        def losses(some: Tensor, own: Tensor) -> Tensor:
            return row_losses(calibrate(fused._replace(values=some), np.exp(log_s)), own)

        return _total(losses, fused.values, target) / scale + log_s**2 / (2 * PRIOR**2)

    return _at_minimum(loss, 4)


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

    return _at_minimum(loss, 20)


def fit_calibration(fused: Fused, target: Tensor) -> float:
    """The one number that calibrates a fused output: a temperature, or a factor on the variances or distances."""
    if fused.kind == "regression":
        assert fused.variances is not None
        return fit_scale(fused.values, fused.variances, target)
    if fused.kind == "quantile":
        return fit_width(fused, target)
    return (fit_labels_temperature if fused.kind == "multilabel" else fit_temperature)(fused.values, target)


def calibrated_scores(fused: Fused, target: Tensor, number: float) -> Floats:
    """The losses (B,) of a fused output that a number calibrates."""
    parts = _some(fused.values)
    return np.concatenate([row_scores(calibrate(fused.rows(part), number), target[part]) for part in parts])


def _total(made: Callable[[Tensor, Tensor], Tensor], values: Tensor, target: Tensor) -> float:
    """The sum of what is made of values (B, C) and the target of each row, some rows at a time."""
    return sum((float(made(values[rows], target[rows]).sum()) for rows in _some(values)), 0.0)


def _some(values: Tensor) -> list[slice]:
    """The rows of values (B, C), some at a time."""
    size = max(1, AT_ONCE // values.shape[1])
    return [slice(start, start + size) for start in range(0, max(1, len(values)), size)]


def _at_minimum(loss: Callable[[float], float], reach: float) -> float:
    """eˣ at the minimum of a loss of x between ±reach."""
    return float(np.exp(minimize_scalar(loss, bounds=(-reach, reach), method="bounded").x))
