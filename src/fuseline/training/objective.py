"""What a network is trained to make small: every target's loss, weighed by row, class and target.

Shapes: B rows of a batch, K copies of a network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.heads import Head
from fuseline.models.losses import LOSSES
from fuseline.models.network import Branch, Network
from fuseline.partition import expert_target
from fuseline.training.mixing import Mixed


class Objective:
    """Σ over targets of weight · Σᵢ rᵢ cᵢ ℓᵢ / Σᵢ cᵢ, auxiliary branches added by their share.

    cᵢ is the weight of a row's class, and 0 where its target is unknown; rᵢ is the row's own weight, 1 on the average over all
    training rows, so that a batch of light rows pulls less.
    """

    def __init__(
        self,
        network: Network,
        schema: Schema,
        losses: Mapping[str, Component],
        weights: Mapping[str, float],
        class_weights: Mapping[str, Tensor],
        own: Tensor,
    ) -> None:
        self.network, self.losses, self.weights, self.class_weights = network, losses, weights, class_weights
        self.expert_in = expert_target(schema) if len(own) else None
        self.own = own

    def __call__(
        self,
        branches: list[Branch],
        targets: Mapping[str, Tensor],
        rows: Mapping[str, Tensor] | None = None,
        mixed: Mixed | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            branches: what the network says of it.
            targets: codes, labels or values, in the target's own units.
            rows: weights of the rows (B,) for some targets.
            mixed: with whom each row was mixed, and what part of it is its own.
        """
        parts = []
        for branch in branches:
            for name, raw in branch.raw.items():
                weights = None if rows is None else rows.get(name)
                parts.append(branch.weight * self.weights[name] * self._target(name, raw, targets[name], weights, mixed))
        return torch.stack(parts).sum()

    def _target(self, name: str, raw: Tensor, target: Tensor, rows: Tensor | None, mixed: Mixed | None) -> Tensor:
        losses, weights = self._each(name, raw, target, rows)
        if mixed is not None:
            partner = mixed.partner
            others, their = self._each(name, raw, target[partner], None if rows is None else rows[partner])
            losses = mixed.share * losses + (1 - mixed.share) * others
            weights = mixed.share * weights + (1 - mixed.share) * their
        return losses.sum() / weights.sum().clamp(min=1e-12)

    def _each(self, name: str, raw: Tensor, target: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weighted loss of each row, and what its class weighs (B,)."""
        head = self.network.head(name)
        weights = _known(target, head.task).float()
        if name in self.class_weights:
            weights = weights * self.class_weights[name][target.clamp(min=0)]
        losses = weights * self._losses(name, head, raw, target)
        return losses if rows is None else losses * rows, weights

    def _losses(self, name: str, head: Head, raw: Tensor, target: Tensor) -> Tensor:
        """The loss of each row (B,), the mean over the copies where raw outputs are (B, K, ·)."""
        copies = raw.shape[1] if raw.ndim == 3 else 1
        said = head.link(raw.flatten(0, -2))
        goal = head.standardise(target).repeat_interleave(copies, 0)
        if name == self.expert_in:
            said, goal = apart(said, goal, self.own)
        component = self.losses[name]
        losses: Tensor = LOSSES[head.task.kind][component.name](said, goal, head.task, **component.settings)
        return losses.reshape(-1, copies).mean(1)


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
