"""A backbone that sees each row among its nearest training rows, by the convolutions of torch_geometric (an extra).

Shapes: B rows, A anchors, k neighbours, P numeric columns, Q categorical columns, D features.

A whole graph of the rows would make a row's answer depend on the batch it comes in. Here it is inductive instead: the nodes that
send messages are a fixed sample of the training rows, the anchors, and any row, new or not, is linked to those nearest to it.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.component import Component
from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.models.bounds import Dropout, Width
from fuseline.models.preprocessing import Batch
from fuseline.models.tabular import Tabular


class Graph(Tabular):
    """Rows and anchors go through one linear layer, then layer by layer each takes in what its nearest anchors send.

    A row's own copies are never among its neighbours, while it trains as in use. They could tell it nothing, for a message holds
    inputs and no target. But an anchor that trains would see itself, and the rows that a member is judged on see no copy of
    themselves, so it would learn from links that are not there later. For the same reason no mode is told from another: an anchor
    that comes as a row gets the very state that it has as an anchor.

    The anchors are buffers: whoever has the trained network has these training rows, as far as the member sees them.

    Attributes:
        real: which of the A places hold a training row; the others are there because the shape of a buffer must not depend on
            the number of rows.
        links: the anchors' own neighbours (A, k), −1 for none.
    """

    real: Tensor
    links: Tensor

    def __init__(
        self,
        schema: Schema,
        anchors: int,
        neighbours: int,
        convolutions: list[nn.Module],
        width: int,
        dropout: float,
        numbers: Component | None,
    ) -> None:
        super().__init__(schema, numbers)
        self.inputs = _shapes(schema)
        for name, shape in self.inputs.items():
            dtype = torch.int64 if name == "categorical" else torch.float32
            self.register_buffer(f"anchor_{name}", torch.zeros(anchors, *shape, dtype=dtype))
        self.register_buffer("real", torch.zeros(anchors, dtype=torch.bool))
        self.register_buffer("links", torch.full((anchors, neighbours), -1))
        self.first = nn.Linear(sum(self.widths), width)
        self.convolutions = nn.ModuleList(convolutions)
        self.dropout = nn.Dropout(dropout)
        self.features = width

    @property
    def anchors(self) -> Batch:
        """The anchors (A, ...) as a preprocessed batch."""
        return {name: self.get_buffer(f"anchor_{name}") for name in self.inputs}

    @torch.no_grad()
    def fit(self, batch: Batch, generator: torch.Generator) -> None:
        """Draw the anchors from preprocessed training rows, all of them if there are no more, and link them."""
        super().fit(batch, generator)
        rows = len(next(iter(batch.values())))
        drawn = torch.randperm(rows, generator=generator)[: len(self.real)].sort().values
        for name, anchor in self.anchors.items():
            anchor.zero_()
            anchor[: len(drawn)] = batch[name][drawn]
        self.real.copy_(torch.arange(len(self.real)) < len(drawn))
        self.links.copy_(self.near(self.anchors))

    @torch.no_grad()
    def near(self, batch: Batch) -> Tensor:
        """The k anchors nearest to each row that are no copy of it, nearest first (B, k); −1 where there are fewer."""
        apart = distances(batch, self.anchors)
        return nearest(torch.where(self.real & (apart > 0), apart, torch.inf), self.links.shape[1])

    def forward(self, batch: Batch) -> Tensor:
        near = self.near(batch)
        rows, anchors = self._embed(batch), self._embed(self.anchors)
        *inner, last = self.convolutions
        for layer in inner:
            rows, anchors = self._send(layer, anchors, rows, near), self._send(layer, anchors, anchors, self.links)
        return self._send(last, anchors, rows, near)

    def _embed(self, batch: Batch) -> Tensor:
        out: Tensor = self.dropout(self.first(self.flat(batch)).relu())
        return out

    def _send(self, layer: nn.Module, anchors: Tensor, rows: Tensor, near: Tensor) -> Tensor:
        """New states of rows (B, D), given their neighbours (B, k) among the anchors (A, D)."""
        # One row more takes the links that are missing and is left out, so that their number never shapes a tensor.
        padded = F.pad(rows, (0, 0, 0, 1))
        out: Tensor = self.dropout(layer((anchors, padded), edges(near))[:-1].relu())
        return out


def _shapes(schema: Schema) -> dict[str, tuple[int, ...]]:
    """What a preprocessed row consists of."""
    if schema.image is not None:
        return {"image": schema.image}
    widths = {"numeric": 2 * len(schema.numeric), "categorical": len(schema.categorical)}
    return {name: (width,) for name, width in widths.items() if width}


def distances(rows: Batch, anchors: Batch) -> Tensor:
    """Squared Euclidean distances (B, A) between preprocessed rows with their categories one-hot: one that differs counts 2.

    >>> one = {"numeric": torch.tensor([[0.0, 3.0]]), "categorical": torch.tensor([[2, 5]])}
    >>> distances(one, {"numeric": torch.tensor([[4.0, 0.0]]), "categorical": torch.tensor([[2, 7]])})
    tensor([[27.]])
    """
    first = next(iter(rows.values()))
    total = torch.zeros(len(first), len(next(iter(anchors.values()))), device=first.device)
    for name in ("numeric", "image"):
        if name in rows:
            # From the differences, because a matrix product rounds by the size of the batch, and copies would not be 0 apart.
            plain = torch.cdist(rows[name].flatten(1), anchors[name].flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
            total = total + plain.square()
    if "categorical" in rows:
        for one, other in zip(rows["categorical"].T, anchors["categorical"].T, strict=True):
            total = total + 2.0 * (one[:, None] != other)
    return total


def nearest(apart: Tensor, k: int) -> Tensor:
    """The k smallest entries of each row (B, A), by place if they are equal (B, k); −1 instead of an infinite one.

    >>> nearest(torch.tensor([[2.0, 1.0, torch.inf, 1.0]]), 4)
    tensor([[ 1,  3,  0, -1]])
    """
    values, order = apart.sort(dim=1, stable=True)
    return torch.where(values < torch.inf, order, -1)[:, :k]


def edges(near: Tensor) -> Tensor:
    """Neighbours (B, k) as torch_geometric's links from anchors to rows (2, B·k); the missing ones lead to row B.

    >>> edges(torch.tensor([[4, 2], [0, -1]]))
    tensor([[4, 2, 0, 0],
            [0, 0, 1, 2]])
    """
    rows = torch.arange(len(near), device=near.device)[:, None]
    return torch.stack([near.clamp(min=0).flatten(), torch.where(near < 0, len(near), rows).flatten()])


def graph(
    schema: Schema,
    *,
    anchors: Annotated[int, Field(ge=2, le=65536)] = 256,
    neighbours: Annotated[int, Field(ge=1, le=1024)] = 8,
    convolution: Literal["sage", "gat"] = "sage",
    width: Width = 64,
    layers: Annotated[int, Field(ge=1, le=16)] = 2,
    heads: Annotated[int, Field(ge=1, le=256)] = 4,
    dropout: Dropout = 0.1,
    numbers: Component | None = None,
) -> nn.Module:
    """A graph network: each row reads its nearest ``neighbours`` among ``anchors`` training rows, ``layers`` links deep.

    Args:
        convolution: ``sage`` is W₁ · mean of the neighbours + W₂ · the row (Hamilton et al. 2017, the mean aggregator, without
            scaling to length 1); ``gat`` weighs the neighbours by attention (Brody et al. 2022, GATv2) and adds W · the row.
        heads: of the attention, side by side in ``width``; ``sage`` has none.
        numbers: an embedding of ``EMBEDDINGS`` for what is sent; who is near is told by the scaled numbers themselves.

    Raises:
        RecipeError: torch_geometric is not installed, there are too few anchors, or ``width`` is not a multiple of ``heads``.
    """
    if neighbours >= anchors:
        raise RecipeError(f"'graph': {anchors} anchors are too few for {neighbours} neighbours of each; take more of them.")
    if convolution == "gat" and width % heads:
        raise RecipeError(f"'graph': the width {width} is not a multiple of {heads} heads; choose one that is.")
    package = _package()

    def layer() -> nn.Module:
        if convolution == "sage":
            made: nn.Module = package.SAGEConv((width, width), width)
        else:  # a row is linked to no node of its own that could carry its state on, so that is added
            made = package.GATv2Conv((width, width), width // heads, heads=heads, add_self_loops=False, residual=True)
        return made

    return Graph(schema, anchors, neighbours, [layer() for _ in range(layers)], width, dropout, numbers)


def _package() -> Any:
    """``torch_geometric.nn``, whose import takes seconds.

    Raises:
        RecipeError: it is not installed.
    """
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's, of what the package does while imported
        try:
            return import_module("torch_geometric.nn")
        except ModuleNotFoundError:
            raise RecipeError("'graph' needs torch_geometric; install it: pip install 'fuseline[graph]'.") from None
