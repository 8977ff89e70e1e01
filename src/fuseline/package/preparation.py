"""The preprocessing of several networks: what is alike is computed once, and what differs in numbers alone, all at once.

Shapes: K networks, U preprocessings that differ, B rows, P numeric columns, Q categorical columns, (C, H, W) a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fuseline.data.schema import MISSING
from fuseline.models.preprocessing import Batch, Preprocessing, Standard


class Preparation(nn.Module):
    """Raw batch → what each of K networks reads.

    Members whose training rows were the same have equal preprocessings, and so have the networks of one fold.
    """

    which: Tensor

    def __init__(self, parts: Sequence[Preprocessing]) -> None:
        super().__init__()
        distinct: list[Preprocessing] = []
        which = []
        for part in parts:
            place = next((u for u, other in enumerate(distinct) if _equal(part, other)), len(distinct))
            distinct += [part] if place == len(distinct) else []
            which.append(place)
        self.distinct = nn.ModuleList(distinct)
        self.register_buffer("which", torch.tensor(which), persistent=False)
        self.places = which
        self.columns = len(parts[0].can_miss)
        self.common: Common | None = None
        self.together = Together(distinct) if len(distinct) > 1 and isinstance(distinct[0].scaling, Standard) else None

    def each(self, batch: Batch) -> list[Batch]:
        """A preprocessed batch for each network; several may be given the same."""
        ready = [part(batch) for part in self.distinct]
        return [ready[u] for u in self.places]

    def fold_into(self, weight: Tensor, bias: Tensor) -> bool:
        """Leave the networks' own scales to their stacked first layer, if that can be; say whether."""
        parts = [self.distinct[u] for u in self.places]
        common = Common(parts) if isinstance(parts[0].scaling, Standard) else None  # type: ignore[arg-type]
        if common is not None and common.fits:
            common.fold(weight, bias)
            self.common = common
        return self.common is not None

    def stacked(self, batch: Batch) -> Batch:
        """All networks' preprocessed batches (K, B, …)."""
        if self.common is not None:
            numbers = self.common(batch["numeric"])
            others = self.stacked_apart({name: x for name, x in batch.items() if name != "numeric"})
            return {"numeric": numbers.expand(len(self.places), *numbers.shape), **others}
        return self.stacked_apart(batch)

    def stacked_apart(self, batch: Batch) -> Batch:
        """The same, each by its own."""
        if not batch:
            return {}
        if len(self.distinct) == 1:
            return {name: x.expand(len(self.places), *x.shape) for name, x in self.distinct[0](batch).items()}
        if self.together is None:
            ready = [part(batch) for part in self.distinct]
            whole = {name: torch.stack([part[name] for part in ready]) for name in ready[0]}
        else:
            whole = self.together(batch)
        return whole if len(self.distinct) == len(self.places) else {name: x[self.which] for name, x in whole.items()}


class Together(nn.Module):
    """U standard preprocessings as one: raw batch → preprocessed inputs (U, B, …), as each of them gives its own."""

    mean: Tensor
    scale: Tensor
    can_miss: Tensor
    sees_numeric: Tensor
    sees_categorical: Tensor
    sees_image: Tensor
    channel_mean: Tensor
    channel_scale: Tensor

    def __init__(self, parts: Sequence[Preprocessing]) -> None:
        super().__init__()
        for name, _ in parts[0].named_buffers():
            whole = torch.stack([part.get_buffer(name) for part in parts])
            self.register_buffer(name, whole if name.startswith("codes_") else whole[:, None], persistent=False)
        self.sees_both = bool(self.sees_numeric.all())

    def forward(self, batch: Batch) -> Batch:
        out: Batch = {}
        if "numeric" in batch:
            x = batch["numeric"]
            z = ((x - self.mean) / self.scale).float().nan_to_num()
            both = torch.stack([z, x.isnan() * self.can_miss], -2)
            out["numeric"] = (both if self.sees_both else torch.where(self.sees_numeric[:, None], both, 0.0)).flatten(-2)
        if "categorical" in batch:
            raw = batch["categorical"]
            codes = torch.stack([self.get_buffer(f"codes_{j}")[:, raw[:, j]] for j in range(raw.shape[1])], -1)
            out["categorical"] = torch.where(self.sees_categorical, codes, MISSING)
        if "image" in batch:
            pixels = (batch["image"].float() - self.channel_mean) / self.channel_scale
            out["image"] = torch.where(self.sees_image, pixels, 0.0)
        return out


class Common(nn.Module):
    """Numbers on one scale for K networks that each have their own, which is folded into their first layer.

    With z = (x − m) / s of the common scale, a network's own number is z · r + d, where r = s / sₖ and d = (m − mₖ) / sₖ. A layer
    W of it is W r of z and W d beside the bias; where x is missing its own number is 0, and the flag takes W d back.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, parts: Sequence[Preprocessing]) -> None:
        super().__init__()
        means, scales = (torch.stack([part.get_buffer(name) for part in parts]) for name in ("mean", "scale"))
        self.register_buffer("mean", means.mean(0), persistent=False)
        self.register_buffer("scale", scales.mean(0), persistent=False)
        self.parts = list(parts)
        self.ratio, self.apart = self.scale / scales, (self.mean - means) / scales

    @property
    def fits(self) -> bool:
        """Whether the scales are near enough to each other that float32 loses nothing by it."""
        return bool((self.ratio < 4).all() and (self.apart.abs() < 4).all())

    @torch.no_grad()
    def fold(self, weight: Tensor, bias: Tensor) -> None:
        """Change a stacked layer (K, out, in) and (K, out), whose first inputs are P numbers and P flags, in place."""
        columns = len(self.mean)
        for k, part in enumerate(self.parts):
            own = weight[k].double()
            numbers, flags = own[:, :columns] * part.sees_numeric, own[:, columns : 2 * columns] * part.sees_numeric
            moved = numbers * self.apart[k]
            weight[k, :, :columns] = numbers * self.ratio[k]
            weight[k, :, columns : 2 * columns] = flags * part.can_miss - moved
            bias[k] = bias[k].double() + moved.sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Raw numbers (B, P) → common ones and flags (B, 2P), or without flags (B, P) if nothing is missing."""
        z = ((x - self.mean) / self.scale).float()
        missing = z.isnan()
        return torch.cat([z.nan_to_num(), missing], 1) if missing.any() else z.nan_to_num()


def _equal(one: Preprocessing, other: Preprocessing) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
