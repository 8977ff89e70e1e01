"""Combiners that are linear in what the members say, and in the rows' own inputs where they were fitted to them.

Shapes: M members, B rows, C classes, labels or quantiles, P inputs of a row. Where inputs take part, the buffers ``input_mean``
and ``input_scale`` (P,) standardise them and ``on_inputs`` (C, P) weighs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fuseline.fusion.combine import TINY, Combiner, Fused, Outputs, link, spread


class Stacked(Combiner):
    """What the linear combiners share: ``coefficients`` on what members say, ``intercept``, and the inputs' part."""

    coefficients: Tensor
    intercept: Tensor

    def passed(self, outputs: Outputs) -> Tensor | float:
        """What the rows' own inputs add (B, C): nothing, where none took part in the fit."""
        tensors = self.tensors()
        if "on_inputs" not in tensors:
            return 0.0
        assert outputs.inputs is not None
        return (outputs.inputs - tensors["input_mean"]) / tensors["input_scale"] @ tensors["on_inputs"].T


class Logistic(Stacked):
    """Multinomial logistic regression on the members' log probabilities: ``coefficients`` (C, M·C), ``intercept`` (C,)."""

    def forward(self, outputs: Outputs) -> Fused:
        raw = log_probabilities(outputs) @ self.coefficients.T + self.intercept + self.passed(outputs)
        return outputs.fused(raw.softmax(1))


class Linear(Stacked):
    """A linear regression on the members' values: ``coefficients`` (M,), ``intercept`` ()."""

    def forward(self, outputs: Outputs) -> Fused:
        values = torch.einsum("m,mbc->bc", self.coefficients, outputs.values) + self.intercept + self.passed(outputs)
        return outputs.fused(values, spread(outputs))


class Entrywise(Stacked):
    """Each label, or each quantile, from what the members say of it alone: ``coefficients`` (C, M), ``intercept`` (C,).

    A label's logit is linear in the members' logits; a quantile is linear in theirs, and a row's are put in ascending order.
    """

    def forward(self, outputs: Outputs) -> Fused:
        said = logits(outputs) if outputs.kind == "multilabel" else outputs.values
        raw = torch.einsum("cm,mbc->bc", self.coefficients, said) + self.intercept + self.passed(outputs)
        return link(outputs, raw, raw.new_zeros(()), raw.new_ones(()))


def log_probabilities(outputs: Outputs) -> Tensor:
    """The members' clipped log probabilities side by side (B, M·C)."""
    return outputs.values.clamp(min=TINY).log_().transpose(0, 1).flatten(1)


def logits(outputs: Outputs) -> Tensor:
    """The members' clipped log odds (M, B, C)."""
    return outputs.values.clamp(TINY, 1 - TINY).logit()
