"""``pruned``: the subset of members that is as good as any and cheap, with the Pareto front that it is chosen from.

Shapes: M members, B rows, C classes, labels, quantiles or 1, S subsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fuseline.data.schema import TargetSchema
from fuseline.errors import RecipeError
from fuseline.fusion.combine import Combiner, Fused, Outputs
from fuseline.fusion.pareto import Floats, Masks, all_pairs, all_subsets, non_dominated, rounded, thinned, walk
from fuseline.fusion.pruned import Pruned
from fuseline.fusion.scores import row_losses

ALL = 12
"""Up to so many members every subset is looked at."""

SHOWN = 64
"""At most so many subsets of the front are kept."""

TRADE_OFFS = ((0.0, 0.0), (0.1, 0.0), (1.0, 0.0), (0.0, 0.1), (0.1, 0.1))
"""What a subset's cost and its diversity count for on a path, next to its loss in units of the median member's."""

NUMBERS = 1 << 20
"""So many numbers of subsets' means are made at a time."""

Limit = Annotated[float, Field(gt=0)] | None


def pruned(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    max_latency: Limit = None,
    max_memory: Limit = None,
    most: Annotated[int, Field(ge=1)] | None = None,
) -> Combiner:
    """The even mixture of a subset of the members (ensemble selection: Caruana et al. 2004; a survey of pruning: Tsoumakas,
    Partalas and Vlahavas 2009), chosen from a Pareto front (as Qian, Yu and Zhou 2015 do of error and size), for every kind.

    A subset is judged by four objectives: the mean row loss of its members' mean, their diversity (:func:`distances`, the mean
    over pairs), and the sums of their latencies and of their memory. Subsets within the ceilings that none of the others
    dominates may be chosen; among those whose loss is within one standard error of the lowest (of the rows' paired differences)
    the cheapest is: the lowest sum of latency and memory, each as a share of all members'. Of equally cheap ones the more
    diverse, and then the one of lower loss.

    Up to ``ALL`` members every subset is looked at. Of more: all pairs, and all that three paths try under each of
    ``TRADE_OFFS``: forward selection from nothing and from the best pair, and backward elimination; steps within the ceilings
    come before others. Single members and the full set are among them.

    The front that is kept is that of all looked at, beyond the ceilings too, so that one can see what a ceiling costs; see
    :func:`~fuseline.fusion.pareto.thinned` for which ``SHOWN`` of its subsets. The losses shown are those on the rows that the
    choice was made on, and so a little too good.

    Args:
        max_latency: microseconds per row, in all.
        max_memory: megabytes (10⁶ bytes), in all.
        most: members.

    Raises:
        RecipeError: no subset is within the ceilings.
    """
    bench = Bench.of(outputs, target)
    ceilings = Ceilings(max_latency, max_memory, most)
    masks, objectives = _looked_at(bench, ceilings)
    points = objectives * [1, -1, 1, 1]
    possible = np.flatnonzero(ceilings.hold(masks, objectives))
    if not len(possible):
        raise RecipeError(_nothing(ceilings, objectives[np.argmin(bench.shares(objectives))]))
    chosen = _choice(bench, masks, objectives, possible[non_dominated(points[possible])])
    shown = np.flatnonzero(non_dominated(points))
    shown = shown if chosen in shown else np.append(shown, chosen)  # a larger and cheaper subset may beat it, beyond ``most``
    shown = shown[thinned(points[shown], SHOWN, int(np.flatnonzero(shown == chosen)[0]))]
    return Pruned(
        {
            "weights": torch.from_numpy(masks[chosen] / masks[chosen].sum()),
            "front": torch.from_numpy(masks[shown]),
            "objectives": torch.from_numpy(objectives[shown]),
        }
    )


class Ceilings(NamedTuple):
    """What a subset may cost at most; see :func:`pruned`."""

    max_latency: float | None = None
    max_memory: float | None = None
    most: int | None = None

    def hold(self, masks: Masks, objectives: Floats) -> NDArray[np.bool_]:
        """Which subsets are within all of them (S,)."""
        costs = (objectives[:, 2], objectives[:, 3], masks.sum(1).astype(np.float64))
        pairs = [(cost, limit) for cost, limit in zip(costs, self, strict=True) if limit is not None]
        within = np.ones(len(masks), bool)
        for cost, limit in pairs:
            within &= cost <= rounded(np.array(limit))
        return within

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self._asdict().items() if value is not None)


