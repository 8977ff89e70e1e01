"""What networks learn from: their rows on the device, prepared once where that is possible, and their goals.

Shapes: K networks, n rows of each (the most of any; fewer are filled up with rows of weight 0), B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.data.dataset import Dataset
from fuseline.devices import free_bytes
from fuseline.models.network import Network
from fuseline.models.preprocessing import Batch
from fuseline.partition import Rows
from fuseline.training.feed import Feed, feed
from fuseline.training.mixing import Mixed
from fuseline.training.objective import Goal, goal

RESIDENT = 1 << 30
"""Inputs of up to so many bytes are brought to the device, of a GPU a quarter of what it has; rows of larger ones are read as
they are needed."""

PREPARED = 1 << 28
"""Inputs that take up to so many bytes once preprocessed are preprocessed once, if no augmentation comes before that."""

Change = Callable[[int, Batch], Mixed | None]
"""Augments in place what network k sees of a batch, and says how that mixed it."""


class Inputs:
    """The inputs of the rows that some networks learn from or are watched on."""

    def __init__(self, dataset: Dataset, rows: Sequence[Rows], device: torch.device) -> None:
        self.arrays = dataset.inputs
        is_used = np.zeros(len(next(iter(dataset.inputs.values()))), bool)
        is_used[np.concatenate(rows)] = True
        used = np.flatnonzero(is_used)
        size = sum(array[:1].nbytes for array in dataset.inputs.values()) * len(used)
        resident = RESIDENT if device.type == "cpu" else free_bytes(device) // 4
        self.used = used if size <= resident else None
        self.stands: NDArray[np.int64] = np.cumsum(is_used) - 1
        some = dataset.inputs if self.used is None else {name: array[used] for name, array in dataset.inputs.items()}
        self.feed: Feed = feed(some, device, resident)
        self.ready: list[Batch] | None = None

    def sample(self, rows: Rows) -> Batch:
        """Some rows of the data on the CPU, as networks are fitted to them: all, or as many at random as may be resident."""
        most = max(1, RESIDENT // max(1, sum(array[:1].nbytes for array in self.arrays.values())))
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
        return {name: torch.from_numpy(np.ascontiguousarray(array[rows])) for name, array in self.arrays.items()}

    def keep(self, going: Sequence[int]) -> None:
        """Some of the networks alone go on."""
        if self.ready is not None and len(self.ready) > 1:
            self.ready = [self.ready[k] for k in going]

    def places(self, rows: Rows) -> Tensor:
        """Where some rows of the data stand here."""
        return torch.from_numpy(rows if self.used is None else self.stands[rows])

    @torch.no_grad()
    def prepare(self, networks: Sequence[Network]) -> None:
        """Preprocess all rows once, if they fit: for all networks at once where they do it alike."""
        if self.used is None:
            return
        alike = all(_same(network, networks[0]) for network in networks)
        first = networks[0].preprocessing(self.feed.take(torch.arange(2) % len(self.used)))
        size = sum(x.numel() * x.element_size() // 2 for x in first.values()) * len(self.used) * (1 if alike else len(networks))
        if size <= PREPARED:
            whole = self.feed.take(torch.arange(len(self.used)))
            self.ready = [network.preprocessing(whole) for network in (networks[:1] if alike else networks)]

    def batches(
        self, places: Iterable[Tensor], networks: Sequence[Network], change: Change | None = None
    ) -> Iterator[tuple[Batch, list[Mixed | None]]]:
        """Preprocessed inputs (K, B, …) at places (K, B), after ``change`` of what network k sees, and how that mixed them."""
        if self.ready is not None and change is None:
            for some in places:
                yield self._prepared(some), []
            return
        for raw in self.feed.stream(places):
            mixed: list[Mixed | None] = []
            parts: list[Batch] = []
            for k, network in enumerate(networks):
                own = {name: x[k] for name, x in raw.items()}
                mixed.append(change(k, own) if change is not None else None)
                with torch.no_grad():
                    parts.append(network.preprocessing(own))
            yield {name: _stacked([part[name] for part in parts]) for name in parts[0]}, mixed

    def _prepared(self, places: Tensor) -> Batch:
        assert self.ready is not None
        if len(self.ready) == 1:
            return {name: _take(x, places) for name, x in self.ready[0].items()}
        parts = [[_take(x, some) for x in ready.values()] for ready, some in zip(self.ready, places, strict=True)]
        return {name: torch.stack([part[i] for part in parts]) for i, name in enumerate(self.ready[0])}

    def raw(self, places: Tensor, size: int) -> Iterator[Batch]:
        """Raw inputs at places (n,), so many rows at a time."""
        return self.feed.stream(torch.split(places, size))


class Material:
    """Rows in the order of each network's own list: where their inputs stand, and their goals, with one row of weight 0 more."""

    def __init__(self, inputs: Inputs, rows: Sequence[Rows], goals: Sequence[Mapping[str, Goal]]) -> None:
        self.counts = [len(its) for its in rows]
        most = max(self.counts)
        self.places = torch.stack([_filled(inputs.places(its), most + 1) for its in rows])
        self.goals = {
            name: Goal(
                torch.stack([_filled(its[name].value, most + 1) for its in goals]),
                torch.stack([_filled(its[name].weight, most + 1, 0) for its in goals]),
                None if goals[0][name].boost is None else torch.stack([_filled(_boost(its[name]), most + 1) for its in goals]),
            )
            for name in goals[0]
        }

    def keep(self, index: Tensor) -> None:
        self.counts = [self.counts[i] for i in index.tolist()]
        self.places = self.places[index]
        self.goals = {name: its.rows(index) for name, its in self.goals.items()}

    def at(self, order: Tensor) -> tuple[Tensor, dict[str, Goal]]:
        """Places and goals in an order (K, n)."""
        each = torch.arange(len(order))[:, None]
        device = next(iter(self.goals.values())).weight.device
        there = (each.to(device), order.to(device))
        return self.places.gather(1, order), {name: its.rows(there) for name, its in self.goals.items()}


