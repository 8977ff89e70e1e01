"""Train one replica of a member: a network on its own rows, by its own seed.

Data stay resident as tensors and batches are taken by index; the loss is read once an epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.component import Component, Part
from fuseline.data.dataset import Dataset
from fuseline.data.schema import Schema
from fuseline.errors import TrainingError
from fuseline.models.losses import LEARNS_VARIANCE, class_weights
from fuseline.models.network import Branch, Network, NetworkSpec, Said, batches
from fuseline.models.preprocessing import Batch
from fuseline.partition import Rows, Share, expert_target, masks
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.averaging import AVERAGES
from fuseline.training.groups import freeze, groups, rest_frozen
from fuseline.training.mixing import MIXINGS, Mixed
from fuseline.training.objective import Objective
from fuseline.training.optimizers import OPTIMIZERS, outer_apart
from fuseline.training.schedules import SCHEDULES, scheduler
from fuseline.training.trained import TrainedFile, load_trained

EVALUATION_BATCH = 2048
"""So many rows are said at once, or fewer of larger pictures: of 1,024 pixels an Inception needs 6 MB in the middle."""

PIXELS = 1 << 18


def rows_at_once(schema: Schema) -> int:
    """How many rows are said at once.

    >>> rows_at_once(Schema(image=(3, 224, 224), targets={}))
    5
    """
    if schema.image is None:
        return EVALUATION_BATCH
    return max(1, min(EVALUATION_BATCH, PIXELS // (schema.image[1] * schema.image[2])))


class TrainSpec(Part):
    """How a network is trained: leaf values, every default filled in."""

    network: NetworkSpec
    losses: dict[str, Component]
    weights: dict[str, float]
    class_weights: dict[str, Component] = {}
    epochs: int
    batch_size: int
    optimizer: Component
    schedule: Component
    augment: list[Component]
    average: Component | None = None
    freeze: list[str] = []
    rates: dict[str, float] = {}
    trained: TrainedFile | None = None
    files: dict[str, str] = {}
    """The sha256 of each file that the settings name: a file of other weights makes another replica."""

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


class Start(NamedTuple):
    """What a replica takes over from those that were trained before it: a network's state to start from, and per target the
    weights of its training rows (n,)."""

    state: dict[str, Tensor] | None = None
    rows: Mapping[str, NDArray[np.float64]] = {}


def train(
    dataset: Dataset,
    spec: TrainSpec,
    share: Share,
    seed: int,
    report: Callable[[Epoch], None] | None = None,
    start: Start = Start(),  # noqa: B008 (it is immutable)
) -> Trained:
    """Train a network on ``share.train`` and keep the epoch that did best on ``share.holdout``.

    The random streams of initialisation, order, augmentation and dropout all follow from ``seed``; the process's global
    generator is as before afterwards.

    Raises:
        TrainingError: the loss is no longer finite, or a file of weights does not fit.
    """
    device = torch.device(spec.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _Trainer(dataset, spec, share, seed, device, start).run(report or _silent)


def _silent(epoch: Epoch) -> None:
    """Nobody listens."""


class _Trainer:
    def __init__(self, dataset: Dataset, spec: TrainSpec, share: Share, seed: int, device: torch.device, start: Start) -> None:
        self.spec, self.device = spec, device
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs, self.targets = load(dataset, share.train, device)
        self.held_inputs, self.held_targets = load(dataset, share.holdout, device)
        self.count, self.size = len(share.train), rows_at_once(dataset.schema)
        network = build(dataset, spec, share, self.inputs, self.targets, self.generator)
        if start.state is not None:
            seen = {name: mask for name, mask in network.state_dict().items() if name.startswith("preprocessing.sees_")}
            network.load_state_dict(start.state | seen)  # what the share says it sees, whatever its predecessor saw
        self.network = network.to(device)
        self.rows = {name: torch.from_numpy(np.asarray(w, np.float32)).to(device) for name, w in start.rows.items()}
        if (target := expert_target(dataset.schema)) is not None:
            self.network.head(target).know(torch.from_numpy(np.asarray(share.own)))
        self.objective = self._objective(dataset, share)
        self.average = None if spec.average is None else AVERAGES[spec.average.name](**spec.average.settings)
        freeze(self.network, spec.freeze)
        parameters = groups(self.network, spec.rates, spec.optimizer.settings["lr"])
        self.optimizer = OPTIMIZERS[spec.optimizer.name](
            outer_apart(parameters, self.network, self.network.heads) if spec.optimizer.name == "muon" else parameters,
            **spec.optimizer.settings,
        )
        self.parts = max(1, self.count // spec.batch_size)  # no batch is smaller than asked for: batch norm needs two rows
        factor, settings = SCHEDULES[spec.schedule.name], spec.schedule.settings
        self.schedule = scheduler(self.optimizer, factor, spec.epochs * self.parts, **settings)

    def _objective(self, dataset: Dataset, share: Share) -> Objective:
        tasks = dataset.schema.targets
        weights = {
            name: class_weights(self.targets[name].cpu(), tasks[name], rule.name, rule.settings).to(self.device)
            for name, rule in self.spec.class_weights.items()
        }
        own = torch.from_numpy(np.asarray(share.own)).to(self.device)
        return Objective(self.network, dataset.schema, self.spec.losses, self.spec.weights, weights, own)

    def run(self, report: Callable[[Epoch], None]) -> Trained:
        trained, best, state = Trained(self.network), float("inf"), None
        kept = self.network
        for number in range(1, 1 + (0 if self.spec.trained else self.spec.epochs)):
            loss = self._epoch()
            if self.average is not None:
                self.average.after_epoch(self.network, number / self.spec.epochs)
                if self._looks or number == self.spec.epochs:  # a pass over all rows, where batch norm is measured anew
                    kept = cast(Network, self.average.module(self._batches()) or self.network)
            holdout = self._holdout(kept)
            if not np.isfinite(loss) or not np.isfinite(holdout or 0.0):
                raise TrainingError(f"the loss is not finite in epoch {number} (of {self.spec.epochs}); lower the learning rate.")
            rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
            trained.curve.append(Epoch(number, loss, holdout, rate, time.time_ns() // 1_000_000))
            report(trained.curve[-1])
            if holdout is None:
                trained.best = number
            elif holdout < best:
                best, trained.best = holdout, number
                state = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
            elif self._is_out_of_patience(number - trained.best, kept):
                break
        if state is not None or kept is not self.network:
            self.network.load_state_dict(kept.state_dict() if state is None else state)
        self.network.eval()
        self._fit_residuals()
        return trained

    def _is_out_of_patience(self, epochs: int, kept: Network) -> bool:
        """Whether so many epochs without progress are enough; never before an average has begun that was asked for."""
        begun = self.average is None or kept is not self.network
        return self.spec.patience is not None and epochs >= self.spec.patience and begun

    def _epoch(self) -> float:
        self.network.train()
        rest_frozen(self.network)
        total = torch.zeros((), device=self.device)
        order = torch.randperm(self.count, generator=self.generator)
        for rows in order.tensor_split(self.parts):
            batch = {name: x[rows] for name, x in self.inputs.items()}
            mixed = self._augment(batch) if "image" in batch else None
            targets = {name: y[rows] for name, y in self.targets.items()}
            weights = {name: w[rows] for name, w in self.rows.items()}
            loss = self.objective(self.network.branches(batch), targets, weights, mixed)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None:
                self.average.after_step(self.network)
            total += loss.detach() * len(rows)
        return float(total) / self.count

    def _augment(self, batch: Batch) -> Mixed | None:
        """Change a batch's pictures in place; the last mixing, if there is one, says whose targets count."""
        mixed = None
        for augment in self.spec.augment:
            if augment.name in MIXINGS:
                mixed = MIXINGS[augment.name](batch["image"], self.generator, **augment.settings)
                batch["image"] = mixed.images
            else:
                batch["image"] = AUGMENTATIONS[augment.name](batch["image"], self.generator, **augment.settings)
        return mixed

    def _batches(self) -> Iterator[Batch]:
        for rows in torch.arange(self.count).tensor_split(self.parts):
            yield {name: x[rows] for name, x in self.inputs.items()}

    @property
    def _looks(self) -> bool:
        """Whether held-out rows are looked at after each epoch."""
        return self.spec.patience is not None and len(next(iter(self.held_targets.values()))) > 0

    @torch.no_grad()
    def _holdout(self, network: Network) -> float | None:
        """The loss over all held-out rows, not the mean over batches."""
        if not self._looks:
            return None
        network.eval()
        raw = _raw(network, self.held_inputs, self.size)
        return float(self.objective([Branch(1.0, raw)], self.held_targets))

    @torch.no_grad()
    def _fit_residuals(self) -> None:
        """Losses that learn no variance get one from held-out residuals, or from the training rows where none are held out."""
        for name, component in self.spec.losses.items():
            head = self.network.head(name)
            held = int((~self.held_targets[name].isnan()).sum())
            inputs, targets = (self.held_inputs, self.held_targets) if held > 1 else (self.inputs, self.targets)
            if head.task.kind == "regression" and component.name not in LEARNS_VARIANCE and self.spec.trained is None:
                said = _raw(self.network, inputs, self.size)[name][..., 0].double()
                said = said.reshape(len(said), -1)  # (n, K); the copies' own spread comes on top when they predict
                error = said.mean(1) - head.standardise(targets[name]).double()
                head.residual.fill_(max(float((error**2 - said.var(1, correction=0)).nanmean()), 1e-12))


