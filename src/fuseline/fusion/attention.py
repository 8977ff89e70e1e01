"""``AttentionHead``: the members' features weighed per row by attention, an activation head on top.

Shapes: M members, B rows, D features of all members side by side (member m has Dₘ of them), H the common width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fuseline.fusion.combine import ACTIVATIONS, Combiner, Fused, Outputs, link


class AttentionHead(Combiner):
    """hₘ = Wₘ fₘ + bₘ from member m's standardised features fₘ; αₘ = softmax over m of qᵀ tanh(V hₘ), the attention of Bahdanau
    et al. (2015) as Ilse et al. (2018, equation 8) pool instances with it; then activation(Σ αₘ hₘ) to the target.

    Buffers: ``mean``, ``scale`` (D,); ``widths`` (M,), the Dₘ; ``w1`` (H, D), the Wₘ side by side, ``b1`` (M, H); ``v`` (H, H),
    ``q`` (H,); ``w2`` (C, H), ``b2`` (C,); ``center``, ``unit`` () bring a value back to the target's units; ``activation`` () is
    a position in ``ACTIVATIONS``.
    """

    def forward(self, outputs: Outputs) -> Fused:
        raw = attention_head(self.tensors(), self._standardised(outputs))
        return link(outputs, raw, self.get_buffer("center"), self.get_buffer("unit"))

    def attention(self, outputs: Outputs) -> Tensor:
        """The members' shares of each row (B, M): they sum to 1."""
        tensors = self.tensors()
        return attend(tensors, project(tensors, self._standardised(outputs)))

    def _standardised(self, outputs: Outputs) -> Tensor:
        assert outputs.features is not None
        return (outputs.features - self.get_buffer("mean")) / self.get_buffer("scale")


def attention_head(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The head's raw output (B, C) on standardised features (B, D)."""
    activation = list(ACTIVATIONS.values())[int(tensors["activation"])]
    projected = project(tensors, x)
    pooled = torch.einsum("bm,bmh->bh", attend(tensors, projected), projected)
    return activation(pooled) @ tensors["w2"].T + tensors["b2"]


def project(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Each member's features on the common width (B, M, H)."""
    widths: list[int] = tensors["widths"].tolist()
    parts = zip(torch.split(x, widths, 1), torch.split(tensors["w1"], widths, 1), strict=True)
    return torch.stack([own @ w.T for own, w in parts], 1) + tensors["b1"]


def attend(tensors: Mapping[str, Tensor], projected: Tensor) -> Tensor:
    """The softmax over members (B, M) of their scores."""
    return (torch.tanh(projected @ tensors["v"].T) @ tensors["q"]).softmax(1)
