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


def train_into(store: Store, data: Path, job: ReplicaJob, report: Callable[[Epoch], None], device: str | None = None) -> bool:
    """Train a replica into the store, unless it is there; says whether it was.

    Args:
        device: the very one to train on, where the job's specification names a kind.

    Raises:
        TrainingError: it can't be trained, or one that it follows is not in the store.
    """
    dataset = datasets.read(data)

    def build(folder: Path) -> None:
        started = time.perf_counter()
        takes_over = start(job.strategy, _folders(store, job, dataset), dataset, job.share.train)
        trained = train(dataset, _on(job.spec, device), job.share, job.seed, report, takes_over)
        _write(folder, dataset, job, trained, _on(job.spec, device).device, time.perf_counter() - started)

    return store.make(KIND, job.key(dataset), build)[1]


def train_together_into(
    store: Store, data: Path, jobs: Sequence[ReplicaJob], report: Callable[[int, Epoch], None], device: str | None = None
) -> list[bool | TrainingError]:
    """Train those of some replicas that the store lacks as one stacked program; says of each whether it was there, or why not.

    Args:
        jobs: of one specification, and alike in the sense of :func:`fuseline.training.train.stacking`.
        report: is told of a replica's epochs by its position among the jobs.
        device: as for :func:`train_into`.
    """
    dataset = datasets.read(data)
    keys = [job.key(dataset) for job in jobs]
    failed: dict[str, TrainingError] = {}

    def build(missing: list[str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
        positions = [keys.index(key) for key in missing]
        its = [jobs[position] for position in positions]
        if not its:
            return
        started, spec = time.perf_counter(), _on(its[0].spec, device)
        shares, seeds = [job.share for job in its], [job.seed for job in its]
        results = train_together(dataset, spec, shares, seeds, lambda k, epoch: report(positions[k], epoch))
        seconds = (time.perf_counter() - started) / len(its)
        for key, job, trained in zip(missing, its, results, strict=True):
            if isinstance(trained, TrainingError):
                failed[key] = trained
            else:
                yield key, partial(_write, dataset=dataset, job=job, trained=trained, device=spec.device, seconds=seconds)

    there = store.make_all(KIND, keys, build)
    return [failed.get(key, was) for key, was in zip(keys, there, strict=True)]


def _on(spec: TrainSpec, device: str | None) -> TrainSpec:
    return spec if device is None else spec.model_copy(update={"device": device})


def _write(folder: Path, dataset: Dataset, job: ReplicaJob, trained: Trained, device: str, seconds: float) -> None:
    """A trained replica's files: what it says of every row, its weights, its curve and what it costs."""
    started = time.perf_counter()
    said = say_all(trained.network, dataset, torch.device(device))  # a package on a CPU says it to rounding
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
