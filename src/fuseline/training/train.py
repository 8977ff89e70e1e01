"""Train one replica of a member: a network on its own rows, by its own seed.

Data stay resident as tensors and batches are taken by index; the loss is read once an epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.component import Component, Part
from fuseline.data.dataset import Dataset
from fuseline.errors import TrainingError
from fuseline.models.heads import LOSSES
from fuseline.models.network import Network, NetworkSpec, Said, batches
from fuseline.models.preprocessing import Batch
from fuseline.partition import Rows, Share
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.optimizers import OPTIMIZERS, SCHEDULES, scheduler

EVALUATION_BATCH = 2048


class TrainSpec(Part):
    """How a network is trained: leaf values, every default filled in."""

    network: NetworkSpec
    losses: dict[str, Component]
    weights: dict[str, float]
    epochs: int
    batch_size: int
    optimizer: Component
    schedule: Component
    augment: list[Component]
    patience: int | None
    device: str
    threads: int


@dataclass(frozen=True)
class Epoch:
    """One line of a learning curve; ``holdout`` is the loss on the held-out rows, where there are any."""

    epoch: int
    loss: float
    holdout: float | None
    rate: float
    at: int
    """When the epoch ended, in milliseconds since 1970."""


@dataclass
class Trained:
    """A trained network in evaluation mode, its learning curve, and the epoch whose weights were kept."""

    network: Network
    curve: list[Epoch] = field(default_factory=list)
    best: int = 0

    def record(self) -> dict[str, Any]:
        return {"curve": [asdict(epoch) for epoch in self.curve], "best": self.best}


def train(dataset: Dataset, spec: TrainSpec, share: Share, seed: int, report: Callable[[Epoch], None] | None = None) -> Trained:
    """Train a network on ``share.train`` and keep the epoch that did best on ``share.holdout``.

    The random streams of initialisation, order, augmentation and dropout all follow from ``seed``; the process's global
    generator is as before afterwards.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    device = torch.device(spec.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _Trainer(dataset, spec, share, seed, device).run(report or _silent)


def _silent(epoch: Epoch) -> None:
    """Nobody listens."""


class _Trainer:
    def __init__(self, dataset: Dataset, spec: TrainSpec, share: Share, seed: int, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs, self.targets = load(dataset, share.train, device)
        self.held_inputs, self.held_targets = load(dataset, share.holdout, device)
        network = Network(dataset.schema, spec.network)
        network.preprocessing.fit({name: x.cpu() for name, x in self.inputs.items()})
        for name, values in self.targets.items():
            network.head(name).fit(values.cpu())
        self.network = network.to(device)
        self.optimizer = OPTIMIZERS[spec.optimizer.name](network.parameters(), **spec.optimizer.settings)
        self.count = len(share.train)
        self.parts = max(1, self.count // spec.batch_size)  # no batch is smaller than asked for: batch norm needs two rows
        factor, settings = SCHEDULES[spec.schedule.name], spec.schedule.settings
        self.schedule = scheduler(self.optimizer, factor, spec.epochs * self.parts, **settings)

    def run(self, report: Callable[[Epoch], None]) -> Trained:
        trained, best, state = Trained(self.network), float("inf"), None
        for number in range(1, self.spec.epochs + 1):
            loss = self._epoch()
            holdout = self._holdout()
            if not np.isfinite(loss) or not np.isfinite(holdout or 0.0):
                raise TrainingError(f"the loss is not finite in epoch {number} (of {self.spec.epochs}); lower the learning rate.")
            rate = float(self.optimizer.param_groups[0]["lr"])
            trained.curve.append(Epoch(number, loss, holdout, rate, time.time_ns() // 1_000_000))
            report(trained.curve[-1])
            if holdout is None:
                trained.best = number
            elif holdout < best:
                best, trained.best = holdout, number
                state = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            elif self.spec.patience is not None and number - trained.best >= self.spec.patience:
                break
        if state is not None:
            self.network.load_state_dict(state)
        self.network.eval()
        self._fit_residuals()
        return trained

    def _epoch(self) -> float:
        self.network.train()
        total = torch.zeros((), device=self.device)
        order = torch.randperm(self.count, generator=self.generator)
        for rows in order.tensor_split(self.parts):
            batch = {name: x[rows] for name, x in self.inputs.items()}
            if "image" in batch:
                for augment in self.spec.augment:
                    batch["image"] = AUGMENTATIONS[augment.name](batch["image"], self.generator, **augment.settings)
            loss = self._loss(batch, {name: y[rows] for name, y in self.targets.items()})
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach() * len(rows)
        return float(total) / self.count

    def _loss(self, batch: Batch, targets: Batch) -> Tensor:
        _, raw = self.network(batch)
        losses = []
        for name, component in self.spec.losses.items():
            head = self.network.head(name)
            function = LOSSES[head.kind][component.name]
            losses.append(self.spec.weights[name] * function(raw[name], head.standardise(targets[name]), **component.settings))
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _holdout(self) -> float | None:
        """The loss over all held-out rows, not the mean over batches."""
        if self.spec.patience is None or not self.held_targets:
            return None
        self.network.eval()
        count, total = 0, 0.0
        both = batches({**self.held_inputs, **{f"\0{name}": y for name, y in self.held_targets.items()}}, EVALUATION_BATCH)
        for part in both:
            targets = {name: part.pop(f"\0{name}") for name in self.held_targets}
            rows = len(next(iter(targets.values())))
            total += float(self._loss(part, targets)) * rows
            count += rows
        return total / count if count else None

    @torch.no_grad()
    def _fit_residuals(self) -> None:
        """Losses that learn no variance get one from held-out residuals, or from the training rows where none are held out."""
        held = len(next(iter(self.held_targets.values())))
        inputs, targets = (self.held_inputs, self.held_targets) if held > 1 else (self.inputs, self.targets)
        for name, component in self.spec.losses.items():
            head = self.network.head(name)
            if component.name == "squared_error":
                raw = torch.cat([self.network(batch)[1][name] for batch in batches(inputs, EVALUATION_BATCH)])
                error = raw[:, 0].double() - head.standardise(targets[name]).double()
                head.residual.fill_(max(float((error**2).mean()), 1e-12))


def load(dataset: Dataset, rows: Rows, device: torch.device) -> tuple[Batch, Batch]:
    """Inputs and targets of some rows, as tensors on a device."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[rows])).to(device)

    return {n: tensor(a) for n, a in dataset.inputs.items()}, {n: tensor(a) for n, a in dataset.targets.items()}


@torch.inference_mode()
def say_all(network: torch.nn.Module, dataset: Dataset, device: torch.device, size: int = EVALUATION_BATCH) -> Said:
    """What a network says of every row of the data, on the CPU."""
    said = []
    for start in range(0, len(dataset), size):
        inputs, _ = load(dataset, np.arange(start, min(start + size, len(dataset))), device)
        said.append(network.say(inputs))  # type: ignore[operator]
    return Said(
        {name: torch.cat([s.values[name] for s in said]).cpu() for name in said[0].values},
        {name: torch.cat([s.variances[name] for s in said]).cpu() for name in said[0].variances},
        torch.cat([s.features for s in said]).cpu(),
    )