def build(
    dataset: Dataset, spec: TrainSpec, share: Share, inputs: Batch, targets: Mapping[str, Tensor], generator: torch.Generator
) -> Network:
    """A network that has taken from the training rows, and from files of weights, what it needs before it learns.

    Raises:
        TrainingError: names the file that does not fit, or the target that no training row has.
    """
    for name, task in dataset.schema.targets.items():
        if not task.known(targets[name].cpu().numpy()).any():
            raise TrainingError(f"none of its training rows has the target {name!r}")
    network = Network(dataset.schema, spec.network)
    masks_ = {name: torch.from_numpy(mask) for name, mask in masks(dataset.schema, share.view).items()}
    network.preprocessing.see(masks_)
    cpu = {name: x.cpu() for name, x in inputs.items()}
    network.fit(cpu, {name: y.cpu() for name, y in targets.items()}, generator)
    if spec.trained is not None:
        load_trained(network, spec.trained, 255.0 if dataset.schema.image_dtype == "uint8" else 1.0)
    return network


def _raw(network: Network, inputs: Batch, size: int) -> dict[str, Tensor]:
    """What the heads say of all rows, in large batches."""
    parts = [network(batch)[1] for batch in batches(inputs, size)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def load(dataset: Dataset, rows: Rows, device: torch.device) -> tuple[Batch, Batch]:
    """Inputs and targets of some rows, as tensors on a device."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[rows])).to(device)

    return {n: tensor(a) for n, a in dataset.inputs.items()}, {n: tensor(a) for n, a in dataset.targets.items()}


@torch.inference_mode()
def say_all(network: torch.nn.Module, dataset: Dataset, device: torch.device) -> Said:
    """What a network on a device says of every row of the data, brought to the CPU."""
    said, size = [], rows_at_once(dataset.schema)
    for start in range(0, len(dataset), size):
        inputs, _ = load(dataset, np.arange(start, min(start + size, len(dataset))), device)
        said.append(network.say(inputs))  # type: ignore[operator]
    return Said(
        {name: torch.cat([s.values[name] for s in said]).cpu() for name in said[0].values},
        {name: torch.cat([s.variances[name] for s in said]).cpu() for name in said[0].variances},
        torch.cat([s.features for s in said]).cpu(),
    )
