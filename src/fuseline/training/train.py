"""Train a network on its own rows, by its own seed; or several of one shape together, as one stacked program.

Batches are taken by index from what lies on the device; the losses are read at the end of an epoch, before a checkpoint, and once
a minute. What a training has come to can be kept in checkpoints, from which it goes on as if it had never stopped. Shapes: K
networks, B rows of a batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fuseline.component import Component, Part
from fuseline.data.dataset import Dataset
from fuseline.data.schema import Schema
from fuseline.devices import generator_now, global_states, reseed, seeded, send, set_global_states
from fuseline.errors import NotFiniteError, TrainingError, first_line
from fuseline.models.losses import LEARNS_VARIANCE, class_weights
from fuseline.models.network import Branch, Network, NetworkSpec, Said, blank
from fuseline.models.preprocessing import Batch
from fuseline.models.stack import known, mappable
from fuseline.partition import Rows, Share, expert_target, masks
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.averaging import AVERAGES
from fuseline.training.checkpoint import Keeper, Stopped, never, put, tensors
from fuseline.training.groups import freeze, groups, rest_frozen
from fuseline.training.halves import halves
from fuseline.training.material import Inputs, Material, epoch_order, goals
from fuseline.training.messages import Epoch
from fuseline.training.mixing import MIXINGS, Mixed, mixed_together
from fuseline.training.objective import Goal, Objective
from fuseline.training.optimizers import OPTIMIZERS, outer_apart
from fuseline.training.pace import Pace
from fuseline.training.program import Alone, Program, Together
from fuseline.training.schedules import SCHEDULES, Schedule
from fuseline.training.trained import TrainedFile, load_trained

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 2048
"""So many rows are said at once, or fewer of larger pictures: of 1,024 pixels an Inception needs 6 MB in the middle."""

PIXELS = 1 << 18

LOOK = 60.0
"""Seconds between two looks inside an epoch at whether the losses are finite: reading them waits for an accelerator."""


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
    pace: Pace = Pace()


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
    keeper: Keeper | None = None,
) -> Trained:
    """Train a network on ``share.train`` and keep the epoch that did best on ``share.holdout``.

    The random streams of initialisation, order, augmentation and dropout all follow from ``seed``; the process's global
    generator is as before afterwards.

    Args:
        report: is told of each epoch, but not of those that stand in the checkpoint from which the training goes on.
        keeper: keeps checkpoints. On a CPU a training that was killed at any point and goes on ends bit by bit as one that was
            not.

    Raises:
        TrainingError: the loss is no longer finite, a file of weights does not fit, or the device is out of memory.
        Stopped: the keeper was asked to.
        NoRoomError: there is none for a checkpoint.
    """
    result = _train(dataset, spec, [share], [seed], start, lambda _, epoch: report(epoch) if report else None, keeper)[0]
    if isinstance(result, TrainingError):
        if keeper is not None:
            keeper.drop()  # it would fail again
        raise result
    return result


def train_together(
    dataset: Dataset,
    spec: TrainSpec,
    shares: Sequence[Share],
    seeds: Sequence[int],
    report: Callable[[int, Epoch], None] | None = None,
    keeper: Keeper | None = None,
) -> list[Trained | TrainingError]:
    """Train networks of one shape as one stacked program, each on its own share, by its own seed, until its own early stop.

    Each becomes what :func:`train` would make of it, to rounding; one that fails leaves the others be.

    Args:
        shares: for which what :func:`stacking` gives has one answer.
        report: is told of each network's epochs, by the network's position.
        keeper: as for :func:`train`.

    Raises:
        ValueError: the networks can't be stacked.
        TrainingError: the device is out of memory.
        Stopped, NoRoomError: as for :func:`train`.
    """
    return _train(dataset, spec, shares, seeds, Start(), report or _silent, keeper)


def _silent(position: int, epoch: Epoch) -> None:
    """Nobody listens."""


def _train(
    dataset: Dataset,
    spec: TrainSpec,
    shares: Sequence[Share],
    seeds: Sequence[int],
    start: Start,
    report: Callable[[int, Epoch], None],
    keeper: Keeper | None,
) -> list[Trained | TrainingError]:
    """From the keeper's checkpoint on, or from the first weights."""
    try:
        with seeded(seeds[0], spec.device):
            trainer = Trainer(dataset, spec, shares, seeds, start, keeper)
            if trainer.resumed():
                return trainer.run(report)
    except torch.OutOfMemoryError as error:
        said = ". ".join(first_line(error).split(". ")[:2])  # the others are of torch's settings
        text = f"out of memory on {spec.device!r} ({said}); make 'batch_size' smaller, or train fewer members at a time."
        raise TrainingError(text) from error
    return _train(dataset, spec, shares, seeds, start, report, keeper)  # its half-restored networks are gone