class Bench(NamedTuple):
    """What subsets are judged on.

    Attributes:
        values: what the members say (M, B, C); of classes the probability of the true one alone, from which the log loss follows.
        target: as :func:`~fuseline.fusion.scores.row_losses` takes it with these values.
        apart: the members' diversity by pairs (M, M).
        costs: their microseconds per row and megabytes (M, 2).
    """

    values: Tensor
    target: Tensor
    task: TargetSchema
    apart: Floats
    costs: Floats

    @classmethod
    def of(cls, outputs: Outputs, target: Tensor) -> Bench:
        assert outputs.costs is not None
        values, left = outputs.values, target
        if outputs.exclusive:
            values = values.gather(2, target.long()[None, :, None].expand(len(values), -1, 1))
            left = torch.zeros_like(target)
        task = outputs.task or TargetSchema(kind=outputs.kind)
        return cls(values, left, task, distances(outputs, target), outputs.costs.numpy() / [1, 1e6])

    def losses(self, masks: Masks) -> Iterator[Tensor]:
        """The row losses (S, B) of subsets' means, some subsets at a time."""
        members, rows, width = self.values.shape
        shares = torch.from_numpy(masks / masks.sum(1, keepdims=True))
        for some in torch.split(shares, max(1, NUMBERS // (rows * width))):
            means = (some @ self.values.reshape(members, -1)).reshape(-1, width)
            again = self.target.repeat(len(some), *[1] * (self.target.ndim - 1))
            yield row_losses(Fused(means, None, self.task), again).reshape(len(some), rows)

    def objectives(self, masks: Masks) -> Floats:
        """Loss, diversity, latency and memory (S, 4), rounded, so that equal ones are told as equal."""
        loss = torch.cat([losses.mean(1) for losses in self.losses(masks)]).numpy()
        inside, count = masks.astype(np.float64), masks.sum(1)
        diversity = ((inside @ self.apart) * inside).sum(1) / np.maximum(count * (count - 1), 1)
        return rounded(np.column_stack([loss, diversity, inside @ self.costs]))

    def shares(self, objectives: Floats) -> Floats:
        """Latency and memory as shares of all members', together (S,)."""
        whole = self.costs.sum(0)
        return rounded((objectives[:, 2:] / np.where(whole > 0, whole, 1)).sum(1))


def distances(outputs: Outputs, target: Tensor) -> Floats:
    """How differently two members decide (M, M): the share of the rows, or known labels, where they name different ones; of
    values and quantiles the mean squared difference in units of the target's variance.

    >>> values = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.8, 0.2], [0.6, 0.4]]]).double()
    >>> distances(Outputs(values), torch.tensor([0, 1])).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    if outputs.exclusive:
        said = outputs.values.argmax(2)
    elif outputs.kind == "multilabel":
        said = (outputs.values > 0.5)[:, ~target.isnan()]
    else:
        said = outputs.values.flatten(1) / (float(target.std(correction=0)) or 1.0)
        return np.array([((said - own) ** 2).mean(1).tolist() for own in said])
    return np.array([(said != own).double().mean(1).tolist() for own in said])


def _looked_at(bench: Bench, ceilings: Ceilings) -> tuple[Masks, Floats]:
    """The subsets and their objectives."""
    members = len(bench.values)
    if members <= ALL:
        masks = all_subsets(members)
        return masks, bench.objectives(masks)
    return searched(bench, ceilings)


def searched(bench: Bench, ceilings: Ceilings) -> tuple[Masks, Floats]:
    """The subsets that the paths of :func:`pruned` try, each once, and their objectives."""
    members = len(bench.values)
    found: dict[bytes, Floats] = {}

    def objectives(masks: Masks) -> Floats:
        new = masks[[mask.tobytes() not in found for mask in masks]]
        if len(new):
            found.update(zip((mask.tobytes() for mask in new), bench.objectives(new), strict=True))
        return np.array([found[mask.tobytes()] for mask in masks])

    unit = float(np.median(objectives(np.eye(members, dtype=bool))[:, 0])) or 1.0
    pairs = all_pairs(members)
    for on_cost, on_diversity in TRADE_OFFS:

        def ranks(masks: Masks, on_cost: float = on_cost, on_diversity: float = on_diversity) -> NDArray[np.integer]:
            o = objectives(masks)
            worth = o[:, 0] / unit + on_cost * bench.shares(o) - on_diversity * o[:, 1]
            return np.lexsort((worth, ~ceilings.hold(masks, o)))

        walk(np.zeros(members, bool), True, ranks)
        walk(pairs[ranks(pairs)[0]], True, ranks)
        walk(np.ones(members, bool), False, ranks)
    return np.array([np.frombuffer(mask, bool) for mask in found]), np.array(list(found.values()))


def _choice(bench: Bench, masks: Masks, objectives: Floats, possible: NDArray[np.int64]) -> int:
    """The cheapest of the ``possible`` subsets within one standard error of the best of them."""
    loss = objectives[:, 0]
    best = possible[np.argmin(loss[possible])]
    order = possible[np.lexsort((loss[possible], -objectives[possible, 1], bench.shares(objectives[possible])))]
    lowest = next(bench.losses(masks[[best]]))
    tried = 0
    for losses in bench.losses(masks[order]):
        near = np.flatnonzero(_within_one_error(losses - lowest, 1e-12 * abs(float(loss[best]))))
        if len(near):
            return int(order[tried + near[0]])
        tried += len(losses)
    return int(best)


def _within_one_error(gaps: Tensor, tolerance: float) -> NDArray[np.bool_]:
    """Whether the mean of the rows' differences (S, B) is within its standard error (Breiman et al. 1984, section 3.4.3)."""
    rows = gaps.shape[1]
    error = gaps.std(1, correction=1) / math.sqrt(rows) if rows > 1 else torch.zeros(len(gaps))
    return np.asarray((gaps.mean(1) <= error + tolerance).numpy())


def _nothing(ceilings: Ceilings, cheapest: Floats) -> str:
    return (
        f"fusion: the rule 'pruned' finds no ensemble within {ceilings}: the cheapest, one member alone, takes "
        f"{cheapest[2]:.4g} microseconds per row and {cheapest[3]:.4g} megabytes; raise the ceilings or train smaller members."
    )
