"""Backbones for tables: functions ``(schema, *, settings) → backbone``, a module from a preprocessed batch to features.

Shapes: B rows, P numeric columns, Q categorical columns, K copies, D features: (B, D), or (B, K, D) where a backbone has
``copies``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from tabm import make_tabm_backbone
from torch import Tensor, nn

from fuseline.component import Component
from fuseline.data.schema import FIRST, Schema
from fuseline.errors import RecipeError
from fuseline.models.bounds import Dropout, Width
from fuseline.models.embeddings import PiecewiseLinear, embed_numbers
from fuseline.models.preprocessing import Batch

Activation = Literal["relu", "gelu", "silu", "tanh"]
Norm = Literal["none", "batch", "layer"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class Tabular(nn.Module):
    """What the backbones share: an embedding for each categorical column, one for the numbers if it is asked for, and
    everything flattened, side by side.

    Attributes:
        widths: how many numbers each input becomes, in the order in which they stand side by side.
    """

    widths: list[int]
    numbers: nn.Module | None

    def __init__(self, schema: Schema, numbers: Component | None) -> None:
        super().__init__()
        self.columns = len(schema.numeric)
        sizes = [FIRST + len(vocabulary) for vocabulary in schema.categorical.values()]
        self.embeddings = nn.ModuleList(nn.Embedding(n, min(16, (n + 1) // 2)) for n in sizes)
        self.numbers, size = embed_numbers(numbers, self.columns, default=16)
        self.widths = [size] * self.columns + [1] * self.columns + [min(16, (n + 1) // 2) for n in sizes]
        if schema.image:
            channels, height, across = schema.image
            self.widths += [1] * (channels * height * across)

    @property
    def needs_rows(self) -> bool:
        """Whether there is something to fit."""
        return isinstance(self.numbers, PiecewiseLinear)

    def fit(self, batch: Batch, generator: torch.Generator) -> None:  # noqa: ARG002 - quantiles take no chance
        """Let the numbers' embedding take its bins from preprocessed training rows."""
        fit_numbers(self.numbers, batch)

    def flat(self, batch: Batch) -> Tensor:
        """Side by side (B, ·); of stacked networks (K, B, ·)."""
        parts = []
        if "numeric" in batch:
            x = batch["numeric"]
            if self.numbers is not None:
                x = torch.cat([self.numbers(x[:, : self.columns]).flatten(1), x[:, self.columns :]], 1)
            parts.append(x)
        parts += [embed(batch["categorical"][..., j]) for j, embed in enumerate(self.embeddings)]
        if "image" in batch:
            parts.append(batch["image"].flatten(-3))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def fit_numbers(numbers: nn.Module | None, batch: Batch) -> None:
    """Bins from the training rows' numbers that are not missing, for an embedding that has bins."""
    if isinstance(numbers, PiecewiseLinear):
        x, missing = batch["numeric"].chunk(2, 1)
        numbers.encoding.fit(x, missing == 0)