@dataclass
class _Learner:
    """One network on its way."""

    position: int
    share: Share
    generator: torch.Generator
    trained: Trained
    best: float = float("inf")
    state: dict[str, Tensor] | None = None
    """The tensors of its best epoch."""

    failure: TrainingError | None = None

    def saved(self, learns: bool) -> dict[str, Any]:
        """What a checkpoint keeps of it; of one that learns no more, the network that came of it."""
        return {
            "generator": self.generator.get_state(),
            **self.trained.record(),
            "lowest": self.best,
            "state": self.state if learns else tensors(self.trained.network),
            "failure": None if self.failure is None else str(self.failure),
        }

    def restore(self, saved: dict[str, Any], learns: bool) -> None:
        self.generator.set_state(saved["generator"])
        self.trained.curve = [Epoch(**line) for line in saved["curve"]]
        self.trained.best, self.best = saved["best"], saved["lowest"]
        self.failure = None if saved["failure"] is None else NotFiniteError(saved["failure"])
        if learns:
            self.state = saved["state"]
        else:
            put(self.trained.network, saved["state"])


class _Begun(NamedTuple):
    """An epoch of which some steps are done."""

    losses: Tensor
    """Each network's in each of these steps (steps, K)."""

    starts: list[Tensor]
    """The states of the networks' generators before they drew its order."""


class _Sound:
    """Whether any network's losses in the steps of an epoch, one tensor (K,) a step, are all finite so far. Between two looks
    nothing is computed, so that no step waits for a device."""

    def __init__(self, told: list[Tensor]) -> None:
        self._told, self._seen = told, 0
        self._finite: Tensor | None = None
        self._next = time.monotonic() + LOOK

    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    def look(self) -> bool:
        """At the steps since the last look."""
        finite = torch.stack(self._told[self._seen :]).isfinite().all(0)
        self._finite = finite if self._finite is None else self._finite & finite
        self._seen, self._next = len(self._told), time.monotonic() + LOOK
        return bool(self._finite.any())


