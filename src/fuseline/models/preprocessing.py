"""Raw inputs to tensors that a network can use, fitted on a member's training rows and kept in its buffers.

Shapes: B rows, P numeric columns, Q categorical columns, (C, H, W) a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.data.schema import FIRST, MISSING, UNKNOWN, Schema

Batch = dict[str, Tensor]


class Scaling(Protocol):
    """A way to bring numbers to one scale. What it learns is kept in buffers of :class:`Preprocessing` under their names, so
    their shapes follow from the number of columns and the settings alone."""

    def blank(self, columns: int) -> Batch:
        """The buffers before they are fitted."""

    def fit(self, x: Tensor) -> Batch:
        """The buffers from training rows (n, P) in float64, NaN where missing."""

    def apply(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """Scaled numbers (B, P) in float64, NaN where missing."""


@dataclass(frozen=True)
class Standard:
    """(x − mean) / standard deviation; a constant column keeps its unit."""

    def blank(self, columns: int) -> Batch:
        return {"mean": torch.zeros(columns, dtype=torch.float64), "scale": torch.ones(columns, dtype=torch.float64)}

    def fit(self, x: Tensor) -> Batch:
        n = (~x.isnan()).sum(0).clamp(min=1)
        mean = x.nan_to_num().sum(0) / n
        variance = ((x - mean).nan_to_num() ** 2).sum(0) / n
        return {"mean": mean, "scale": _scale(variance)}

    def apply(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        return (x - fitted["mean"]) / fitted["scale"]


@dataclass(frozen=True)
class Quantile:
    """Φ⁻¹(F(x)), with F the training rows' distribution function, linear between ``count`` quantiles.

    A value that has several quantiles gets the middle of its levels. The ends are clipped at Φ⁻¹(10⁻⁷) = −5.2 and 5.2, where
    the smallest and the largest training value come out, however many rows have them. All of this is scikit-learn's
    ``QuantileTransformer(output_distribution="normal")`` without its subsampling; but a column of one value comes out as 0,
    because it says nothing, and not as −5.2.
    """

    count: int
    tail = 1e-7

    def blank(self, columns: int) -> Batch:
        none = torch.zeros(columns, self.count, dtype=torch.float64)
        return {"quantiles": none, "levels": torch.linspace(0, 1, self.count, dtype=torch.float64)}

    def fit(self, x: Tensor) -> Batch:
        """With fewer rows than quantiles there is one for each row, and the last stands in all the places that are left."""
        count = min(self.count, len(x))
        fitted = self.blank(x.shape[1])
        fitted["levels"][:] = 1.0
        fitted["levels"][:count] = torch.linspace(0, 1, count, dtype=torch.float64)
        for j, column in enumerate(x.T):
            known = column[~column.isnan()]
            if len(known):
                fitted["quantiles"][j] = quantiles_at(known, fitted["levels"])
        return fitted

    def apply(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        quantiles, levels = fitted["quantiles"], fitted["levels"]
        first, last = quantiles[:, :1], quantiles[:, -1:]
        columns = x.double().T.contiguous()
        # The last level of a value that has several, and by mirroring everything the first: their middle is taken.
        level = (_interpolate(columns, quantiles, levels) - _interpolate(-columns, -quantiles.flip(1), -levels.flip(0))) / 2
        level = torch.where(columns >= last, 1.0, torch.where(columns <= first, 0.0, level))
        level = torch.where(first == last, 0.5, level).clamp(self.tail, 1 - self.tail)
        normal: Tensor = torch.special.ndtri(torch.where(columns.isnan(), columns, level))
        return normal.T


def standard() -> Scaling:
    """Numbers become z-scores."""
    return Standard()


def quantile(*, quantiles: Annotated[int, Field(ge=2, le=65536)] = 1000) -> Scaling:
    """Numbers become normally distributed, by their ranks (as Gorishniy et al. 2021 do): skewed columns and outliers are tame."""
    return Quantile(quantiles)


NUMBERS: dict[str, Callable[..., Scaling]] = {"standard": standard, "quantile": quantile}

STANDARD = Component(name="standard")


class Preprocessing(nn.Module):
    """Scale numbers, standardise pictures, tell missing numbers, recode categories that the training rows never had, and hide
    what the member does not see.

    A numeric column comes out scaled (0 where missing) and, beside it, a 1 where it was missing, which stays 0 if
    the training rows had no missing value there. A picture is standardised per channel.

    Raises:
        RecipeError: ``numbers`` is not in ``NUMBERS``, or has a wrong setting.
    """

    can_miss: Tensor
    channel_mean: Tensor
    channel_scale: Tensor
    sees_numeric: Tensor
    sees_categorical: Tensor
    sees_image: Tensor

    def __init__(self, schema: Schema, numbers: Component = STANDARD) -> None:
        super().__init__()
        columns = len(schema.numeric)
        numbers = complete(numbers, NUMBERS, "numbers")
        self.scaling = NUMBERS[numbers.name](**numbers.settings)
        blank = self.scaling.blank(columns)
        self.scaled_by = list(blank)
        for name, buffer in blank.items():
            self.register_buffer(name, buffer)
        self.register_buffer("can_miss", torch.zeros(columns))
        for j, vocabulary in enumerate(schema.categorical.values()):
            self.register_buffer(f"codes_{j}", torch.arange(FIRST + len(vocabulary)))
        channels = schema.image[0] if schema.image else 0
        self.register_buffer("channel_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("channel_scale", torch.ones(channels, 1, 1))
        shapes = {"numeric": (columns,), "categorical": (len(schema.categorical),), "image": schema.image or (0, 0, 0)}
        for name, shape in shapes.items():
            self.register_buffer(f"sees_{name}", torch.ones(shape, dtype=torch.bool))

    def see(self, view: Mapping[str, Tensor]) -> None:
        """Hide all that is False in the masks ``numeric`` (P,), ``categorical`` (Q,) and ``image`` (C, H, W) from the network.

        An input that ``view`` does not name is seen whole. A hidden number comes out as 0 and never as missing, a hidden
        category as missing, a hidden pixel as 0, which is its channel's mean.

        Raises:
            ValueError: a mask is for no input, or has another shape than it.
        """
        names = ("numeric", "categorical", "image")
        for name in view:
            shape = tuple(self.get_buffer(f"sees_{name}").shape) if name in names else None
            if tuple(view[name].shape) != shape:
                raise ValueError(f"a mask for {name!r} of shape {tuple(view[name].shape)} fits no input; expected {shape}")
        for name in names:
            mask = self.get_buffer(f"sees_{name}")
            mask.copy_(view.get(name, torch.ones_like(mask)))

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Take scales and known categories from training rows."""
        if "numeric" in batch:
            x = batch["numeric"].double()
            for name, value in self.scaling.fit(x).items():
                self.get_buffer(name).copy_(value)
            self.can_miss.copy_(x.isnan().any(0))
        if "categorical" in batch:
            for j in range(batch["categorical"].shape[1]):
                codes = self.get_buffer(f"codes_{j}")
                seen = torch.zeros(len(codes), dtype=torch.bool)
                seen[batch["categorical"][:, j]] = True
                seen[MISSING] = True
                codes.copy_(torch.where(seen, torch.arange(len(codes)), UNKNOWN))
        if "image" in batch:
            total = torch.zeros(batch["image"].shape[1], dtype=torch.float64)
            squares = total.clone()
            for part in torch.split(batch["image"], 4096):
                x = part.double()
                total += x.sum((0, 2, 3))
                squares += (x * x).sum((0, 2, 3))
            count = batch["image"].numel() / len(total)
            mean = total / count
            self.channel_mean.copy_(mean[:, None, None])
            self.channel_scale.copy_(_scale((squares / count - mean**2).clamp(min=0))[:, None, None])

    def forward(self, batch: Batch) -> Batch:
        """``numeric`` (B, 2P), ``categorical`` (B, Q) and ``image`` (B, C, H, W), as far as they are there."""
        out: Batch = {}
        if "numeric" in batch:
            x = batch["numeric"]
            fitted = {name: self.get_buffer(name) for name in self.scaled_by}
            z = self.scaling.apply(x, fitted).float().nan_to_num()  # in float64 up to here: a time in seconds has ten digits
            both = torch.stack([z, x.isnan() * self.can_miss], 1)
            out["numeric"] = torch.where(self.sees_numeric, both, 0.0).flatten(1)
        if "categorical" in batch:
            raw = batch["categorical"]
            codes = torch.stack([self.get_buffer(f"codes_{j}")[raw[:, j]] for j in range(raw.shape[1])], 1)
            out["categorical"] = torch.where(self.sees_categorical, codes, MISSING)
        if "image" in batch:
            pixels = (batch["image"].float() - self.channel_mean) / self.channel_scale
            out["image"] = torch.where(self.sees_image, pixels, 0.0)
        return out


