"""Architectures: functions ``(schema, *, settings) → backbone``, a module from a preprocessed batch to features (B, D).

A backbone says how many features it gives by its attribute ``features``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fuseline.data.schema import FIRST, Schema
from fuseline.errors import RecipeError
from fuseline.models.preprocessing import Batch

Width = Annotated[int, Field(ge=1, le=65536)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class MLP(nn.Module):
    """Numbers, embedded categories and flattened pictures through fully connected layers; no hidden layer is a linear model."""

    def __init__(self, schema: Schema, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        sizes = [FIRST + len(vocabulary) for vocabulary in schema.categorical.values()]
        self.embeddings = nn.ModuleList(nn.Embedding(n, min(16, (n + 1) // 2)) for n in sizes)
        width = 2 * len(schema.numeric) + sum(e.embedding_dim for e in self.embeddings)  # type: ignore[misc]
        if schema.image:
            channels, height, across = schema.image
            width += channels * height * across
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers)
        self.features = width

    def forward(self, batch: Batch) -> Tensor:
        parts = [batch["numeric"]] if "numeric" in batch else []
        parts += [embed(batch["categorical"][:, j]) for j, embed in enumerate(self.embeddings)]
        if "image" in batch:
            parts.append(batch["image"].flatten(1))
        out: Tensor = self.layers(torch.cat(parts, 1))
        return out


def mlp(schema: Schema, *, hidden: tuple[Width, ...] = (128, 64), dropout: Dropout = 0.1) -> nn.Module:
    """A multi-layer perceptron over any kind of input; ``hidden: []`` is a linear model."""
    return MLP(schema, hidden, dropout)


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


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}
