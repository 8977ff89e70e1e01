"""How a pruned ensemble combines what its members say, and the Pareto front that it was chosen from.

Shapes: M members, K subsets of the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fuseline.fusion.combine import Mixture

OBJECTIVES = ("loss", "diversity", "latency", "memory")
"""What a subset is judged by: mean row loss, diversity, microseconds per row, and megabytes (10⁶ bytes)."""


class Pruned(Mixture):
    """The even mixture of some members: ``weights`` (M,) are 1/k on the k chosen ones and 0 on the others.

    What it was chosen from stays with it, to be shown, and is not needed to serve: ``front`` (K, M), which members each subset
    consists of, and ``objectives`` (K, 4), in the order of ``OBJECTIVES``; by ascending loss, the chosen subset among them.
    """

    front: Tensor
    objectives: Tensor


def front_table(combiner: Pruned, members: Sequence[str]) -> list[dict[str, Any]]:
    """The front as plain values, one entry a subset: its ``members`` by name, its objectives, and whether it is the chosen one.

    >>> import torch
    >>> objectives = torch.tensor([[0.5, 0.25, 3.0, 2.0], [1.0, 0.0, 1.0, 1.0]])
    >>> front = torch.tensor([[True, True], [True, False]])
    >>> combiner = Pruned({"weights": torch.tensor([1.0, 0.0]), "front": front, "objectives": objectives})
    >>> table = front_table(combiner, ["a", "b"])
    >>> table[1]
    {'members': ['a'], 'loss': 1.0, 'diversity': 0.0, 'latency': 1.0, 'memory': 1.0, 'chosen': True}
    """
    chosen = (combiner.weights > 0).tolist()
    return [
        {
            "members": [name for name, inside in zip(members, mask, strict=True) if inside],
            **dict(zip(OBJECTIVES, row, strict=True)),
            "chosen": mask == chosen,
        }
        for mask, row in zip(combiner.front.tolist(), combiner.objectives.tolist(), strict=True)
    ]
