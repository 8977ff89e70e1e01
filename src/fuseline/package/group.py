"""Networks of one specification as they serve: what they have in common is computed once.

Shapes: K networks, B rows, C classes, labels, quantiles or 1, D features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fuseline.data.schema import Schema
from fuseline.models.architectures import CNN
from fuseline.models.heads import Head
from fuseline.models.network import Network, NetworkSpec, mixture_variance
from fuseline.models.preprocessing import Batch
from fuseline.models.resnet import ResNet
from fuseline.models.stack import Linear, Stack, known
from fuseline.models.tabular import MLP
from fuseline.package.preparation import Preparation

OURS = (MLP, CNN, ResNet)
"""Backbones whose sequences run one part after the other, so that a batch norm can be folded into the layer before it."""


CACHE = 1 << 21
"""Bytes: what is between two layers stays near, in a core's own cache and its share of the common one."""
PIXELS = 1 << 15
"""Of 32 × 32 × 3 so many rows at a time took a third less than a batch of 256, and half of one of 8 (8 CNNs, one core)."""


class Spoken(NamedTuple):
    """What K networks say of B rows, in float32: by target values (K, B, C) and variances (K, B, 1), and K times features
    (B, D)."""

    values: dict[str, Tensor]
    variances: dict[str, Tensor]
    features: Sequence[Tensor]


class Member(NamedTuple):
    """How a member's networks are built, and its replicas in evaluation mode."""

    spec: NetworkSpec
    replicas: Sequence[Network]


