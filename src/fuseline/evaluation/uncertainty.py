"""Uncertainty: total = aleatoric + epistemic.

For classes by entropy (Depeweg et al. 2018, equation 1): the entropy of the mean, the mean of the entropies, and between
them the mutual information of class and member, in nats. For values by the law of total variance: the mean of the
variances, and the variance of the means, in squared units. For several labels the entropies of the labels are summed. For
quantiles the mean width between the outer levels is aleatoric, and the standard deviation of the middle ones is epistemic, in
the target's units. Shapes: M members, B rows, C classes or labels. Float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fuseline.fusion.combine import Outputs


class Uncertainty(NamedTuple):
    """Per row (B,)."""

    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor


def decompose(outputs: Outputs, weights: Tensor | None = None) -> Uncertainty:
    """The uncertainty of the members' mixture by ``weights`` (M,), even ones if none are given.

    >>> certain_but_at_odds = Outputs(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    >>> [round(float(part), 4) for part in decompose(certain_but_at_odds)]
    [0.6931, 0.0, 0.6931]
    """
    if weights is None:
        weights = torch.full((len(outputs.values),), 1 / len(outputs.values), dtype=outputs.values.dtype)
    if outputs.variances is not None:
        aleatoric, epistemic = weights @ outputs.variances[:, :, 0], _spread(outputs.values[:, :, 0], weights)
        return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)
    if outputs.kind == "quantile":
        assert outputs.task is not None
        aleatoric = weights @ (outputs.values[:, :, -1] - outputs.values[:, :, 0])
        epistemic = _spread(outputs.values[:, :, outputs.task.middle], weights).sqrt()
        return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)
    measure = entropy if outputs.exclusive else label_entropy
    total = measure(torch.einsum("m,mbc->bc", weights, outputs.values))
    aleatoric = weights @ measure(outputs.values)
    return Uncertainty(total, aleatoric, (total - aleatoric).clamp(min=0))


def _spread(means: Tensor, weights: Tensor) -> Tensor:
    """The weighted variance (B,) of the members' means (M, B)."""
    return weights @ (means - weights @ means) ** 2


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p ln p over the last axis, in nats."""
    each: Tensor = torch.special.entr(probabilities)
    return each.sum(-1)


def label_entropy(probabilities: Tensor) -> Tensor:
    """The sum over labels, on the last axis, of the entropy of each, in nats."""
    each: Tensor = torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
    return each.sum(-1)
