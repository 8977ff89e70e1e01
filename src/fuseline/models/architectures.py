"""Architectures: functions ``(schema, *, settings) → backbone``, a module from a preprocessed batch to features (B, D).

A backbone says how many features it gives by its attribute ``features``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.family import Family
from fuseline.models.bounds import Dropout, Width
from fuseline.models.graph import graph
from fuseline.models.plugins import adapt
from fuseline.models.preprocessing import Batch
from fuseline.models.resnet import resnet
from fuseline.models.tabular import ft_transformer, mlp, tabm


class CNN(nn.Module):
    """Stages of 3×3 convolutions with batch norm, halved by max pooling, then one fully connected layer."""

    def __init__(
        self, image: tuple[int, int, int], channels: tuple[int, ...], convolutions: int, features: int, dropout: float
    ) -> None:
        super().__init__()
        before, height, across = image
        layers: list[nn.Module] = []
        for width in channels:
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            if min(height, across) > 1:
                layers.append(nn.MaxPool2d(2))
                height, across = height // 2, across // 2
        flat = before * height * across
        layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(flat, features), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # a step on a CPU takes a quarter less
        self.features = features

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.layers(batch["image"])
        return out


def cnn(
    schema: Schema,
    *,
    channels: Annotated[tuple[Width, ...], Field(min_length=1)] = (32, 64),
    convolutions: Annotated[int, Field(ge=1, le=8)] = 2,
    features: Width = 128,
    dropout: Dropout = 0.2,
) -> nn.Module:
    """A small convolutional network for pictures: ``convolutions`` layers in each stage of ``channels``."""
    if schema.image is None:
        raise RecipeError("'cnn' needs pictures, and the data are a table; use 'mlp'.")
    return CNN(schema.image, channels, convolutions, features, dropout)


def _torchvision() -> dict[str, Callable[..., nn.Module]]:
    from fuseline.models.vision import torchvision_models  # importing torchvision takes seconds, and tables do without

    return torchvision_models()


ARCHITECTURES = Family(
    {"mlp": mlp, "ft_transformer": ft_transformer, "tabm": tabm, "graph": graph, "cnn": cnn, "resnet": resnet},
    "fuseline.architectures",
    adapt,
    _torchvision,
)
"""fuseline's own, those of installed packages, and torchvision's classification models."""
