"""``features``: the members' features merged, an activation head on top, the members frozen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from fuseline.fusion.attention import AttentionHead, attention_head
from fuseline.fusion.combine import ACTIVATIONS, Combiner, FeatureHead, Outputs, head
from fuseline.fusion.scores import pinball


def features(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    merge: Literal["concatenate", "attention"] = "concatenate",
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32,
    activation: Literal["relu", "gelu", "tanh", "silu"] = "relu",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1,
    lr: Annotated[float, Field(gt=0, le=1)] = 3e-3,
    steps: Annotated[int, Field(ge=1, le=100_000)] = 150,
) -> Combiner:
    """A head on the members' features, trained on whole batches by AdamW with dropout on its inputs, for every kind.

    ``concatenate`` puts one hidden layer on all features side by side; ``attention`` brings each member's to the width
    ``hidden`` and weighs them per row (:class:`~fuseline.fusion.attention.AttentionHead`). Few rows and many features: hence
    dropout and a strong weight decay.
    """
    assert outputs.features is not None
    mean, scale = outputs.features.mean(0), outputs.features.std(0, correction=0)
    scale = torch.where(scale > 1e-6, scale, 1.0)
    x = ((outputs.features - mean) / scale).float()
    goal = _goal(outputs, target)
    fixed = {"activation": torch.tensor(list(ACTIVATIONS).index(activation))}
    attends = merge == "attention"
    if attends:
        assert outputs.widths is not None
        fixed["widths"] = torch.tensor(outputs.widths)
    weights = (_attention_weights if attends else _weights)(outputs, hidden, generator)
    forward = attention_head if attends else head
    optimizer = AdamW([tensor.requires_grad_() for tensor in weights.values()], lr, weight_decay=weight_decay)
    for step in range(steps):
        keep = torch.rand(x.shape, generator=generator) >= dropout
        loss = goal.loss(forward({**weights, **fixed}, x * keep / (1 - dropout)))
        _descend(optimizer, loss, lr * 0.5 * (1 + math.cos(math.pi * step / steps)))
    fitted = {name: tensor.detach().double() for name, tensor in weights.items()}
    tensors = {**fitted, **fixed, "mean": mean, "scale": scale, "center": goal.center, "unit": goal.unit}
    return (AttentionHead if attends else FeatureHead)(tensors)


def _descend(optimizer: AdamW, loss: Tensor, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


class _Goal(NamedTuple):
    """The loss of a raw output (B, C), and what brings a raw value back to the target's units."""

    loss: Callable[[Tensor], Tensor]
    center: Tensor
    unit: Tensor


def _goal(outputs: Outputs, target: Tensor) -> _Goal:
    zero, one = torch.tensor(0.0).double(), torch.tensor(1.0).double()
    if outputs.exclusive:
        codes = target.long()
        return _Goal(lambda raw: F.cross_entropy(raw, codes), zero, one)
    if outputs.kind == "multilabel":
        return _Goal(_labels_loss(target), zero, one)
    center, unit = target.double().mean(), target.double().std(correction=0).clamp(min=1e-12)
    y = ((target - center) / unit).float()
    if outputs.kind == "regression":
        return _Goal(lambda raw: F.mse_loss(raw[:, 0], y), center, unit)
    assert outputs.task is not None
    levels = torch.tensor(outputs.task.levels)
    return _Goal(lambda raw: pinball(raw.sort(1).values, y, levels).mean(), center, unit)


def _labels_loss(target: Tensor) -> Callable[[Tensor], Tensor]:
    """The binary cross-entropy of the known labels: a row counts once, however many of its labels are known."""
    known = (~target.isnan()).float()
    shares = known / known.sum(1, keepdim=True).clamp(min=1) / len(target)
    labels = target.nan_to_num().float()
    return lambda raw: F.binary_cross_entropy_with_logits(raw, labels, shares, reduction="sum")


def _weights(outputs: Outputs, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    assert outputs.features is not None
    return {
        "w1": _uniform(hidden, outputs.features.shape[1], generator),
        "b1": torch.zeros(hidden),
        "w2": _uniform(outputs.values.shape[2], hidden, generator),
        "b2": torch.zeros(outputs.values.shape[2]),
    }


def _attention_weights(outputs: Outputs, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    assert outputs.widths is not None
    return {
        "w1": torch.cat([_uniform(hidden, width, generator) for width in outputs.widths], 1),
        "b1": torch.zeros(len(outputs.widths), hidden),
        "v": _uniform(hidden, hidden, generator),
        "q": _uniform(1, hidden, generator)[0],
        "w2": _uniform(outputs.values.shape[2], hidden, generator),
        "b2": torch.zeros(outputs.values.shape[2]),
    }


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform within ±1/√columns, as torch initialises a linear layer."""
    return (torch.rand((rows, columns), generator=generator) * 2 - 1) / math.sqrt(columns)