class Skip(nn.Module):
    """A layer's input added to its output, by a linear map where they differ in width (He et al. 2016, equations 1 and 2)."""

    def __init__(self, before: int, after: int, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.shortcut = nn.Identity() if before == after else nn.Linear(before, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.layer(x)
        return out


class MLP(Tabular):
    """Numbers, embedded categories and flattened pictures through fully connected layers; no hidden layer is a linear model."""

    def __init__(
        self,
        schema: Schema,
        hidden: tuple[int, ...],
        dropout: float,
        activation: str = "relu",
        norm: str = "none",
        residual: bool = False,
        numbers: Component | None = None,
    ) -> None:
        super().__init__(schema, numbers)
        width = sum(self.widths)
        layers: list[nn.Module] = []
        for size in hidden:
            layer: list[nn.Module] = [nn.Linear(width, size)]
            layer += [NORMS[norm](size)] if norm != "none" else []
            layer += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
            layers += [Skip(width, size, nn.Sequential(*layer))] if residual else layer
            width = size
        self.layers = nn.Sequential(*layers)
        self.features = width

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.layers(self.flat(batch))
        return out


def mlp(
    schema: Schema,
    *,
    hidden: tuple[Width, ...] = (128, 64),
    dropout: Dropout = 0.1,
    activation: Activation = "relu",
    norm: Norm = "none",
    residual: bool = False,
    numbers: Component | None = None,
) -> nn.Module:
    """A multi-layer perceptron over any kind of input; ``hidden: []`` is a linear model.

    Each hidden layer is linear → ``norm`` → ``activation`` → dropout; with ``residual`` its input is added. ``numbers`` names
    an embedding of ``EMBEDDINGS``.
    """
    return MLP(schema, hidden, dropout, activation, norm, residual, numbers)


class FTTransformer(nn.Module):
    """A token for each column and one, [CLS], that reads them all by attention (Gorishniy et al. 2021, section 3.3).

    Tokens are (B, 1 + P + Q, D). A missing number's token has a vector of its column added to it. Attention blocks
    normalise first; the features are ReLU(LayerNorm([CLS])).
    """

    numbers: nn.Module | None

    def __init__(self, schema: Schema, width: int, layers: int, heads: int, dropout: float, numbers: Component | None) -> None:
        super().__init__()
        self.columns = len(schema.numeric)
        plain = Component(name="linear", settings={"relu": False})  # the paper's own tokens: x times a vector, plus a vector
        self.numbers, size = embed_numbers(numbers or plain, self.columns, default=width)
        if self.numbers is not None and size != width:
            raise RecipeError(f"numbers: 'ft_transformer' needs embeddings of its own width, {width}; leave out the size {size}.")
        sizes = [FIRST + len(vocabulary) for vocabulary in schema.categorical.values()]
        self.embeddings = nn.ModuleList(nn.Embedding(n, width) for n in sizes)
        self.missing = nn.Parameter(torch.zeros(self.columns, width)) if self.columns else None
        self.cls = nn.Parameter(torch.empty(width).uniform_(-(width**-0.5), width**-0.5))
        # One by one, because nn.TransformerEncoder copies one layer, and all of them would begin with the same weights.
        self.layers = nn.Sequential(*(block(width, heads, dropout) for _ in range(layers)))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.ReLU())
        self.features = width
        for embedding in self.embeddings:
            nn.init.uniform_(embedding.weight, -(width**-0.5), width**-0.5)  # type: ignore[arg-type]  # as the numbers' tokens

    def fit(self, batch: Batch, generator: torch.Generator) -> None:  # noqa: ARG002 - quantiles take no chance
        """Let the numbers' embedding take its bins from preprocessed training rows."""
        fit_numbers(self.numbers, batch)

    def forward(self, batch: Batch) -> Tensor:
        rows = len(next(iter(batch.values())))
        tokens = [self.cls.expand(rows, 1, -1)]
        if self.numbers is not None and self.missing is not None:
            x, missing = batch["numeric"].chunk(2, 1)
            tokens.append(self.numbers(x) + missing[..., None] * self.missing)
        tokens += [embed(batch["categorical"][:, j, None]) for j, embed in enumerate(self.embeddings)]
        out: Tensor = self.last(self.layers(torch.cat(tokens, 1))[:, 0])
        return out


def block(width: int, heads: int, dropout: float) -> nn.Module:
    """Attention and two linear layers, each behind a layer norm."""
    return nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True)


def ft_transformer(
    schema: Schema,
    *,
    width: Width = 64,
    layers: Annotated[int, Field(ge=1, le=64)] = 2,
    heads: Annotated[int, Field(ge=1, le=256)] = 4,
    dropout: Dropout = 0.1,
    numbers: Component | None = None,
) -> nn.Module:
    """Attention over the columns of a table; ``numbers`` names an embedding of ``EMBEDDINGS``.

    Raises:
        RecipeError: the data are pictures, or ``width`` is not a multiple of ``heads``, or an embedding's size is not ``width``.
    """
    if schema.image is not None:
        raise RecipeError("'ft_transformer' needs a table, and the data are pictures; use 'mlp' or 'cnn'.")
    if width % heads:
        raise RecipeError(f"'ft_transformer': the width {width} is not a multiple of {heads} heads; choose one that is.")
    return FTTransformer(schema, width, layers, heads, dropout, numbers)


class TabM(Tabular):
    """K multi-layer perceptrons that share their weights but for a few vectors each (Gorishniy et al. 2025).

    Each layer of copy k is s_k ∘ W(r_k ∘ x) + b_k, with W shared (BatchEnsemble, Wen et al. 2020); only the very first r_k are
    random, so the copies begin as one network that sees its inputs differently scaled.

    The layers are the package's. Its class ``TabM`` is not used: that takes numbers' embeddings of the package's types alone,
    has no place for flags of missing numbers, and codes categories one-hot, which is wide for a long vocabulary.
    """

    def __init__(self, schema: Schema, copies: int, width: int, layers: int, dropout: float, numbers: Component | None) -> None:
        super().__init__(schema, numbers)
        self.layers = make_tabm_backbone(
            d_in=sum(self.widths),
            n_blocks=layers,
            d_block=width,
            dropout=dropout,
            k=copies,
            start_scaling_init="random-signs" if self.numbers is None else "normal",  # as the package chooses
            start_scaling_init_chunks=self.widths,  # all that one input becomes is scaled alike
        )
        self.copies = copies
        self.features = width

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.layers(self.flat(batch)[:, None].expand(-1, self.copies, -1))
        return out


def tabm(
    schema: Schema,
    *,
    copies: Annotated[int, Field(ge=2, le=256)] = 16,
    width: Width = 128,
    layers: Annotated[int, Field(ge=1, le=64)] = 2,
    dropout: Dropout = 0.1,
    numbers: Component | None = None,
) -> nn.Module:
    """``copies`` perceptrons in one, each with its own head; ``numbers`` names an embedding of ``EMBEDDINGS``.

    The paper does best with ``piecewise_linear``, and has 32 copies.
    """
    return TabM(schema, copies, width, layers, dropout, numbers)


TABULAR: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "ft_transformer": ft_transformer, "tabm": tabm}
