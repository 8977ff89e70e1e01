"""``features``: the members' features merged, an activation head on top, the members frozen."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from fuseline.fusion.combine import ACTIVATIONS, Combiner, FeatureHead, Outputs, head


def features(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32,
    activation: Literal["relu", "gelu", "tanh", "silu"] = "relu",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1,
    lr: Annotated[float, Field(gt=0, le=1)] = 3e-3,
    steps: Annotated[int, Field(ge=1, le=100_000)] = 150,
) -> Combiner:
    """A head of one hidden layer on all features side by side, trained on whole batches by AdamW with dropout on its inputs.

    Few rows and many features: hence dropout and a strong weight decay.
    """
    assert outputs.features is not None
    mean, scale = outputs.features.mean(0), outputs.features.std(0, correction=0)
    scale = torch.where(scale > 1e-6, scale, 1.0)
    x = ((outputs.features - mean) / scale).float()
    regression = outputs.variances is not None
    center = target.double().mean() if regression else torch.tensor(0.0).double()
    unit = target.double().std(correction=0).clamp(min=1e-12) if regression else torch.tensor(1.0).double()
    y = ((target - center) / unit).float() if regression else target.long()
    weights = {
        "w1": _uniform(hidden, x.shape[1], generator),
        "b1": torch.zeros(hidden),
        "w2": _uniform(outputs.values.shape[2], hidden, generator),
        "b2": torch.zeros(outputs.values.shape[2]),
    }
    which = torch.tensor(list(ACTIVATIONS).index(activation))
    for tensor in weights.values():
        tensor.requires_grad_()
    optimizer = AdamW(weights.values(), lr, weight_decay=weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        keep = torch.rand(x.shape, generator=generator) >= dropout
        raw = head({**weights, "activation": which}, x * keep / (1 - dropout))
        loss = F.mse_loss(raw[:, 0], y) if regression else F.cross_entropy(raw, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fitted = {name: tensor.detach().double() for name, tensor in weights.items()}
    return FeatureHead({**fitted, "mean": mean, "scale": scale, "center": center, "unit": unit, "activation": which})


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform within ±1/√columns, as torch initialises a linear layer."""
    return (torch.rand((rows, columns), generator=generator) * 2 - 1) / math.sqrt(columns)