def goals(
    dataset: Dataset,
    network: Network,
    rows: Rows,
    class_weights: Mapping[str, Tensor],
    boosts: Mapping[str, NDArray[np.float64]],
    device: torch.device,
) -> dict[str, Goal]:
    """A network's goals for some rows."""
    found = {}
    for name in dataset.schema.targets:
        target = torch.from_numpy(np.ascontiguousarray(dataset.targets[name][rows])).to(device)
        boost = torch.from_numpy(np.asarray(boosts[name], np.float32)).to(device) if name in boosts else None
        found[name] = goal(network.head(name), target, class_weights.get(name), boost)
    return found


def epoch_order(counts: Sequence[int], parts: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, list[int]]:
    """Each network's own random order (K, ·) of its rows, and how long its ``parts`` batches are. Where one has fewer rows than
    another its batches are filled up with the row after the last, which weighs nothing."""
    orders = [torch.randperm(n, generator=generator) for n, generator in zip(counts, generators, strict=True)]
    if len(set(counts)) == 1:
        return torch.stack(orders), [counts[0] // parts + (i < counts[0] % parts) for i in range(parts)]
    longest = -(-max(counts) // parts)
    filled = [torch.cat([_filled(part, longest, max(counts)) for part in order.tensor_split(parts)]) for order in orders]
    return torch.stack(filled), [longest] * parts


def _filled(x: Tensor, size: int, value: float | None = None) -> Tensor:
    """As long as ``size``, by a value or, without one, by the first entry again."""
    if len(x) == size:
        return x
    end = x[:1] if value is None and len(x) else x.new_full((1, *x.shape[1:]), value or 0)
    return torch.cat([x, end.expand(size - len(x), *x.shape[1:])])


def _boost(its: Goal) -> Tensor:
    assert its.boost is not None
    return its.boost


def _take(x: Tensor, places: Tensor) -> Tensor:
    """``x[places]``, which for whole rows is several times slower than this."""
    return x.index_select(0, places.flatten().to(x.device)).view(*places.shape, *x.shape[1:])


def _stacked(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _same(one: Network, other: Network) -> bool:
    mine, theirs = one.preprocessing.state_dict(), other.preprocessing.state_dict()
    return one is other or all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
