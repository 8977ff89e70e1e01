"""A batch in two halves, for an accelerator that has no memory for the whole.

Shapes: K networks, B rows of a batch, b of a half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fuseline.models.preprocessing import Batch
from fuseline.training.mixing import Mixed
from fuseline.training.objective import Goal

Goals = dict[str, Goal]


def halves(ready: Batch, goals: Mapping[str, Goal], mixed: Mixed | None) -> Iterator[tuple[Batch, list[Goals]]]:
    """Each half's inputs (K, b, …), and goals whose objectives add up, over these and the halves, to that of the whole batch.

    The objective divides by the weights of the rows that it is given: the rows' own weights make that a division by those of the
    whole batch. The partners of mixed rows, which may be in the other half, are goals beside the rows' own, each by its share.
    """
    parts = [(goals, torch.ones(()))]
    if mixed is not None:
        partners = {name: goal.partners(mixed.partner) for name, goal in goals.items()}
        parts = [(goals, mixed.share), (partners, 1 - mixed.share)]
    whole = {name: _sum(torch.stack([share * its[name].weight for its, share in parts]).sum(0)) for name in goals}
    shared = [{name: _times(goal, share) for name, goal in its.items()} for its, share in parts]
    rows = next(iter(ready.values())).shape[1]
    for half in (slice(0, rows // 2), slice(rows // 2, rows)):
        here = (slice(None), half)
        cut = [{name: goal.rows(here) for name, goal in its.items()} for its in shared]
        yield (
            {name: x[here] for name, x in ready.items()},
            [{name: _times(goal, _sum(goal.weight) / whole[name].clamp(min=1e-12)) for name, goal in its.items()} for its in cut],
        )


def _sum(weights: Tensor) -> Tensor:
    """Over the rows (K, 1)."""
    return weights.sum(-1, keepdim=True)


def _times(goal: Goal, factor: Tensor) -> Goal:
    """The same with the rows' own weights multiplied."""
    return goal._replace(boost=factor * (torch.ones_like(goal.weight) if goal.boost is None else goal.boost))
