"""Raw inputs to tensors that a network can use, fitted on a member's training rows and kept in its buffers.

Shapes: B rows, P numeric columns, Q categorical columns, (C, H, W) a picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fuseline.data.schema import FIRST, MISSING, UNKNOWN, Schema

Batch = dict[str, Tensor]


class Preprocessing(nn.Module):
    """Standardise numbers and pictures; tell missing numbers; recode categories that the training rows never had.

    A numeric column comes out as its z-score (0 where missing) and, beside it, a 1 where it was missing, which stays 0 if
    the training rows had no missing value there. A picture is standardised per channel.
    """

    mean: Tensor
    scale: Tensor
    can_miss: Tensor
    channel_mean: Tensor
    channel_scale: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        columns = len(schema.numeric)
        self.register_buffer("mean", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, dtype=torch.float64))
        self.register_buffer("can_miss", torch.zeros(columns))
        for j, vocabulary in enumerate(schema.categorical.values()):
            self.register_buffer(f"codes_{j}", torch.arange(FIRST + len(vocabulary)))
        channels = schema.image[0] if schema.image else 0
        self.register_buffer("channel_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("channel_scale", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Take means, scales and known categories from training rows."""
        if "numeric" in batch:
            x = batch["numeric"].double()
            known = ~x.isnan()
            n = known.sum(0).clamp(min=1)
            mean = x.nan_to_num().sum(0) / n
            variance = ((x - mean).nan_to_num() ** 2).sum(0) / n
            self.mean.copy_(mean)
            self.scale.copy_(_scale(variance))
            self.can_miss.copy_((~known).any(0))
        if "categorical" in batch:
            for j in range(batch["categorical"].shape[1]):
                codes = self.get_buffer(f"codes_{j}")
                seen = torch.zeros(len(codes), dtype=torch.bool)
                seen[batch["categorical"][:, j]] = True
                seen[MISSING] = True
                codes.copy_(torch.where(seen, torch.arange(len(codes)), UNKNOWN))
        if "image" in batch:
            total = torch.zeros(batch["image"].shape[1], dtype=torch.float64)
            squares = total.clone()
            for part in torch.split(batch["image"], 4096):
                x = part.double()
                total += x.sum((0, 2, 3))
                squares += (x * x).sum((0, 2, 3))
            count = batch["image"].numel() / len(total)
            mean = total / count
            self.channel_mean.copy_(mean[:, None, None])
            self.channel_scale.copy_(_scale((squares / count - mean**2).clamp(min=0))[:, None, None])

    def forward(self, batch: Batch) -> Batch:
        """``numeric`` (B, 2P), ``categorical`` (B, Q) and ``image`` (B, C, H, W), as far as they are there."""
        out: Batch = {}
        if "numeric" in batch:
            x = batch["numeric"]
            z = ((x - self.mean) / self.scale).float().nan_to_num()  # in float64 up to here: a time in seconds has ten digits
            out["numeric"] = torch.cat([z, x.isnan() * self.can_miss], 1)
        if "categorical" in batch:
            raw = batch["categorical"]
            out["categorical"] = torch.stack([self.get_buffer(f"codes_{j}")[raw[:, j]] for j in range(raw.shape[1])], 1)
        if "image" in batch:
            out["image"] = (batch["image"].float() - self.channel_mean) / self.channel_scale
        return out


def _scale(variance: Tensor) -> Tensor:
    deviation = variance.sqrt()
    return torch.where(deviation > 1e-12, deviation, 1.0)
