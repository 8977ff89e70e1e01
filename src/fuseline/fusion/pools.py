"""Fusion rules with nothing to fit that are no mixtures: ``product`` and ``trimmed``, each with its combiner.

Shapes: M members, B rows, C classes, labels, quantiles or 1.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fuseline.fusion.combine import TINY, Combiner, Fused, Outputs
from fuseline.models.network import mixture_variance


def product(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The members' normalised geometric mean, for every kind but quantile; see :class:`Product`.

    A member that finds a class improbable can veto it, while a mean lets the others outvote it.
    """
    members = len(outputs.values)
    return Product({"weights": torch.full((members,), 1 / members, dtype=torch.float64)})


def trimmed(
    outputs: Outputs, target: Tensor, generator: torch.Generator, *, cut: Annotated[float, Field(ge=0, le=0.5)] = 0.2
) -> Combiner:
    """The mean without the lowest and the highest ``cut`` of the members, for every kind; see :class:`Trimmed`.

    The number cut at each end is rounded down, and at least one member is kept: a half gives the median. With few members
    it may be none: the 0.2 by default cuts nothing from fewer than five.
    """
    members = len(outputs.values)
    return Trimmed({"cut": torch.tensor(min(int(cut * members), (members - 1) // 2))})


class Product(Combiner):
    """Πₘ pₘ^wₘ, normalised, with ``weights`` (M,) on the simplex: a logarithmic opinion pool (Genest and Zidek 1986), a product
    of experts (Hinton 2002) whose exponents sum to 1, so that members that agree are no surer together.

    Labels are pooled each by itself: the log odds are averaged. Densities N(μₘ, σₘ²) of values give exp(−½ Σ wₘ (y − μₘ)²/σₘ²),
    and completing the square in y gives N(μ, 1/λ) with the mean precision λ = Σ wₘ/σₘ² and μ = Σ wₘ μₘ/σₘ² / λ.
    """

    weights: Tensor

    def forward(self, outputs: Outputs) -> Fused:
        w = self.weights[:, None, None]
        if outputs.variances is not None:
            return self._normal(outputs, w)
        p = outputs.values.clamp(TINY, 1 - TINY if outputs.kind == "multilabel" else None)
        if outputs.kind == "multilabel":
            return outputs.fused((w * p.logit()).sum(0).sigmoid())
        return outputs.fused((w * p.log()).sum(0).softmax(1))

    def _normal(self, outputs: Outputs, w: Tensor) -> Fused:
        assert outputs.variances is not None
        precisions = w.log() - outputs.variances.clamp(min=torch.finfo(torch.float64).tiny).log()  # logs: no overflow
        values = (precisions.softmax(0) * outputs.values).sum(0)
        return outputs.fused(values, (-precisions.logsumexp(0)).exp())


class Trimmed(Combiner):
    """The mean over members, entry by entry, without the ``cut`` () lowest and highest (Jose and Winkler 2008).

    Probabilities of classes are divided by their sum. A value's variance is that of the even mixture of the members kept.
    Quantiles stay in order, since the k-th lowest of the members' is as monotone in the level as each member.
    """

    cut: Tensor

    def forward(self, outputs: Outputs) -> Fused:
        values, order = outputs.values.sort(0)
        kept = slice(int(self.cut), len(values) - int(self.cut))
        center = values[kept].mean(0)
        if outputs.variances is not None:
            return outputs.fused(center, mixture_variance(values[kept], outputs.variances.gather(0, order)[kept]))
        if outputs.exclusive:
            center = center.clamp(min=TINY)  # members that are sure of different classes may leave no class anything
            center = center / center.sum(1, keepdim=True)
        return outputs.fused(center)
