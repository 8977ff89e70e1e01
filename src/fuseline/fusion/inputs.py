"""A row's own inputs as plain numbers, for fusion rules that look at them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fuseline.data.schema import FIRST, Schema
from fuseline.models.preprocessing import Batch


def plain(schema: Schema, batch: Batch) -> Tensor:
    """The inputs (B, P) in float64: numbers with 0 for a missing one and a flag beside it,
    categories one-hot, pixels as they are.
    """
    parts = []
    if "numeric" in batch:
        x = batch["numeric"].double()
        parts += [x.nan_to_num(), x.isnan().double()]
    for j, vocabulary in enumerate(schema.categorical.values()):
        parts.append(F.one_hot(batch["categorical"][:, j], FIRST + len(vocabulary)).double())
    if "image" in batch:
        parts.append(batch["image"].double().flatten(1))
    return torch.cat(parts, 1)