class Trainer:
    """Networks of one shape on their way from their first weights to their last; the global generators are seeded outside.

    Attributes:
        done: so many epochs are.
        begun: what was done of the next one, if a checkpoint says so.
        halved: whether batches are computed in halves, since a whole one was too much for the device's memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: TrainSpec,
        shares: Sequence[Share],
        seeds: Sequence[int],
        start: Start = Start(),  # noqa: B008 (it is immutable)
        keeper: Keeper | None = None,
    ) -> None:
        self.dataset, self.spec, self.device, self.keeper = dataset, spec, torch.device(spec.device), keeper
        self.done, self.halved = 0, False
        self.begun: _Begun | None = None
        device = self.device
        self.inputs = Inputs(dataset, [rows for share in shares for rows in (share.train, share.holdout)], device)
        self.learners: list[_Learner] = []
        draws = []
        for position, (share, seed) in enumerate(zip(shares, seeds, strict=True)):
            if len(shares) > 1:
                reseed(seed, device)
            generator = torch.Generator().manual_seed(seed)
            network = self._network(share, generator, start, self.learners)
            self.learners.append(_Learner(position, share, generator, Trained(network)))
            draws.append(generator_now(device))
        self.learning = list(self.learners)
        networks = [learner.trained.network for learner in self.learners]
        self.program: Program = Alone(networks[0], spec.pace) if len(networks) == 1 else Together(networks, draws)
        if not spec.augment:
            self.inputs.prepare(networks)
        goals_ = [self._goals(learner, start) for learner in self.learners]
        self.rows = Material(self.inputs, [share.train for share in shares], [train for train, _ in goals_])
        self.held = Material(self.inputs, [share.holdout for share in shares], [held for _, held in goals_])
        heads = {name: networks[0].head(name) for name in dataset.schema.targets}
        own = torch.from_numpy(np.asarray(shares[0].own)).to(device)
        self.objective = Objective(heads, dataset.schema, spec.losses, spec.weights, own)
        self.average = None if spec.average is None else AVERAGES[spec.average.name](**spec.average.settings)
        self.averaged: Program | None = None
        module = self.program.module
        freeze(module, spec.freeze)
        parameters = groups(module, spec.rates, spec.optimizer.settings["lr"])
        self.optimizer = OPTIMIZERS[spec.optimizer.name](
            outer_apart(parameters, module, networks[0].heads) if spec.optimizer.name == "muon" else parameters,
            **spec.optimizer.settings,
        )
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.parts = batches_of(len(shares[0].train), spec.batch_size)
        factor, settings = SCHEDULES[spec.schedule.name], spec.schedule.settings
        self.schedule = Schedule(self.optimizer, factor, spec.epochs * self.parts, **settings)

    def _network(self, share: Share, generator: torch.Generator, start: Start, others: Sequence[_Learner]) -> Network:
        """A network as it begins; what it takes from its rows is taken over from another one of the same rows."""
        like = next((o.trained.network for o in others if _same_sight(o.share, share)), None)
        network = build(self.dataset, self.spec, share, self.inputs, generator, like)
        if start.state is not None:
            seen = {name: mask for name, mask in network.state_dict().items() if name.startswith("preprocessing.sees_")}
            network.load_state_dict(start.state | seen)  # what the share says it sees, whatever its predecessor saw
        if (target := expert_target(self.dataset.schema)) is not None:
            network.head(target).know(torch.from_numpy(np.asarray(share.own)))
        return network.to(self.device)

    def _goals(self, learner: _Learner, start: Start) -> tuple[dict[str, Goal], dict[str, Goal]]:
        """Those of its training rows and of its held-out rows."""
        tasks, share, network = self.dataset.schema.targets, learner.share, learner.trained.network
        weights = {
            name: class_weights(
                torch.from_numpy(np.asarray(self.dataset.targets[name][share.train])), tasks[name], rule.name, rule.settings
            ).to(self.device)
            for name, rule in self.spec.class_weights.items()
        }
        learnt = goals(self.dataset, network, share.train, weights, start.rows, self.device)
        return learnt, goals(self.dataset, network, share.holdout, weights, {}, self.device)

    def run(self, report: Callable[[int, Epoch], None]) -> list[Trained | TrainingError]:
        """Until the last network has stopped; what became of each."""
        if self.learning:
            self._run(report)
        return [learner.failure or self._finished(learner) for learner in self.learners]

    def _run(self, report: Callable[[int, Epoch], None]) -> None:
        epochs = 0 if self.spec.trained else self.spec.epochs
        for number in range(self.done + 1, epochs + 1):
            losses, broke = self.epoch()
            kept = self._kept(number)
            held = self._holdout(kept)
            rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
            now = time.time_ns() // 1_000_000
            going = []
            for k, (learner, loss) in enumerate(zip(self.learning, losses, strict=True)):
                epoch = Epoch(number, loss, None if held is None else held[k], rate, now)
                if self._goes_on(learner, epoch, kept, k, broke[k]):
                    going.append(k)
                if learner.failure is None:
                    report(learner.position, learner.trained.curve[-1])
            self._leave(going, kept)
            self.done, self.begun = number, None
            if not self.learning or number == epochs:
                break
            if self.keeper is not None and self.keeper.is_due_after_epoch():
                self.keeper.save(self.saved())
        self._leave([], self._kept(None))
        if self.keeper is not None and epochs:
            self.keeper.save(self.saved())

    def _goes_on(self, learner: _Learner, epoch: Epoch, kept: Program, k: int, broke: int | None) -> bool:
        """Note a network's epoch, in which its loss was not finite from the step ``broke`` on; whether it learns on."""
        if broke is not None or not np.isfinite(epoch.loss) or not np.isfinite(epoch.holdout or 0.0):
            step = "at its end" if broke is None else f"step {broke}"
            text = f"the loss is not finite in epoch {epoch.epoch} (of {self.spec.epochs}), {step}; lower the learning rate."
            learner.failure = NotFiniteError(text)
            return False
        trained = learner.trained
        trained.curve.append(epoch)
        if epoch.holdout is None:
            trained.best = epoch.epoch
        elif epoch.holdout < learner.best:
            learner.best, trained.best = epoch.holdout, epoch.epoch
            learner.state = {name: tensor[k].clone() for name, tensor in kept.state().items()}
        elif self._is_out_of_patience(epoch.epoch - trained.best, kept):
            return False
        return True

    def _leave(self, going: list[int], kept: Program) -> None:
        """Let those that are done go, with the tensors of their best epoch or else of the last; the others learn on."""
        if len(going) == len(self.learning):
            return
        last = kept.state()
        for k, learner in enumerate(self.learning):
            if k not in going:
                state = learner.state or {name: tensor[k].clone() for name, tensor in last.items()}
                network = learner.trained.network
                network.load_state_dict(network.state_dict() | state)
                learner.state = None
        self._keep(going)

    def _keep(self, going: list[int]) -> None:
        """Some of the networks alone learn on."""
        index = torch.tensor(going, dtype=torch.int64)
        self.learning = [self.learning[k] for k in going]
        if going:
            self.program.keep(index.to(self.device), self.optimizer)
            self.rows.keep(index)
            self.held.keep(index)
            self.inputs.keep(going)

    def _kept(self, number: int | None) -> Program:
        """What is judged and kept: the networks themselves, or their average once it has begun."""
        if self.average is None:
            return self.program
        if number is not None:
            self.average.after_epoch(self.program.module, number / self.spec.epochs)
            if self._looks or number == self.spec.epochs:  # a pass over all rows, where batch norm is measured anew
                averaged = self.average.module(self._batches())
                self.averaged = None if averaged is None else Alone(cast(Network, averaged), self.spec.pace)
        return self.averaged or self.program

    def _is_out_of_patience(self, epochs: int, kept: Program) -> bool:
        """Whether so many epochs without progress are enough; never before an average has begun that was asked for."""
        begun = self.average is None or kept is not self.program
        return self.spec.patience is not None and epochs >= self.spec.patience and begun

    def epoch(self) -> tuple[list[float], list[int | None]]:
        """Each network's mean loss over its rows, and the first step, counted from 1, in which it was not finite. The epoch ends
        where a look shows that this has come to all of them."""
        module, keeper = self.program.module, self.keeper
        module.train()
        rest_frozen(module)
        counts = torch.tensor(self.rows.counts)
        order, lengths, starts = self._order()
        places, goals_ = self.rows.at(order)
        places = places if self.inputs.ready is None else send(places, self.device)
        networks = [learner.trained.network for learner in self.learning]
        told = [] if self.begun is None else [*self.begun.losses]
        left = torch.split(places, lengths, 1)[len(told) :]
        batches_ = self.inputs.batches(left, networks, self._change if self.spec.augment else None)
        parts = {name: its.split(lengths) for name, its in goals_.items()}
        sizes = counts // self.parts + (torch.arange(self.parts)[:, None] < counts % self.parts)
        shares = (sizes / counts).to(self.device)  # of the rows, in each batch
        sound = _Sound(told)
        for i, (ready, mixings) in enumerate(batches_, len(told)):
            told.append(self._gradients(ready, {name: its[i] for name, its in parts.items()}, mixed_together(mixings)))
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None:
                self.average.after_step(module)
            saves = keeper is not None and keeper.is_due_after_step()
            if (saves or sound.is_due()) and not sound.look():
                break
            if keeper is not None and saves:
                keeper.save(self.saved(_Begun(torch.stack(told), starts)))
        losses = torch.stack(told)
        total: list[float] = (losses * shares[: len(losses)]).sum(0).tolist()
        return total, [_first(broken) for broken in (~losses.isfinite()).cpu().T]

    def _order(self) -> tuple[Tensor, list[int], list[Tensor]]:
        """The order of the rows in this epoch, drawn again where it was begun before, the lengths of its batches, and the states
        of the networks' generators before they drew it."""
        generators = [learner.generator for learner in self.learning]
        now = [generator.get_state() for generator in generators]
        if self.begun is None:
            return *epoch_order(self.rows.counts, self.parts, generators), now
        for generator, state in zip(generators, self.begun.starts, strict=True):
            generator.set_state(state)
        order, lengths = epoch_order(self.rows.counts, self.parts, generators)
        for generator, state in zip(generators, now, strict=True):
            generator.set_state(state)
        return order, lengths, self.begun.starts

    def _gradients(self, ready: Batch, goals: dict[str, Goal], mixed: Mixed | None) -> Tensor:
        """Leave a batch's gradients with the parameters; each network's loss.

        If an accelerator has no memory for it, this batch and all later ones are computed in halves, whose gradients add up to
        those of the whole. They are the same but for what looks at more than one row: batch norm, which sees half the rows and
        gathers its statistics twice as often, and the draws of dropout.

        Raises:
            torch.OutOfMemoryError: there is no memory for a half either.
        """
        for parameter in self.parameters:  # as zero_grad does, which takes 0.2 ms to say so to torch's compiler and profiler
            parameter.grad = None
        if not self.halved:
            try:
                return self._backward(ready, [goals], mixed)
            except torch.OutOfMemoryError:
                if next(iter(ready.values())).shape[1] < 4:  # batch norm needs two rows
                    raise
        if not self.halved:  # here nothing holds any more what the whole batch took
            logger.warning("%s has no memory for a batch of %d rows: from now on halves", self.device, self.spec.batch_size)
            self.halved = True
            for parameter in self.parameters:
                parameter.grad = None
        return torch.stack([self._backward(part, sides) for part, sides in halves(ready, goals, mixed)]).sum(0)

    def _backward(self, ready: Batch, sides: list[dict[str, Goal]], mixed: Mixed | None = None) -> Tensor:
        """Add the gradients of the objectives for some goals; each network's loss."""
        branches = self.program.branches(ready)
        losses = reduce(add, [self.objective(branches, goals, mixed) for goals in sides])
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def saved(self, begun: _Begun | None = None) -> dict[str, Any]:
        """What a checkpoint keeps: all that steps and epochs have changed."""
        going = [learner.position for learner in self.learning]
        state: dict[str, Any] = {
            "done": self.done,
            "begun": None if begun is None else begun._asdict(),
            "halved": self.halved,
            "going": going,
            "learners": [learner.saved(learner.position in going) for learner in self.learners],
        }
        if going:
            state["program"] = self.program.saved()
            state["average"] = None if self.average is None else self.average.saved()
            state["optimizer"], state["steps"] = self.optimizer.state_dict(), self.schedule.done
            state["generators"] = global_states(self.device)
        return state

    def resumed(self) -> bool:
        """Go on from the keeper's checkpoint, if it found one; if that does not fit, this trainer is of no use any more."""
        if self.keeper is None or (state := self.keeper.take()) is None:
            return True
        try:
            self._restore(state)
        except torch.OutOfMemoryError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            self.keeper.misfit(error)
            return False
        return True

    def _restore(self, state: dict[str, Any]) -> None:
        going, begun = state["going"], state["begun"]
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.restore(saved, learner.position in going)
        if len(going) < len(self.learners):
            self._keep(going)
        self.done, self.halved = state["done"], state["halved"]
        if going:
            self.program.restore(state["program"])
            if self.average is not None:
                self.average.restore(state["average"], self.program.module)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.go_to(state["steps"])
            set_global_states(state["generators"], self.device)
        if begun is not None:
            self.begun = _Begun(begun["losses"].to(self.device), begun["starts"])

    def _change(self, k: int, batch: Batch) -> Mixed | None:
        """Change a batch's pictures in place; the last mixing, if there is one, says whose targets count."""
        mixed, generator = None, self.learning[k].generator
        for augment in self.spec.augment if "image" in batch else ():
            if augment.name in MIXINGS:
                mixed = MIXINGS[augment.name](batch["image"], generator, **augment.settings)
                batch["image"] = mixed.images
            else:
                batch["image"] = AUGMENTATIONS[augment.name](batch["image"], generator, **augment.settings)
        return mixed

    def _batches(self) -> Iterator[Batch]:
        """The only network's training rows, as its averages are measured on them."""
        for some in self.rows.places[0].tensor_split(self.parts):
            yield self.inputs.feed.take(some)
            self._beat()

    def _beat(self) -> None:
        if self.keeper is not None:
            self.keeper.beat()

    @property
    def _looks(self) -> bool:
        """Whether held-out rows are looked at after each epoch."""
        return self.spec.patience is not None and max(self.held.counts) > 0

    @torch.no_grad()
    def _holdout(self, kept: Program) -> list[float] | None:
        """The losses over all held-out rows, not the means over batches."""
        if not self._looks:
            return None
        kept.module.eval()
        networks = [learner.trained.network for learner in self.learning]
        size = max(rows_at_once(self.dataset.schema) // len(networks), 1)
        said = []
        for ready, _ in self.inputs.batches(torch.split(self.held.places, size, 1), networks):
            said.append(kept.raw(ready))
            self._beat()
        raw = {name: torch.cat([part[name] for part in said], 1) for name in said[0]}
        return self.objective([Branch(1.0, raw)], self.held.goals).tolist()

    def _finished(self, learner: _Learner) -> Trained:
        learner.trained.network.eval()
        self._fit_residuals(learner)
        return learner.trained

    @torch.no_grad()
    def _fit_residuals(self, learner: _Learner) -> None:
        """Losses that learn no variance get one from held-out residuals, or from the training rows where none are held out."""
        network, share = learner.trained.network, learner.share
        for name, component in self.spec.losses.items():
            head = network.head(name)
            held = len(self.dataset.known(name, share.holdout))
            if head.task.kind == "regression" and component.name not in LEARNS_VARIANCE and self.spec.trained is None:
                rows = share.holdout if held > 1 else share.train
                batches_ = self.inputs.raw(self.inputs.places(rows), rows_at_once(self.dataset.schema))
                said = torch.cat([network(batch)[1][name][..., 0] for batch in batches_]).double()
                said = said.reshape(len(said), -1)  # (n, K); the copies' own spread comes on top when they predict
                target = torch.from_numpy(np.ascontiguousarray(self.dataset.targets[name][rows])).to(self.device)
                error = said.mean(1) - head.standardise(target).double()
                head.residual.fill_(max(float((error**2 - said.var(1, correction=0)).nanmean()), 1e-12))


def _first(steps: Tensor) -> int | None:
    """The first true one of some steps, counted from 1."""
    return 1 + int(steps.int().argmax()) if bool(steps.any()) else None


def batches_of(rows: int, size: int) -> int:
    """How many batches an epoch has; none is smaller than asked for, since batch norm needs two rows.

    >>> batches_of(100, 32), batches_of(5, 32)
    (3, 1)
    """
    return max(1, rows // size)


def stacking(schema: Schema, spec: TrainSpec) -> Callable[[Share], str] | None:
    """What must be the same of the shares of networks that are trained as one; None if networks of this kind can't be.

    The numbers of rows may differ as long as those of batches do not; where something is drawn or measured by the batch, not at
    all.
    """
    network = blank(schema, spec.network)
    if spec.average is not None or spec.trained is not None or spec.optimizer.name == "muon":
        return None
    if not (known(network) or mappable(network)):
        return None
    by_batch = bool(spec.augment) or any(isinstance(m, _BatchNorm) or getattr(m, "p", 0) for m in network.modules())

    def same(share: Share) -> str:
        rows = len(share.train)
        count = f"{rows} rows" if by_batch else f"{batches_of(rows, spec.batch_size)} batches"
        return f"{count}, expert in {share.own.tolist()}"

    return same


def _same_sight(one: Share, other: Share) -> bool:
    return np.array_equal(one.train, other.train) and np.array_equal(one.view, other.view)


def build(
    dataset: Dataset, spec: TrainSpec, share: Share, inputs: Inputs, generator: torch.Generator, like: Network | None = None
) -> Network:
    """A network that has taken from the training rows, and from files of weights, what it needs before it learns.

    Args:
        like: one of the same training rows and view: what it has taken from them is taken over.

    Raises:
        TrainingError: names the file that does not fit, or the target that no training row has.
    """
    for name, task in dataset.schema.targets.items():
        if not task.known(np.asarray(dataset.targets[name][share.train])).any():
            raise TrainingError(f"none of its training rows has the target {name!r}")
    network = Network(dataset.schema, spec.network)
    masks_ = {name: torch.from_numpy(mask) for name, mask in masks(dataset.schema, share.view).items()}
    network.preprocessing.see(masks_)
    if like is not None and known(network):
        network.take_over(like)
    else:
        targets = {n: torch.from_numpy(np.ascontiguousarray(dataset.targets[n][share.train])) for n in dataset.schema.targets}
        network.fit(inputs.sample(share.train), targets, generator)
    if spec.trained is not None:
        load_trained(network, spec.trained, 255.0 if dataset.schema.image_dtype == "uint8" else 1.0)
    return network


def load(dataset: Dataset, rows: Rows, device: torch.device) -> tuple[Batch, Batch]:
    """Inputs and targets of some rows, as tensors on a device."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array[rows])).to(device)

    return {n: tensor(a) for n, a in dataset.inputs.items()}, {n: tensor(a) for n, a in dataset.targets.items()}


@torch.inference_mode()
def say_all(network: torch.nn.Module, dataset: Dataset, device: torch.device, pulse: Callable[[], bool] = never) -> Said:
    """What a network on a device says of every row of the data, brought to the CPU.

    Args:
        pulse: called after every batch; if it says true, that is the end.

    Raises:
        Stopped: the pulse said so.
    """
    said, size = [], rows_at_once(dataset.schema)
    for start in range(0, len(dataset), size):
        inputs, _ = load(dataset, np.arange(start, min(start + size, len(dataset))), device)
        said.append(network.say(inputs))  # type: ignore[operator]
        if pulse():
            raise Stopped
    return Said(
        {name: torch.cat([s.values[name] for s in said]).cpu() for name in said[0].values},
        {name: torch.cat([s.variances[name] for s in said]).cpu() for name in said[0].variances},
        torch.cat([s.features for s in said]).cpu(),
    )
