"""How fusions read what the members say of many rows: never all of it at once.

Shapes: M members, B rows, C classes, labels, quantiles or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.fusion.combine import Combiner, Fused, Mixture, Outputs

Index = NDArray[np.int64]
"""Positions among the B rows."""


class Said(Protocol):
    """What the members say of B rows, read as it is asked for."""

    def outputs(self, index: Index, needs: AbstractSet[str] = frozenset()) -> Outputs:
        """All that they say of a few rows, with the ``features`` and ``inputs`` that are needed."""

    def blocks(self, index: Index, needs: AbstractSet[str] = frozenset()) -> Iterator[tuple[slice, Outputs]]:
        """The same of many, some at a time: consecutive slices of ``index``, and what is said of each. At least one."""

    def true(self, index: Index, codes: Index) -> Outputs:
        """Of classes, the probability (M, B, 1) of one for each row alone."""

    def alone(self, member: int, index: Index) -> Outputs:
        """What one member says (1, B, C)."""


def say(combiner: Combiner, said: Said, index: Index, needs: AbstractSet[str] = frozenset()) -> Fused:
    """What a fitted rule says of some rows."""
    together: Fused | None = None
    for part, outputs in said.blocks(index, needs):
        fused: Fused = combiner(outputs)
        together = unsaid(fused, len(index)) if together is None else together
        put(together, part, fused)
    assert together is not None
    return together


def unsaid(like: Fused, rows: int) -> Fused:
    """NaN of so many rows, of the shape of what is said of some.

    What is said is put there at once: kept in parts, it would lie in the memory that a block frees, and the next not fit in.
    """
    values, variances = (None if x is None else x.new_full((rows, x.shape[1]), torch.nan) for x in (like.values, like.variances))
    assert values is not None
    return like._replace(values=values, variances=variances)


def put(together: Fused, where: slice | Index, part: Fused) -> None:
    """Fill some rows with what is said of them."""
    together.values[where] = part.values
    if together.variances is not None and part.variances is not None:
        together.variances[where] = part.variances


def say_alone(member: int, said: Said, index: Index) -> Fused:
    """What one member says of some rows, as the fusion that listens to it alone."""
    fused: Fused = pick(0, 1)(said.alone(member, index))
    return fused


def pick(member: int, members: int) -> Combiner:
    """The mixture with all weight on one member."""
    weights: Tensor = torch.zeros(members, dtype=torch.float64)
    weights[member] = 1
    return Mixture({"weights": weights})
