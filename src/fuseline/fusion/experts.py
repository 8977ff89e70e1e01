"""``Gate``: a mixture of experts whose gate is a small network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fuseline.fusion.combine import Outputs
from fuseline.fusion.locality import Local


class Gate(Local):
    """w(x) = softmax(V tanh(W x + b) + c), or softmax(V x + c) without a hidden layer.

    Buffers: those of :class:`~fuseline.fusion.locality.Local`; ``v`` (M, H or P), ``c`` (M,); with a hidden layer also
    ``w`` (H, P) and ``b`` (H,).
    """

    def shares(self, outputs: Outputs) -> Tensor:
        return gated(self.tensors(), self.place(outputs)).T[:, :, None]


def gated(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The weights (B, M) on standardised rows (B, P)."""
    if "w" in tensors:  # bounded, so that a row from far outside cannot drive the weights at will
        x = torch.tanh(x @ tensors["w"].T + tensors["b"])
    return (x @ tensors["v"].T + tensors["c"]).softmax(1)
