"""A network: preprocessing, backbone and one head per target, built from its specification alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fuseline.component import Component, Part
from fuseline.data.schema import FIRST, Schema
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS, Head, layer_of
from fuseline.models.preprocessing import Batch, Preprocessing

FITTED = 1 << 26
"""A backbone is fitted to rows of so many numbers at the most."""


class NetworkSpec(Part):
    """What determines a network's modules and their shapes, defaults filled in."""

    architecture: Component
    heads: dict[str, Component]
    numbers: Component = Component(name="standard")


class Said(NamedTuple):
    """What a model says of B rows: per target probabilities, values or quantiles (B, C), variances (B, 1) for values, and the
    features (B, D) they come from. All float32, as the bank keeps them, so that a package says what the bank said."""

    values: dict[str, Tensor]
    variances: dict[str, Tensor]
    features: Tensor


class Branch(NamedTuple):
    """What one set of heads says while training: raw outputs by target, and how much its loss counts."""

    weight: float
    raw: dict[str, Tensor]


class Network(nn.Module):
    """Raw batch → features (B, D) → per target what the head says, raw.

    A backbone may have auxiliary branches, each with heads of its own while it trains, and it may consist of ``copies`` K that
    train and predict side by side: features (B, K, D), and the prediction is the copies' mean.
    """

    def __init__(self, schema: Schema, spec: NetworkSpec) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(schema, spec.numbers)
        self.backbone = ARCHITECTURES[spec.architecture.name](schema, **spec.architecture.settings)
        self.targets = list(schema.targets)  # heads stand in this order: a module can't be called by every name
        self.copies: int | None = getattr(self.backbone, "copies", None)

        def modules(width: int) -> list[nn.Module]:
            parts = [(HEADS[spec.heads[name].name], Head.outputs(task), spec.heads[name].settings) for name, task in tasks]
            return [make(width, outputs, layer_of(self.copies), **settings) for make, outputs, settings in parts]

        tasks = list(schema.targets.items())
        made = modules(int(self.backbone.features))
        self.heads = nn.ModuleList(Head(task, module) for (_, task), module in zip(tasks, made, strict=True))
        auxiliary: list[tuple[int, float]] = getattr(self.backbone, "auxiliary", [])
        self.shares = [share for _, share in auxiliary]
        self.auxiliary = nn.ModuleList(nn.ModuleList(modules(width)) for width, _ in auxiliary)

    def head(self, target: str) -> Head:
        head = self.heads[self.targets.index(target)]
        assert isinstance(head, Head)
        return head

    @torch.no_grad()
    def fit(self, inputs: Batch, targets: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Take from the training rows what preprocessing, backbone and heads need to know, and the weights it starts from."""
        self.preprocessing.fit(inputs)
        if hasattr(self.backbone, "fit") and getattr(self.backbone, "needs_rows", True):
            self.backbone.fit(self.preprocessing(_at_most(inputs, FITTED, generator)), generator)
        if hasattr(self.backbone, "load_pretrained"):
            self.backbone.load_pretrained()
        for name, values in targets.items():
            self.head(name).fit(values)

    def take_over(self, other: Network) -> None:
        """Know what another network of the same kind was fitted to know of its rows; its weights stay its own."""
        self.preprocessing.load_state_dict(other.preprocessing.state_dict())
        for mine, its in zip(self.heads, other.heads, strict=True):
            for buffer, known in zip(mine.buffers(recurse=False), its.buffers(recurse=False), strict=True):
                buffer.copy_(known)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (B, D), or (B, K, D) of copies, and each head's raw output."""
        return self.after(self.preprocessing(batch))

    def after(self, ready: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """As :meth:`forward`, from preprocessed inputs."""
        features = self.backbone(ready)
        if isinstance(features, tuple):  # with its auxiliary branches, while it trains
            features = features[0]
        return features, self._raw(features, self.heads)

    def branches(self, ready: Batch) -> list[Branch]:
        """What the heads say of preprocessed inputs while training, the auxiliary ones too."""
        features = self.backbone(ready)
        if not isinstance(features, tuple):
            return [Branch(1.0, self._raw(features, self.heads))]
        main, others = features
        aside = [Branch(w, self._raw(f, h)) for w, f, h in zip(self.shares, others, self.auxiliary, strict=True)]  # type: ignore[arg-type]
        return [Branch(1.0, self._raw(main, self.heads)), *aside]

    def _raw(self, features: Tensor, heads: nn.ModuleList) -> dict[str, Tensor]:
        return {name: head(features) for name, head in zip(self.targets, heads, strict=True)}

    def say(self, batch: Batch) -> Said:
        features, raw = self(batch)
        said = {name: self.head(name).predict(output) for name, output in raw.items()}
        if self.copies is not None:
            features = features.mean(1)
            said = {name: _mean_copy(values, variances) for name, (values, variances) in said.items()}
        variances = {name: variance.float() for name, (_, variance) in said.items() if variance is not None}
        return Said({name: value.float() for name, (value, _) in said.items()}, variances, features)


def blank(schema: Schema, spec: NetworkSpec) -> Network:
    """A network to look at the shapes of. One for pictures, which may be large, takes no memory for its numbers, unless its
    modules need that to find their widths."""
    if schema.image is None:
        return Network(schema, spec)
    try:
        with torch.device("meta"):
            return Network(schema, spec)
    except RuntimeError:  # torchvision's regnets compute their widths with tensors
        return Network(schema, spec)


def some_rows(schema: Schema, rows: int, device: torch.device | str) -> Batch:
    """Raw rows without any content, to try a network with."""
    if schema.image is not None:
        return {"image": torch.zeros(rows, *schema.image, dtype=getattr(torch, schema.image_dtype), device=device)}
    batch: Batch = {}
    if schema.numeric:
        batch["numeric"] = torch.zeros(rows, len(schema.numeric), dtype=torch.float64, device=device)
    if schema.categorical:
        batch["categorical"] = torch.full((rows, len(schema.categorical)), FIRST, device=device)
    return batch


def _at_most(inputs: Batch, numbers: int, generator: torch.Generator) -> Batch:
    """As many rows, drawn at random, as hold so many numbers; all rows if they do."""
    rows = len(next(iter(inputs.values())))
    most = max(1, numbers * rows // sum(x.numel() for x in inputs.values()))
    if rows <= most:
        return inputs
    drawn = torch.randperm(rows, generator=generator)[:most]
    return {name: x[drawn] for name, x in inputs.items()}


def _mean_copy(values: Tensor, variances: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The mean of the copies (B, K, C), and its variance by the law of total variance."""
    spread = None if variances is None else mixture_variance(values.transpose(0, 1), variances.transpose(0, 1))
    return values.mean(1), spread


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