class Members(nn.Module):
    """Raw batch → what M members say, each of them its networks' mean, with the features of all networks side by side.

    Networks of one specification are a :class:`Group`, whichever members they belong to.

    Attributes:
        counts: how many networks each member has (M,).
        stacked: whether every group is.
        widths: how many features each member has (M,).
        precision: ``float32``, or ``bfloat16`` for what is not stacked.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        networks = [(member.spec, network) for member in members for network in member.replicas]
        alike: dict[str, list[int]] = {}
        for place, (spec, _) in enumerate(networks):
            alike.setdefault(spec.model_dump_json(), []).append(place)
        groups = [Group([networks[place][1] for place in places]) for places in alike.values()]
        self.groups = nn.ModuleList(groups)
        self.stacked = all(group.stack is not None for group in groups)
        self.width = max(group.width for group in groups)
        self.order = torch.tensor([place for places in alike.values() for place in places]).argsort().tolist()
        self.counts = [len(member.replicas) for member in members]
        self.precision = "float32"
        self.widths = tuple(sum(int(n.backbone.features) for n in member.replicas) for member in members)

    def forward(self, batch: Batch) -> Spoken:
        said = [group(batch, self.precision) for group in self.groups]
        values = {name: self._in_order([s.values[name] for s in said]) for name in said[0].values}
        variances = {name: self._in_order([s.variances[name] for s in said]) for name in said[0].variances}
        features = [f for s in said for f in s.features]
        if max(self.counts) > 1:
            variances = {name: self._spread(values[name], variance) for name, variance in variances.items()}
            values = {name: self._mean(value) for name, value in values.items()}
        return Spoken(values, variances, [features[place] for place in self.order])

    def rows(self, schema: Schema) -> int:
        """How many rows at a time keep what is between two layers within a core's cache."""
        if schema.image is not None and not self.stacked:
            return max(1, PIXELS // (schema.image[1] * schema.image[2]))
        return max(64, CACHE // (4 * self.width))

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        """What all networks say, members after one another."""
        return parts[0] if len(parts) == 1 else torch.cat(parts)[self.order]

    def _mean(self, values: Tensor) -> Tensor:
        return torch.stack([own.double().mean(0) for own in torch.split(values, self.counts)]).float()

    def _spread(self, values: Tensor, variances: Tensor) -> Tensor:
        """By the law of total variance."""
        pairs = zip(torch.split(values.double(), self.counts), torch.split(variances.double(), self.counts), strict=True)
        return torch.stack([mixture_variance(means, own) for means, own in pairs]).float()


class Group(nn.Module):
    """Raw batch → what each of K networks says of it: the same as :meth:`Network.say`, to rounding.

    Perceptrons are stacked: one matrix product does a layer of all of them. Others run one after the other, because stacked
    convolutions are no faster on a CPU. Tensors are the networks' own, but for those that are stacked or folded.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        slim = [slimmed(network) for network in networks]
        self.targets = slim[0].targets
        self.copied = slim[0].copies is not None
        self.preparation = Preparation([network.preprocessing for network in networks])
        self.sayings = nn.ModuleList(Saying([network.head(name) for network in slim], self.copied) for name in self.targets)
        self.stack = Stack(slim).eval() if len(slim) > 1 and known(slim[0]) else None
        self.networks = nn.ModuleList([] if self.stack else slim)
        first = next(iter(slim[0].backbone.layers), None) if type(slim[0].backbone) is MLP else None
        if self.stack is not None and type(first) is nn.Linear and self.preparation.columns:
            layers = self.stack.network.backbone.layers
            if self.preparation.fold_into(layers[0].weight.data.transpose(1, 2), layers[0].bias.data):
                layers[0] = First(layers[0], self.preparation.columns)
        widest = max((m.out_features for m in slim[0].modules() if isinstance(m, nn.Linear)), default=1)
        self.width = widest * (len(slim) if self.stack else 1)

    def forward(self, batch: Batch, precision: str = "float32") -> Spoken:
        if self.stack is not None:
            features, raw = self.stack(self.preparation.stacked(batch))
        elif precision == "float32":
            features, raw = self._one_by_one(batch)
        else:
            with torch.autocast("cpu", getattr(torch, precision)):
                features, raw = self._one_by_one(batch)
        values, variances = {}, {}
        for name, saying in zip(self.targets, self.sayings, strict=True):
            values[name], variance = saying(raw[name])
            if variance is not None:
                variances[name] = variance
        return Spoken(values, variances, [f.float().mean(1) if self.copied else f.float() for f in features])

    def _one_by_one(self, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
        said = [network.after(ready) for network, ready in zip(self.networks, self.preparation.each(batch), strict=True)]  # type: ignore[operator]
        return [features for features, _ in said], {name: torch.stack([raw[name] for _, raw in said]) for name in self.targets}


class First(nn.Module):
    """A stacked first layer that may be given its rows without the flags of missing numbers, where none is missing."""

    def __init__(self, layer: Linear, columns: int) -> None:
        super().__init__()
        across = layer.weight.data
        self.whole = nn.Buffer(across, persistent=False)
        self.unflagged = nn.Buffer(torch.cat([across[:, :columns], across[:, 2 * columns :]], 1), persistent=False)
        self.bias = nn.Buffer(layer.bias.data[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        flagged = x.shape[-1] == self.whole.shape[1]
        return torch.baddbmm(self.bias, x, self.whole if flagged else self.unflagged)


class Saying(nn.Module):
    """K heads' raw outputs (K, B, ·) → what they say: values (K, B, C) and, of a regression, variances (K, B, 1).

    Of K′ copies in each network (K, B, K′, ·) their mean is said.
    """

    own: Tensor

    def __init__(self, heads: Sequence[Head], copied: bool) -> None:
        super().__init__()
        self.copied = copied
        self.head = copy.copy(heads[0])
        self.head._modules = {}
        self.head._buffers = {}
        for name, _ in heads[0].named_buffers(recurse=False):
            whole = torch.stack([head.get_buffer(name) for head in heads])
            width = whole.shape[1] if whole.ndim == 2 else 1
            self.head.register_buffer(name, whole.view(len(heads), 1, *([1] if copied else []), width))
        self.experts = self.head.task.exclusive and not bool(self.head.own.all())

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        values, variances = self._each(raw.float())
        if self.copied:
            if variances is not None:
                variances = mixture_variance(values.movedim(2, 0), variances.movedim(2, 0))
            values = values.mean(2)
        return values.float(), None if variances is None else variances.float()

    def _each(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.head.task.kind == "classification" and not self.experts:
            return raw.mT.contiguous().softmax(-2).mT, None  # with the classes outside, a softmax of few takes a third
        if self.experts:
            p, own = self.head.link(raw.double()).exp(), self.head.own
            others = (p * ~own).sum(-1, keepdim=True) / (~own).sum(-1, keepdim=True).clamp(min=1)
            return torch.where(own, p, others), None
        return self.head.predict(raw)


def slimmed(network: Network) -> Network:
    """A network that shares another's tensors and does in use what it does, with fewer steps."""
    slim = copy.copy(network)
    slim._modules = dict(network._modules)
    if type(network.backbone) in OURS:
        slim.backbone = _slimmed(network.backbone)
    return slim


def _slimmed(module: nn.Module) -> nn.Module:
    """Without dropout, each batch norm in a sequence folded into the layer before it, and rectifiers in place: what they are
    given is that layer's own output."""
    if type(module) is nn.Sequential:
        return nn.Sequential(*_folded([_slimmed(child) for child in module if not isinstance(child, nn.Dropout)]))
    if type(module) is nn.ReLU:
        return nn.ReLU(inplace=True)
    slim = copy.copy(module)
    slim._modules = {name: None if child is None else _slimmed(child) for name, child in module._modules.items()}
    return slim


def _folded(layers: list[nn.Module]) -> list[nn.Module]:
    """In use a batch norm is one factor and one summand for each channel."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d) and kept and isinstance(kept[-1], nn.Linear):
            kept[-1] = fuse_linear_bn_eval(kept[-1], layer)
        elif isinstance(layer, nn.BatchNorm2d) and kept and isinstance(kept[-1], nn.Conv2d):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer)
        else:
            kept.append(layer)
    return kept
