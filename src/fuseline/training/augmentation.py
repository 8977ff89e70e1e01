"""Augmentations: functions ``(images, generator, *, settings) → images`` on whole batches (B, C, H, W) of raw pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F


def shift(images: Tensor, generator: torch.Generator, *, pixels: Annotated[int, Field(ge=1, le=64)] = 1) -> Tensor:
    """Move each picture by up to ``pixels`` along both axes, independently; what comes in from outside is 0."""
    b, _, h, w = images.shape
    by = torch.randint(0, 2 * pixels + 1, (2, b, 1), generator=generator)
    rows = (torch.arange(h) + by[0]).to(images.device)
    columns = (torch.arange(w) + by[1]).to(images.device)
    padded = F.pad(images, (pixels,) * 4)
    every = torch.arange(b, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def affine(
    images: Tensor,
    generator: torch.Generator,
    *,
    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0,
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    shear: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Tensor:
    """Turn each picture by up to ``degrees``, scale it by up to ±``scale`` and shear it by up to ``shear``, bilinearly."""
    b, _, h, w = images.shape
    turn, size, slant = (torch.rand((3, b), generator=generator) * 2 - 1) * torch.tensor([[degrees], [scale], [shear]])
    angle, factor = torch.deg2rad(turn), 1 / (1 + size)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(b, 2, 2)
    slanted = torch.eye(2).repeat(b, 1, 1)
    slanted[:, 0, 1] = slant
    square = torch.tensor([[1.0, h / w], [w / h, 1.0]])  # the grid counts in half heights and half widths, not in pixels
    theta = torch.cat([factor[:, None, None] * (rotation @ slanted) * square, torch.zeros(b, 2, 1)], 2).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {"shift": shift, "affine": affine}
