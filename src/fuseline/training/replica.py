"""A trained replica in the store: weights, learning curve, and what it says of every row of the data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fuseline.data import dataset as datasets
from fuseline.data.dataset import Dataset
from fuseline.data.schema import Schema
from fuseline.models.network import Network, NetworkSpec, parameters
from fuseline.partition import Share
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.training.train import Epoch, TrainSpec, say_all, train

KIND = "replica"


@dataclass(frozen=True)
class ReplicaJob:
    """Everything that determines a trained replica."""

    spec: TrainSpec
    share: Share
    seed: int

    def key(self, dataset: Dataset) -> str:
        return content_key(
            spec=self.spec.model_dump(mode="json"),
            data=dataset.fingerprint,
            train=self.share.train,
            holdout=self.share.holdout,
            seed=self.seed,
            torch=torch.__version__,
            code=code_version("data", "models", "training"),
        )


def train_into(store: Store, data: Path, job: ReplicaJob, report: Callable[[Epoch], None]) -> bool:
    """Train a replica into the store, unless it is there; says whether it was."""
    dataset = datasets.read(data)

    def build(folder: Path) -> None:
        started = time.perf_counter()
        trained = train(dataset, job.spec, job.share, job.seed, report)
        said = say_all(trained.network.cpu(), dataset, torch.device("cpu"))  # as the package will, wherever it was trained
        for name, values in said.values.items():
            np.save(folder / f"values-{name}.npy", values.numpy())
        for name, variances in said.variances.items():
            np.save(folder / f"variances-{name}.npy", variances.numpy())
        np.save(folder / "features.npy", said.features.numpy())
        save_file(
            {name: t.cpu().contiguous() for name, t in trained.network.state_dict().items()}, folder / "weights.safetensors"
        )
        seconds = round(time.perf_counter() - started, 3)
        write_json(folder / "training.json", {**trained.record(), "seconds": seconds, "parameters": parameters(trained.network)})

    return store.make(KIND, job.key(dataset), build)[1]


def load_network(folder: Path, schema: Schema, spec: NetworkSpec) -> Network:
    """A stored replica's network, in evaluation mode."""
    network = Network(schema, spec)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network.eval()


def curve(folder: Path) -> list[Epoch]:
    return [Epoch(**line) for line in read_json(folder / "training.json")["curve"]]
