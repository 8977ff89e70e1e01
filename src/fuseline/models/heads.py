"""Heads: from features (B, D) to what a network says of one target.

The raw output is: logits (B, C) of classes or labels; logits (B, C − 1) of an ordinal target, each of passing on from one class
to the next; a mean and a log variance (B, 2) of a standardised value; the lowest quantile and the steps to the next ones (B, Q)
of one. The buffers of a head bring values back to the target's own units.

A backbone of K copies gives features (B, K, D): every copy has a head of its own, and raw outputs are (B, K, ·).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tabm import LinearEnsemble
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.data.schema import TargetSchema
from fuseline.models.bounds import Dropout, Width

Layer = Callable[[int, int], nn.Module]


def linear(features: int, outputs: int, layer: Layer) -> nn.Module:
    """One linear layer."""
    return layer(features, outputs)


def hidden(features: int, outputs: int, layer: Layer, *, width: Width = 64, dropout: Dropout = 0.1) -> nn.Module:
    """A hidden layer with ReLU and dropout, then a linear layer."""
    return nn.Sequential(layer(features, width), nn.ReLU(), nn.Dropout(dropout), layer(width, outputs))


HEADS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "hidden": hidden}


def layer_of(copies: int | None) -> Layer:
    """What makes a linear layer: one for all rows, or one for each of K copies."""
    return nn.Linear if copies is None else partial(LinearEnsemble, k=copies)


class Head(nn.Module):
    """One target's head: the module, how its raw output is read, and what brings it back to the target's units.

    Attributes:
        own: which classes it tells apart (C,); an expert is taught only what all others are together.
        center, spread: mean and standard deviation of the training rows' values.
        residual: variance of the standardised residuals on held-out rows, for losses that learn no variance (else 0).
    """

    own: Tensor
    center: Tensor
    spread: Tensor
    residual: Tensor

    def __init__(self, task: TargetSchema, module: nn.Module) -> None:
        super().__init__()
        self.task = task
        self.module = module
        if task.exclusive:
            self.register_buffer("own", torch.ones(task.width, dtype=torch.bool))
        if task.kind in ("regression", "quantile"):
            self.register_buffer("center", torch.zeros((), dtype=torch.float64))
            self.register_buffer("spread", torch.ones((), dtype=torch.float64))
        if task.kind == "regression":
            self.register_buffer("residual", torch.zeros((), dtype=torch.float64))

    @staticmethod
    def outputs(task: TargetSchema) -> int:
        """How many numbers the raw output has."""
        return {"ordinal": task.width - 1, "regression": 2}.get(task.kind, task.width)

    @torch.no_grad()
    def know(self, own: Tensor) -> None:
        """Make it an expert in some classes, given by their codes; none means all."""
        self.own.fill_(len(own) == 0)
        self.own[own.to(self.own.device)] = True

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the centre and the spread from the training rows' known values (n,)."""
        if self.task.kind in ("regression", "quantile"):
            known = values[~values.isnan()].double()
            self.center.copy_(known.mean())
            spread = float(known.std(correction=0))
            constant = spread <= 1e-9 * float(known.abs().max())
            self.spread.fill_(1.0 if constant else spread)

    def standardise(self, values: Tensor) -> Tensor:
        """What the loss compares with: codes and labels as they are, values in standard units."""
        if self.task.kind in ("regression", "quantile"):
            return ((values.double() - self.center) / self.spread).float()
        return values

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.module(features)
        return out

    def link(self, raw: Tensor) -> Tensor:
        """What a raw output (…, ·) says: log probabilities, logits, mean and log variance, or ascending quantiles.

        An ordinal target's classes follow each other by continuation: ``P(y > k | y ≥ k) = σ(raw_k)`` (Tutz 1991; the loss is
        then that of Shi et al. 2023, CORN), so ``ln p_k = ln σ(−raw_k) + Σ_{j<k} ln σ(raw_j)``.
        """
        if self.task.kind == "classification":
            return raw.log_softmax(-1)
        if self.task.kind == "ordinal":
            passed = F.pad(F.logsigmoid(raw).cumsum(-1), (1, 0))
            return passed + F.pad(F.logsigmoid(-raw), (0, 1))
        if self.task.kind == "quantile":
            return torch.cat([raw[..., :1], raw[..., :1] + F.softplus(raw[..., 1:]).cumsum(-1)], -1)
        return raw

    def predict(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (…, C) or quantiles (…, Q) and nothing, or values (…, 1) and variances (…, 1), computed in float64.

        What an expert gives to the classes that it can't tell apart is spread evenly over them: it has learnt their sum alone.
        """
        said = self.link(raw.double())
        if self.task.exclusive:
            p = said.exp()
            others = (p * ~self.own).sum(-1, keepdim=True) / (~self.own).sum().clamp(min=1)
            return torch.where(self.own, p, others), None
        if self.task.kind == "multilabel":
            return said.sigmoid(), None
        if self.task.kind == "quantile":
            return said * self.spread + self.center, None
        variance = torch.where(self.residual > 0, self.residual, said[..., 1:].clamp(-10, 10).exp())
        return said[..., :1] * self.spread + self.center, variance * self.spread**2
