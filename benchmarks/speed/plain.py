"""The same networks in plain PyTorch, for the peers and the plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATE = 3e-3
"""AdamW's, on every side."""

THREADS = 2
"""Of what runs in one process: ours, the bare stack, the products, and a package."""


def mlp(inputs: int, hidden: list[int], classes: int) -> nn.Sequential:
    """Linear and ReLU, and a linear head."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip([inputs, *hidden[:-1]], hidden, strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else inputs, classes))


def cnn(channels: list[int], features: int, classes: int) -> nn.Sequential:
    """The layers of fuseline's ``cnn`` with one convolution a stage and no dropout, for 32×32×3 pictures."""
    layers: list[nn.Module] = []
    before, size = 3, 32
    for width in channels:
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        before, size = width, size // 2
    flat = before * size * size
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features), nn.ReLU(), nn.Linear(features, classes))


def fit(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    epochs: int,
    size: int,
    fused: bool = False,
    factor: Callable[..., float] | None = None,
) -> nn.Module:
    """Train one network: rows in a new order each epoch, batches by index, AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), RATE, fused=fused)
    parts = len(x) // size
    rate = None if factor is None else torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, epochs * parts))
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).tensor_split(parts):
            loss = F.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if rate is not None:
                rate.step()
    return network.eval()


@torch.no_grad()
def predict(networks: list[Any], x: Tensor) -> Tensor:
    """The networks' mean probabilities (B, C), one network after the other."""
    return torch.stack([torch.cat([network(part).softmax(1) for part in x.split(2048)]) for network in networks]).mean(0)
