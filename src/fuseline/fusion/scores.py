"""The loss of each row that fusions are fitted to and compared by: log loss, squared error, or pinball loss. Lower is better.

Shapes: M members, B rows, C classes, labels or quantiles. A target is codes (B,), values (B,), or 0 and 1 per label (B, C)
with NaN where a label is unknown.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.fusion.combine import TINY, Fused, Outputs

Floats = NDArray[np.float64]


def row_losses(fused: Fused, target: Tensor) -> Tensor:
    """The loss of each row (B,), differentiable: −ln p of the true class; the mean of that over the known labels; the squared
    error; or the mean pinball loss over the levels."""
    if fused.kind == "regression":
        return (fused.values[:, 0] - target) ** 2
    if fused.kind == "quantile":
        assert fused.task is not None
        return pinball(fused.values, target, torch.tensor(fused.task.levels, dtype=fused.values.dtype))
    if fused.kind == "multilabel":
        known = ~target.isnan()
        losses = -truth(fused.values, target.nan_to_num()).clamp(min=TINY).log() * known
        return losses.sum(1) / known.sum(1)
    return -fused.values.gather(1, target.long()[:, None])[:, 0].clamp(min=TINY).log()


def row_scores(fused: Fused, target: Tensor) -> Floats:
    """:func:`row_losses` as an array."""
    return np.asarray(row_losses(fused, target).numpy())


def truth(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The probability given to what each label is (…, B, C): p where it is 1, 1 − p where it is 0."""
    return labels * probabilities + (1 - labels) * (1 - probabilities)


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """The mean over levels τ of max(τ(y − q), (τ − 1)(y − q)) for each row (Koenker and Bassett 1978).

    >>> round(float(pinball(torch.tensor([[0.0, 2.0]]), torch.tensor([1.0]), torch.tensor([0.1, 0.9]))), 6)
    0.1
    """
    gap = target[..., None] - quantiles
    return torch.maximum(levels * gap, (levels - 1) * gap).mean(-1)


def likelihoods(outputs: Outputs, target: Tensor) -> Floats:
    """The probability that each member gives to the truth (M, B); of several labels, to each known one (M, number known).

    A mixture of the members gives the truth the same mixture of these, so a mixture's log loss follows from them alone.
    """
    if outputs.kind == "multilabel":
        known = ~target.isnan()
        found = truth(outputs.values, target.nan_to_num())[:, known]
    else:
        index = target.long()[None, :, None].expand(len(outputs.values), -1, 1)
        found = outputs.values.gather(2, index)[:, :, 0]
    return np.asarray(found.clamp_(min=TINY).numpy())
