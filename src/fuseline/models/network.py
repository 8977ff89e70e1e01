"""A network: preprocessing, backbone and one head per target, built from its specification alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fuseline.component import Component, Part
from fuseline.data.schema import Schema
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS, Head
from fuseline.models.preprocessing import Batch, Preprocessing


class NetworkSpec(Part):
    """What determines a network's modules and their shapes, defaults filled in."""

    architecture: Component
    heads: dict[str, Component]


class Said(NamedTuple):
    """What a model says of B rows: per target probabilities or values (B, C), variances (B, 1) for values, and the features
    (B, D) they come from. All float32, as the bank keeps them, so that a package says what the bank said."""

    values: dict[str, Tensor]
    variances: dict[str, Tensor]
    features: Tensor


class Network(nn.Module):
    """Raw batch → features (B, D) → per target what the head says, raw."""

    def __init__(self, schema: Schema, spec: NetworkSpec) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(schema)
        self.backbone = ARCHITECTURES[spec.architecture.name](schema, **spec.architecture.settings)
        width = int(self.backbone.features)  # type: ignore[arg-type]
        self.targets = list(schema.targets)  # heads stand in this order: a module can't be called by every name
        self.heads = nn.ModuleList()
        for name, target in schema.targets.items():
            component = spec.heads[name]
            self.heads.append(Head(target, HEADS[component.name](width, Head.outputs(target), **component.settings)))

    def head(self, target: str) -> Head:
        head = self.heads[self.targets.index(target)]
        assert isinstance(head, Head)
        return head

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (B, D) and each head's raw output."""
        features: Tensor = self.backbone(self.preprocessing(batch))
        return features, {name: head(features) for name, head in zip(self.targets, self.heads, strict=True)}

    def say(self, batch: Batch) -> Said:
        features, raw = self(batch)
        said = {name: self.head(name).predict(output) for name, output in raw.items()}
        variances = {name: variance.float() for name, (_, variance) in said.items() if variance is not None}
        return Said({name: value.float() for name, (value, _) in said.items()}, variances, features)


class Replicated(nn.Module):
    """A member in use: its replicas' mean, with the law of total variance, and their features side by side."""

    def __init__(self, replicas: list[Network]) -> None:
        super().__init__()
        self.replicas = nn.ModuleList(replicas)

    def forward(self, batch: Batch) -> Said:
        return mean_said([replica.say(batch) for replica in self.replicas])  # type: ignore[operator]


def mean_said(said: list[Said]) -> Said:
    """The mean of what several models say, computed in float64; its variance by the law of total variance."""
    values = {name: torch.stack([s.values[name] for s in said]).double() for name in said[0].values}
    variances = {
        name: mixture_variance(values[name], torch.stack([s.variances[name] for s in said]).double()).float()
        for name in said[0].variances
    }
    means = {name: value.mean(0).float() for name, value in values.items()}
    return Said(means, variances, torch.cat([s.features for s in said], 1))


def mixture_variance(means: Tensor, variances: Tensor, weights: Tensor | None = None) -> Tensor:
    """Variance of a mixture by the law of total variance, over the first axis: Σ w (σ² + (μ − Σ w μ)²).

    >>> mixture_variance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])).tolist()
    [2.0]
    """
    if weights is None:
        weights = torch.full((len(means),), 1 / len(means), dtype=means.dtype, device=means.device)
    w = weights.reshape(-1, *[1] * (means.ndim - 1))
    center = (w * means).sum(0)
    return (w * (variances + (means - center) ** 2)).sum(0)


def parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in module.parameters())


def batches(arrays: Mapping[str, Tensor], size: int) -> list[Batch]:
    """Consecutive batches of ``size`` rows."""
    n = len(next(iter(arrays.values())))
    return [{name: array[i : i + size] for name, array in arrays.items()} for i in range(0, n, size)]
