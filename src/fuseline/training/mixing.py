"""Mixings: functions ``(images, generator, *, settings) → Mixed`` that mix each picture of a batch with another of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from scipy.special import betaincinv
from torch import Tensor

Alpha = Annotated[float, Field(ge=0.01, le=100)]


class Mixed(NamedTuple):
    """Mixed pictures, and what they are made of, all on the pictures' device.

    The loss of row i is ``share[i]`` · loss(y[i]) + (1 − ``share[i]``) · loss(y[``partner[i]``]), for targets of any kind.
    """

    images: Tensor
    """(B, C, H, W)."""
    partner: Tensor
    """(B,) int64: the row that each row is mixed with; a permutation."""
    share: Tensor
    """(B,) float32: the weight of a row's own target."""


def mixup(images: Tensor, generator: torch.Generator, *, alpha: Alpha = 0.2) -> Mixed:
    """λ x + (1 − λ) x', with λ ~ Beta(α, α) for each picture (Zhang et al. 2018, section 2). Pictures come out as floats."""
    partner, share = _draw(len(images), generator, alpha)
    partner, share = partner.to(images.device), share.float().to(images.device)
    own, floats = share[:, None, None, None], images.float()
    return Mixed(own * floats + (1 - own) * floats[partner], partner, share)


def cutmix(images: Tensor, generator: torch.Generator, *, alpha: Alpha = 1.0) -> Mixed:
    """A rectangle of each picture, of about 1 − λ of its area, is that of another, with λ ~ Beta(α, α) (Yun et al. 2019).

    The rectangle has the picture's shape and its middle anywhere in the picture, and is cut off at the edges (section 3.1);
    ``share`` is the area that is left.
    """
    b, _, h, w = images.shape
    partner, share = _draw(b, generator, alpha)
    rows, columns = (_interval(side, share, generator) for side in (h, w))
    pasted = rows[:, :, None] & columns[:, None, :]
    left = 1 - pasted.double().mean((1, 2))
    partner = partner.to(images.device)
    mixed = torch.where(pasted[:, None].to(images.device), images[partner], images)
    return Mixed(mixed, partner, left.float().to(images.device))


def _draw(b: int, generator: torch.Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Partners (B,) and λ (B,) float64. λ is drawn by the inverse of Beta's distribution function: torch's own draws from Beta
    take the process's global generator."""
    partner = torch.randperm(b, generator=generator)
    uniform = torch.rand(b, generator=generator, dtype=torch.float64)
    return partner, torch.from_numpy(betaincinv(alpha, alpha, uniform.numpy()))


def _interval(side: int, share: Tensor, generator: torch.Generator) -> Tensor:
    """Which places of a side (B, side) are within half of √(1 − λ) of it from a middle that is drawn."""
    middle = torch.randint(0, side, (len(share), 1), generator=generator)
    half = (0.5 * (1 - share).sqrt() * side).long()[:, None]
    places = torch.arange(side)
    return (places >= middle - half) & (places < middle + half)


def mixed_together(parts: Sequence[Mixed | None]) -> Mixed | None:
    """What several networks' batches are made of, as one (K, B)."""
    mixed = [part for part in parts if part is not None]
    if not mixed:
        return None
    return Mixed(mixed[0].images, torch.stack([part.partner for part in mixed]), torch.stack([part.share for part in mixed]))


MIXINGS: dict[str, Callable[..., Mixed]] = {"mixup": mixup, "cutmix": cutmix}