def _scale(variance: Tensor) -> Tensor:
    deviation = variance.sqrt()
    return torch.where(deviation > 1e-12, deviation, 1.0)


def quantiles_at(x: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of x (n,), linear between its values. Several equal values give equal quantiles to the last bit, so that their
    ranks can be told from them; numpy's may miss by a rounding error, and torch's take 16 million values at most.

    >>> quantiles_at(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 0.25, 1.0]))
    tensor([1.0000, 1.5000, 3.0000])
    """
    order, place = x.sort().values, levels * (len(x) - 1)
    place = torch.where((place - place.round()).abs() < 1e-9, place.round(), place)
    low, high = order[place.floor().long()], order[place.ceil().long()]
    return torch.minimum(low + (place - place.floor()) * (high - low), high)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """At x (P, B), the line through rising knots (P, K) and values (K,); the last value where a knot repeats, the end beyond.

    >>> _interpolate(torch.tensor([[0.5, 2.0]]), torch.tensor([[0.0, 1.0, 2.0, 2.0]]), torch.tensor([0.0, 1.0, 2.0, 3.0]))
    tensor([[0.5000, 3.0000]])
    """
    right = torch.searchsorted(knots, x, right=True).clamp(1, knots.shape[1] - 1)
    before, after = knots.gather(1, right - 1), knots.gather(1, right)
    part = torch.where(after > before, (x - before) / (after - before), 1.0).clamp(0, 1)
    return values[right - 1] + part * (values[right] - values[right - 1])
