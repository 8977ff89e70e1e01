"""Uncertainty: total = aleatoric + epistemic.

For classes by entropy (Depeweg et al. 2018, equation 1): the entropy of the mean, the mean of the entropies, and between
them the mutual information of class and member, in nats. For values by the law of total variance: the mean of the
variances, and the variance of the means, in squared units. Shapes: M members, B rows, C classes. Float64.
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
    if outputs.variances is None:
        total = entropy(torch.einsum("m,mbc->bc", weights, outputs.values))
        aleatoric = weights @ entropy(outputs.values)
        return Uncertainty(total, aleatoric, (total - aleatoric).clamp(min=0))
    means = outputs.values[:, :, 0]
    aleatoric = weights @ outputs.variances[:, :, 0]
    epistemic = weights @ (means - weights @ means) ** 2
    return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p ln p over the last axis, in nats."""
    each: Tensor = torch.special.entr(probabilities)
    return each.sum(-1)
