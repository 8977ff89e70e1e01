"""Embeddings of numbers: functions ``(columns, default, *, settings) → module`` from scaled numbers (B, P) to (B, P, E).

Each column has its own embedding. ``default`` is the size E that the architecture gives where the recipe sets none.
An MLP on the plain numbers is smooth in each of them; an embedding lets it bend where the data do (Gorishniy et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from rtdl_num_embeddings import (
    LinearEmbeddings,
    LinearReLUEmbeddings,
    PeriodicEmbeddings,
)
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.models.bounds import Width
from fuseline.models.preprocessing import quantiles_at


def linear(columns: int, default: int, *, size: Width | None = None, relu: bool = True) -> nn.Module:
    """E straight lines through each number, cut off below 0 by ``relu`` ("LR" in Gorishniy et al. 2022)."""
    made: nn.Module = (LinearReLUEmbeddings if relu else LinearEmbeddings)(columns, size or default)
    return made


def periodic(
    columns: int,
    default: int,
    *,
    size: Width | None = None,
    frequencies: Width = 48,
    sigma: Annotated[float, Field(gt=0, le=100)] = 0.1,
    lite: bool = False,
) -> nn.Module:
    """ReLU(Linear([cos 2πcx, sin 2πcx])) with ``frequencies`` learnt c ~ N(0, sigma²) ("PLR", Gorishniy et al. 2022).

    A small ``sigma`` begins smooth, a large one wiggly. ``lite`` shares the linear layer among the columns.
    """
    made: nn.Module = PeriodicEmbeddings(
        columns, size or default, n_frequencies=frequencies, frequency_init_scale=sigma, lite=lite
    )
    return made


def piecewise_linear(
    columns: int, default: int, *, size: Width | None = None, bins: Annotated[int, Field(ge=2, le=4096)] = 48
) -> nn.Module:
    """A line that may bend at each of ``bins`` quantiles of the training rows ("Q", Gorishniy et al. 2022, section 3.2)."""
    return PiecewiseLinear(columns, size or default, bins)


class PiecewiseLinearEncoding(nn.Module):
    """Equation 1 of Gorishniy et al. 2022: x (B, P) → how far x has come in each of T bins (B, P, T).

    Behind its bin a number has come 1 far, before it 0; in the first bin it may fall below 0, in the last rise above 1. The
    edges (P, T+1) are quantiles. The package's module is built from its edges, and the shapes of its buffers follow from how
    many of them are distinct; here the edges are a buffer of one shape, where a column with fewer repeats its last edge, and
    a bin of no width is always 0. So a network can be built from its settings, and loaded.
    """

    edges: Tensor

    def __init__(self, columns: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.zeros(columns, bins + 1))

    @torch.no_grad()
    def fit(self, x: Tensor, known: Tensor) -> None:
        """Take the edges from training rows x (n, P), as far as they are known (n, P)."""
        levels = torch.linspace(0, 1, self.edges.shape[1], dtype=torch.float64)
        for j, edges in enumerate(self.edges):
            column = x[:, j][known[:, j]].cpu().double()
            if len(column):
                distinct = _distinct(quantiles_at(column, levels))
                edges.fill_(distinct[-1])
                edges[: len(distinct)] = distinct

    def forward(self, x: Tensor) -> Tensor:
        left, width = self.edges[:, :-1], self.edges.diff()
        real = width > 0  # the real bins come first
        low = torch.zeros_like(width)
        low[:, 0] = -torch.inf
        last = real & ~nn.functional.pad(real[:, 1:], (0, 1))
        high = torch.ones_like(width).masked_fill(last, torch.inf)
        come = (x[..., None] - left) / torch.where(real, width, 1.0)
        return torch.where(real, come.clamp(low, high), 0.0)


class PiecewiseLinear(nn.Module):
    """Linear(x) + the encoding times a matrix for each column, which begins as 0: at first the embedding is linear.

    This is ``PiecewiseLinearEmbeddings(version="B", activation=False)`` of the package, as TabM uses it (Gorishniy et al.
    2025), but for edges that are buffers of one shape.
    """

    def __init__(self, columns: int, size: int, bins: int) -> None:
        super().__init__()
        self.linear = LinearEmbeddings(columns, size)
        self.encoding = PiecewiseLinearEncoding(columns, bins)
        self.weight = nn.Parameter(torch.zeros(columns, bins, size))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) + torch.einsum("bpt,pte->bpe", self.encoding(x), self.weight)
        return out


EMBEDDINGS: dict[str, Callable[..., nn.Module]] = {
    "linear": linear,
    "periodic": periodic,
    "piecewise_linear": piecewise_linear,
}


def embed_numbers(numbers: Component | None, columns: int, default: int) -> tuple[nn.Module | None, int]:
    """The embedding that a recipe names, and its size E; nothing, and 1, where it names none or there are no numbers.

    Raises:
        RecipeError: the name is not in ``EMBEDDINGS``, or a setting is wrong.
    """
    if numbers is None:
        return None, 1
    # An architecture's settings, once completed, hold a component as it is written in a recipe: a name or a mapping.
    component = complete(Component.model_validate(numbers), EMBEDDINGS, "numbers")
    if not columns:
        return None, 1
    return EMBEDDINGS[component.name](columns, default, **component.settings), component.settings["size"] or default


def _distinct(edges: Tensor) -> Tensor:
    """Rising edges in float32, without those that it can't tell from the one before, seen from the width of them all.

    >>> _distinct(torch.tensor([0.0, 0.0, 1.0, 1.0 + 1e-9, 3.0], dtype=torch.float64)).tolist()
    [0.0, 1.0, 3.0]
    """
    first, *others = edges.tolist()
    least, kept = 1e-6 * (edges[-1].item() - first), [first]
    for edge in others:
        if edge - kept[-1] > least:
            kept.append(edge)
    single = torch.tensor(kept, dtype=torch.float32)
    return single[torch.cat([torch.tensor([True]), single.diff() > 0])]
