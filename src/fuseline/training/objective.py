"""What a network is trained to make small: every target's loss, weighed by row, class and target.

Shapes: B rows of a batch, K copies of a network. All may have leading axes, one entry for each of several networks that are
trained together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.heads import Head
from fuseline.models.losses import LOSSES
from fuseline.models.network import Branch
from fuseline.partition import expert_target
from fuseline.training.mixing import Mixed


class Goal(NamedTuple):
    """What rows are to be told of one target, as far as it can be computed before training.

    Attributes:
        value: codes (…, B), labels (…, B, C) or standardised values (…, B).
        weight: that of each row's class (…, B), 0 where the target is unknown.
        boost: the row's own weight (…, B), if rows have one.
    """

    value: Tensor
    weight: Tensor
    boost: Tensor | None = None

    def rows(self, index: tuple[Tensor | slice, ...] | Tensor) -> Goal:
        return Goal(*(None if part is None else part[index] for part in self))  # type: ignore[arg-type]

    def split(self, sizes: list[int]) -> list[Goal]:
        """Consecutive rows (K, b) of several networks'."""
        parts = [None if part is None else part.split(sizes, 1) for part in self]  # type: ignore[no-untyped-call]
        return [Goal(*(None if part is None else part[i] for part in parts)) for i in range(len(sizes))]  # type: ignore[arg-type]

    def partners(self, partner: Tensor) -> Goal:
        """Those of the rows (…, B) that each row is mixed with."""
        wide = partner[..., None] if self.value.ndim > partner.ndim else partner
        boost = None if self.boost is None else self.boost.take_along_dim(partner, -1)
        return Goal(self.value.take_along_dim(wide, partner.ndim - 1), self.weight.take_along_dim(partner, -1), boost)


def goal(head: Head, target: Tensor, class_weights: Tensor | None = None, boost: Tensor | None = None) -> Goal:
    """The goal of rows with the targets (B,) or (B, C), in the target's own units."""
    weight = _known(target, head.task).float()
    if class_weights is not None:
        weight = weight * class_weights[target.clamp(min=0)]
    return Goal(head.standardise(target), weight, boost)


class Objective:
    """Σ over targets of weight · Σᵢ rᵢ cᵢ ℓᵢ / Σᵢ cᵢ, auxiliary branches added by their share.

    cᵢ is the weight of a row's class, and 0 where its target is unknown; rᵢ is the row's own weight, 1 on the average over all
    training rows, so that a batch of light rows pulls less.

    Args:
        heads: each target's, for how its raw output is read; those of any of the networks.
        own: the classes that an expert tells apart, of the first target with exclusive ones; all, if empty.
    """

    def __init__(
        self,
        heads: Mapping[str, Head],
        schema: Schema,
        losses: Mapping[str, Component],
        weights: Mapping[str, float],
        own: Tensor,
    ) -> None:
        self.heads, self.losses, self.weights = heads, losses, weights
        self.expert_in = expert_target(schema) if len(own) else None
        self.own = own

    def __call__(self, branches: list[Branch], goals: Mapping[str, Goal], mixed: Mixed | None = None) -> Tensor:
        """The loss of a batch (), or of each network (…,).

        Args:
            branches: what the networks say of it.
            mixed: with whom each row was mixed, and what part of it is its own.
        """
        return reduce(
            add,
            (
                branch.weight * self.weights[name] * self._target(name, raw, goals[name], mixed)
                for branch in branches
                for name, raw in branch.raw.items()
            ),
        )

    def _target(self, name: str, raw: Tensor, goal: Goal, mixed: Mixed | None) -> Tensor:
        losses, weights = self._each(name, raw, goal), goal.weight
        if mixed is not None:
            partners = goal.partners(mixed.partner)
            losses = mixed.share * losses + (1 - mixed.share) * self._each(name, raw, partners)
            weights = mixed.share * weights + (1 - mixed.share) * partners.weight
        return losses.sum(-1) / weights.sum(-1).clamp(min=1e-12)

    def _each(self, name: str, raw: Tensor, goal: Goal) -> Tensor:
        """The weighted loss of each row (…, B), the mean over the copies where raw outputs are (…, B, K, ·)."""
        head, rows = self.heads[name], goal.weight.shape
        copies = raw.shape[-2] if raw.ndim > goal.weight.ndim + 1 else 1
        said = head.link(raw.flatten(0, -2))
        value = goal.value.flatten(0, len(rows) - 1)
        value = value if copies == 1 else value.repeat_interleave(copies, 0)
        if name == self.expert_in:
            said, value = apart(said, value, self.own)
        component = self.losses[name]
        losses = LOSSES[head.task.kind][component.name](said, value, head.task, **component.settings)
        losses = losses.reshape(rows) if copies == 1 else losses.reshape(*rows, copies).mean(-1)
        losses = losses * goal.weight
        return losses if goal.boost is None else losses * goal.boost


def apart(said: Tensor, target: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """An expert's view of log probabilities (B, C) and codes (B,): its own classes, and all the others as one event at the end.

    >>> said = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> merged, code = apart(said, torch.tensor([2]), torch.tensor([0]))
    >>> merged.exp().round(decimals=4).tolist(), code.tolist()
    ([[0.5, 0.5]], [1])
    """
    other = torch.ones(said.shape[1], dtype=torch.bool, device=said.device)
    other[own] = False
    position = torch.full((said.shape[1],), len(own), device=said.device)
    position[own] = torch.arange(len(own), device=said.device)
    rest = said[:, other].logsumexp(1, keepdim=True)
    return torch.cat([said[:, own], rest], 1), torch.where(target < 0, target, position[target.clamp(min=0)])


def _known(target: Tensor, task: TargetSchema) -> Tensor:
    if task.exclusive:
        return target >= 0
    known = ~target.isnan()
    return known.any(1) if known.ndim == 2 else known
