"""Augmentations: functions ``(images, generator, *, settings) → images`` on whole batches (B, C, H, W) of raw pictures.

Every picture has draws of its own, from the member's generator on the CPU, so that a device changes no draw. Torchvision's
random transforms draw once for a whole batch, and from the process's global generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]
Area = Annotated[float, Field(gt=0, lt=1)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
TRIES = 10


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


def crop(
    images: Tensor,
    generator: torch.Generator,
    *,
    padding: Annotated[int, Field(ge=1, le=64)] = 4,
    fill: Literal["reflect", "zero"] = "reflect",
) -> Tensor:
    """Pad each picture by ``padding`` on all sides and cut its size out anywhere (He et al. 2016, section 4.2, who pad with 0).

    ``reflect`` mirrors the picture at its outermost pixels, as often as the padding needs; with ``zero`` this is `shift`.
    """
    if fill == "zero":
        return shift(images, generator, pixels=padding)
    b, _, h, w = images.shape
    by = torch.randint(0, 2 * padding + 1, (2, b, 1), generator=generator) - padding
    rows, columns = (_mirrored(torch.arange(n) + by[i], n).to(images.device) for i, n in enumerate((h, w)))
    every = torch.arange(b, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _mirrored(places: Tensor, side: int) -> Tensor:
    """Places outside 0 … side − 1, brought in as by mirrors on the first and the last: −1 becomes 1."""
    period = max(2 * (side - 1), 1)
    places = places % period
    return torch.minimum(places, period - places)


def flip(images: Tensor, generator: torch.Generator, *, horizontal: Probability = 0.5, vertical: Probability = 0.0) -> Tensor:
    """Swap left and right of a picture, and top and bottom, each with its probability."""
    draws = torch.rand((2, len(images), 1, 1, 1), generator=generator)
    across, down = ((draws[i] < p).to(images.device) for i, p in enumerate((horizontal, vertical)))
    images = torch.where(across, images.flip(3), images)
    return torch.where(down, images.flip(2), images)


def erase(
    images: Tensor,
    generator: torch.Generator,
    *,
    p: Probability = 0.5,
    scale: tuple[Area, Area] = (0.02, 0.33),
    ratio: tuple[Ratio, Ratio] = (0.3, 3.3),
    fill: Literal["mean", "noise"] = "mean",
) -> Tensor:
    """Random erasing (Zhong et al. 2020, algorithm 1): with probability ``p``, one rectangle of each picture is filled.

    Its share of the picture's area lies in ``scale`` and its height / width in ``ratio``. It is filled with the mean of the
    picture's own channel, or with noise, uniform between the least and the greatest value of that channel.
    """
    b, _, h, w = images.shape
    places = []
    chosen = torch.rand(b, generator=generator) < p
    for side, length in zip((h, w), _rectangles(b, h, w, generator, scale, ratio), strict=True):
        room = side - length
        start = torch.minimum((torch.rand(b, generator=generator) * (room + 1)).floor(), room)[:, None]
        places.append((torch.arange(side) >= start) & (torch.arange(side) < start + (length * chosen)[:, None]))
    inside = (places[0][:, :, None] & places[1][:, None, :])[:, None].to(images.device)
    return torch.where(inside, _filling(images, generator, fill), images)


def _rectangles(
    b: int, h: int, w: int, generator: torch.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Heights and widths (2, B): of each picture's ten draws the first that fits, or 0 where none does."""
    draws = torch.rand((2, TRIES, b), generator=generator)
    area = h * w * (scale[0] + draws[0] * (scale[1] - scale[0]))
    low, high = torch.tensor(ratio).log()
    aspect = torch.exp(low + draws[1] * (high - low))
    sizes = torch.stack([area * aspect, area / aspect]).sqrt().round()
    fits = ((sizes >= 1) & (sizes <= torch.tensor([h, w])[:, None, None])).all(0)
    return sizes[:, fits.int().argmax(0), torch.arange(b)] * fits.any(0)


def _filling(images: Tensor, generator: torch.Generator, fill: str) -> Tensor:
    """What may stand in the pictures' place, in their type: (B, C, 1, 1) or (B, C, H, W)."""
    if fill == "mean":
        values = images.float().mean((2, 3), keepdim=True)
    else:
        low, high = (images.float().amin((2, 3), keepdim=True), images.float().amax((2, 3), keepdim=True))
        values = low + torch.rand(images.shape, generator=generator).to(images.device) * (high - low)
    return (values if images.is_floating_point() else values.round()).to(images.dtype)


def colour(images: Tensor, generator: torch.Generator, *, brightness: Strength = 0.2, contrast: Strength = 0.2) -> Tensor:
    """Multiply each picture by 1 ± ``brightness``, then its distances from its mean by 1 ± ``contrast``.

    Whole numbers of 8 bits stay within 0 and 255, but come out as floats.
    """
    draws = torch.rand((2, len(images), 1, 1, 1), generator=generator) * 2 - 1
    bright, spread = (1 + draws[i].to(images.device) * s for i, s in enumerate((brightness, contrast)))
    top = 255.0 if images.dtype == torch.uint8 else torch.inf
    bottom = 0.0 if images.dtype == torch.uint8 else -torch.inf
    lit = (images.float() * bright).clamp(bottom, top)
    mean = lit.mean((1, 2, 3), keepdim=True)
    return (mean + (lit - mean) * spread).clamp(bottom, top)


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "shift": shift,
    "affine": affine,
    "crop": crop,
    "flip": flip,
    "erase": erase,
    "colour": colour,
}
