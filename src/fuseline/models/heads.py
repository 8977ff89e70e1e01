"""Heads: from features (B, D) to what a network says of one target, and the loss of that.

A classification head gives logits (B, C). A regression head gives a mean and a log variance (B, 2) of the standardised
target; its buffers bring both back to the target's own units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.data.schema import TargetSchema
from fuseline.models.architectures import Dropout, Width


def linear(features: int, outputs: int) -> nn.Module:
    """One linear layer."""
    return nn.Linear(features, outputs)


def hidden(features: int, outputs: int, *, width: Width = 64, dropout: Dropout = 0.1) -> nn.Module:
    """A hidden layer with ReLU and dropout, then a linear layer."""
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs))


HEADS: dict[str, Callable[..., nn.Module]] = {"linear": linear, "hidden": hidden}


def cross_entropy(raw: Tensor, target: Tensor, *, smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> Tensor:
    """Mean cross-entropy of logits (B, C) against codes (B,), with label smoothing (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(raw, target, label_smoothing=smoothing)


def squared_error(raw: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the mean in ``raw`` (B, 2) against standardised values (B,); the variance is not learnt."""
    return F.mse_loss(raw[:, 0], target)


def gaussian_nll(raw: Tensor, target: Tensor) -> Tensor:
    """Gaussian negative log-likelihood of mean and log variance (B, 2): ½(s + (y − m)² e⁻ˢ) (Nix and Weigend 1994)."""
    s = raw[:, 1].clamp(-10, 10)
    return 0.5 * (s + (target - raw[:, 0]) ** 2 * torch.exp(-s)).mean()


LOSSES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "classification": {"cross_entropy": cross_entropy},
    "regression": {"squared_error": squared_error, "gaussian_nll": gaussian_nll},
}
"""The losses that fit each kind of target; the first is the default."""


class Head(nn.Module):
    """One target's head: the module, and for a regression what brings its output back to the target's units.

    Attributes:
        center, spread: mean and standard deviation of the training rows' values.
        residual: variance of the standardised residuals on held-out rows, for losses that learn no variance (else 0).
    """

    center: Tensor
    spread: Tensor
    residual: Tensor

    def __init__(self, schema: TargetSchema, module: nn.Module) -> None:
        super().__init__()
        self.kind = schema.kind
        self.module = module
        if self.kind == "regression":
            self.register_buffer("center", torch.zeros((), dtype=torch.float64))
            self.register_buffer("spread", torch.ones((), dtype=torch.float64))
            self.register_buffer("residual", torch.zeros((), dtype=torch.float64))

    @staticmethod
    def outputs(schema: TargetSchema) -> int:
        return schema.width if schema.kind == "classification" else 2

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take the centre and the spread from the training rows' values (n,)."""
        if self.kind == "regression":
            self.center.copy_(values.double().mean())
            spread = float(values.double().std(correction=0))
            constant = spread <= 1e-9 * float(values.double().abs().max())
            self.spread.fill_(1.0 if constant else spread)

    def standardise(self, values: Tensor) -> Tensor:
        """What the loss compares with: codes as they are, values in standard units."""
        return values if self.kind == "classification" else ((values.double() - self.center) / self.spread).float()

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.module(features)
        return out

    def predict(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (B, C) and nothing, or values (B, 1) and variances (B, 1), computed in float64."""
        raw = raw.double()
        if self.kind == "classification":
            return raw.softmax(1), None
        variance = torch.where(self.residual > 0, self.residual, raw[:, 1:].clamp(-10, 10).exp())
        return raw[:, :1] * self.spread + self.center, variance * self.spread**2
