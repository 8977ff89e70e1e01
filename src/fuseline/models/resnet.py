"""A small residual network for small pictures, from 8×8 up to 64×64 or so, that learns in few epochs.

The shape is that of Page's ResNet-9, with which he won the DAWNBench contest on CIFAR-10: Page 2018, "How to train your ResNet".
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.models.bounds import Dropout, Width
from fuseline.models.preprocessing import Batch

Blocks = Annotated[int, Field(ge=0, le=16)]


def convolved(before: int, width: int) -> list[nn.Module]:
    """A 3×3 convolution, batch norm and a rectifier."""
    return [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class Residual(nn.Module):
    """x + f(f(x)), where f is a 3×3 convolution with batch norm and a rectifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*convolved(width, width), *convolved(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


class ResNet(nn.Module):
    """A first convolution, stages that each convolve, halve by max pooling and add residual blocks, then a global maximum."""

    def __init__(
        self, image: tuple[int, int, int], widths: tuple[int, ...], blocks: tuple[int, ...], features: int | None, dropout: float
    ) -> None:
        super().__init__()
        channels, height, across = image
        layers = convolved(channels, widths[0])
        for before, width, count in zip(widths[:-1], widths[1:], blocks, strict=True):
            layers += convolved(before, width)
            if min(height, across) > 1:
                layers.append(nn.MaxPool2d(2))
                height, across = height // 2, across // 2
            layers += [Residual(width) for _ in range(count)]
        layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten()]
        if features is not None:
            layers += [nn.Linear(widths[-1], features), nn.ReLU()]
        layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.features = features or widths[-1]

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.layers(batch["image"])
        return out


def resnet(
    schema: Schema,
    *,
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (64, 128, 256, 512),
    blocks: tuple[Blocks, ...] = (1, 0, 1),
    features: Width | None = None,
    dropout: Dropout = 0.0,
) -> nn.Module:
    """A small residual network for small pictures, by default Page's own; thinner ones are enough for simple pictures on a CPU.

    Args:
        widths: channels of the first convolution and of each stage.
        blocks: residual blocks of each stage, one number less than widths.
        features: the width of a fully connected layer after the global maximum, none for no such layer.
        dropout: of the features.

    Raises:
        RecipeError: the data are a table, or there are not as many blocks as stages.
    """
    if schema.image is None:
        raise RecipeError("'resnet' needs pictures, and the data are a table; use 'mlp'.")
    if len(blocks) != len(widths) - 1:
        raise RecipeError(
            f"resnet.blocks: {len(widths)} widths make {len(widths) - 1} stages, and {len(blocks)} are given; give one a stage."
        )
    return ResNet(schema.image, widths, blocks, features, dropout)
