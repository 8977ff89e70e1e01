"""A trained replica in the store: weights, learning curve, and what it says of every row of the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fuseline.component import Component
from fuseline.data import dataset as datasets
from fuseline.data.dataset import Dataset
from fuseline.data.schema import Schema
from fuseline.errors import TrainingError
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.network import Network, NetworkSpec, parameters
from fuseline.partition import Rows, Share
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.training.checkpoint import FOLDER, Care, Checkpoint, Keeper
from fuseline.training.strategies import start
from fuseline.training.train import Epoch, Trained, TrainSpec, load, say_all, train, train_together

KIND = "replica"


@dataclass(frozen=True)
class ReplicaJob:
    """Everything that determines a trained replica.

    Attributes:
        before: those that it follows by its strategy, the latest last.
    """

    spec: TrainSpec
    share: Share
    seed: int
    strategy: Component | None = None
    before: tuple[ReplicaJob, ...] = ()

    def key(self, dataset: Dataset) -> str:
        return content_key(
            spec=self.spec.model_dump(mode="json"),
            data=dataset.fingerprint,
            train=self.share.train,
            holdout=self.share.holdout,
            view=self.share.view,
            own=self.share.own,
            seed=self.seed,
            strategy=self.strategy,
            before=[job.key(dataset) for job in self.before[-1:]],  # whose key holds those before it
            torch=torch.__version__,
            code=code_version("data", "models", "partition", "training"),
            plugin=ARCHITECTURES.version(self.spec.network.architecture.name),
        )


Writes = Callable[[Path], None]


def train_into(
    store: Store,
    data: Path,
    job: ReplicaJob,
    report: Callable[[Epoch], None],
    device: str | None = None,
    care: Care = Care(),  # noqa: B008 (it is immutable)
) -> bool:
    """Train a replica into the store, unless it is there; says whether it was.

    A checkpoint in the store's root keeps what was done until the replica is there. On a CPU a replica that goes on from one
    becomes bit by bit what it would have been without an interruption; ``seconds`` in its ``training.json`` are those of all
    attempts.

    Args:
        report: is told of its epochs, those that stand in a checkpoint excepted.
        device: the very one to train on, where the job's specification names a kind.

    Raises:
        TrainingError: it can't be trained, or one that it follows is not in the store.
        Stopped: ``care`` said so; its checkpoint is there.
        NoRoomError: there is none for a checkpoint, or for the replica; the last checkpoint is there.
    """
    dataset = datasets.read(data)
    key = job.key(dataset)

    def build(missing: list[str]) -> Iterator[tuple[str, Writes]]:
        checkpoint = Checkpoint(store.root / FOLDER, key)
        if missing:
            spec, keeper = _on(job.spec, device), Keeper(checkpoint, care)
            takes_over = start(job.strategy, _folders(store, job, dataset), dataset, job.share.train)
            trained = train(dataset, spec, job.share, job.seed, report, takes_over, keeper)
            yield key, partial(_write, dataset, job, trained, spec.device, keeper.seconds, care.pulse)
        checkpoint.drop()

    return store.make_all(KIND, [key], build)[0]


def train_together_into(
    store: Store,
    data: Path,
    jobs: Sequence[ReplicaJob],
    report: Callable[[int, Epoch], None],
    device: str | None = None,
    care: Care = Care(),  # noqa: B008 (it is immutable)
) -> list[bool | TrainingError]:
    """Train those of some replicas that the store lacks as one stacked program; says of each whether it was there, or why not.

    They share one checkpoint, which is there until all are in the store. Who goes on from it trains all that it began with, some
    of which may be in the store by then: a stack of the others would become something else, by rounding.

    Args:
        jobs: of one specification, and alike in the sense of :func:`fuseline.training.train.stacking`.
        report: is told of the epochs of those that the store lacks, by their position among the jobs.
        device, care: as for :func:`train_into`.

    Raises:
        TrainingError: the device is out of memory.
        Stopped, NoRoomError: as for :func:`train_into`.
    """
    dataset = datasets.read(data)
    keys = [job.key(dataset) for job in jobs]
    failed: dict[str, TrainingError] = {}

    def build(missing: list[str]) -> Iterator[tuple[str, Writes]]:
        checkpoint = Checkpoint(store.root / FOLDER, stack_key(keys))
        if missing:
            keeper = Keeper(checkpoint, care)
            stack = _begun(keeper, missing, keys)
            its, spec = [jobs[keys.index(key)] for key in stack], _on(jobs[0].spec, device)

            def tell(k: int, epoch: Epoch) -> None:
                if stack[k] in missing:
                    report(keys.index(stack[k]), epoch)

            shares, seeds = [job.share for job in its], [job.seed for job in its]
            results = train_together(dataset, spec, shares, seeds, tell, keeper)
            seconds = keeper.seconds / len(stack)  # each one's part
            for key, job, trained in zip(stack, its, results, strict=True):
                if key not in missing:
                    continue
                if isinstance(trained, TrainingError):
                    failed[key] = trained
                else:
                    yield key, partial(_write, dataset, job, trained, spec.device, seconds, care.pulse)
        checkpoint.drop()

    there = store.make_all(KIND, keys, build)
    return [failed.get(key, was) for key, was in zip(keys, there, strict=True)]


def stack_key(keys: Sequence[str]) -> str:
    """The key of the checkpoint that the replicas of a stack share."""
    return content_key(stack=list(keys))


def _begun(keeper: Keeper, missing: list[str], keys: list[str]) -> list[str]:
    """The keys of those that a stack began with: as its checkpoint says, or else of those that the store lacks now."""
    stack: list[str] = keeper.about.setdefault("stack", missing)
    if not set(missing) <= set(stack) <= set(keys):
        keeper.misfit("it is of a stack of other replicas")
        keeper.about["stack"] = stack = missing
    return stack


def _on(spec: TrainSpec, device: str | None) -> TrainSpec:
    return spec if device is None else spec.model_copy(update={"device": device})


def _write(
    dataset: Dataset, job: ReplicaJob, trained: Trained, device: str, seconds: float, pulse: Callable[[], bool], folder: Path
) -> None:
    """A trained replica's files: what it says of every row, its weights, its curve and what it costs."""
    started = time.perf_counter()
    said = say_all(trained.network, dataset, torch.device(device), pulse)  # a package on a CPU says it to rounding
    trained.network.cpu()
    for name, values in said.values.items():
        np.save(folder / f"values-{name}.npy", values.numpy())
    for name, variances in said.variances.items():
        np.save(folder / f"variances-{name}.npy", variances.numpy())
    np.save(folder / "features.npy", said.features.numpy())
    save_file({name: t.cpu().contiguous() for name, t in trained.network.state_dict().items()}, folder / "weights.safetensors")
    cost: dict[str, float] = {"parameters": parameters(trained.network), "bytes": size(trained.network)}
    cost["latency"] = latency(trained.network, dataset, job.share.train)
    seconds += time.perf_counter() - started
    write_json(folder / "training.json", {**trained.record(), "seconds": round(seconds, 3), **cost})


def _folders(store: Store, job: ReplicaJob, dataset: Dataset) -> list[Path]:
    """Where the replicas stand that a job follows."""
    found = [store.find(KIND, earlier.key(dataset)) for earlier in job.before]
    if any(folder is None for folder in found):
        raise TrainingError("the member that it follows was not trained")
    return [folder for folder in found if folder is not None]


@torch.inference_mode()
def latency(network: Network, dataset: Dataset, rows: Rows, size: int = 256, tries: int = 5) -> float:
    """Microseconds per row on the CPU, in batches of up to ``size`` rows: the fastest of some tries, with the threads as they
    are set. It is measured once and kept, so that what is decided by it stays decided."""
    inputs, _ = load(dataset, rows[:size], torch.device("cpu"))
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        network.say(inputs)
        times.append(time.perf_counter() - started)
    return round(1e6 * min(times) / len(rows[:size]), 3)


def size(network: Network) -> int:
    """How many bytes its tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def load_network(folder: Path, schema: Schema, spec: NetworkSpec) -> Network:
    """A stored replica's network, in evaluation mode."""
    network = Network(schema, spec)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network.eval()


def curve(folder: Path) -> list[Epoch]:
    return [Epoch(**line) for line in read_json(folder / "training.json")["curve"]]
