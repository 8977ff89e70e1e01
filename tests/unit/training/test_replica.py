"""A replica in the store: its key, what lies there, and that it is what training gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuseline.data.dataset import Dataset
from fuseline.partition import Share
from fuseline.store import Store
from fuseline.training import replica
from fuseline.training.replica import KIND, ReplicaJob, curve, load_network, train_into
from fuseline.training.train import Epoch, say_all, train


@pytest.fixture
def dataset(dataset_of: Callable[..., Dataset]) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3)).astype(np.float32)
    return replace(dataset_of(x, {"kind": (x[:, 0] > 0).astype(np.int64), "size": x[:, 1].astype(float)}), fingerprint="f")


@pytest.fixture
def job(dataset: Dataset, spec_of: Callable[..., Any]) -> ReplicaJob:
    return ReplicaJob(spec_of(dataset), Share(np.arange(40), np.arange(40, 50), np.arange(50, 60)), 7)


@pytest.fixture
def stored(dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(replica.datasets, "read", lambda folder: dataset)
    assert train_into(store, Path("data"), job, lambda epoch: None) is False
    return store.path(KIND, job.key(dataset))


def test_it_is_what_training_gives(stored: Path, dataset: Dataset, job: ReplicaJob) -> None:
    trained = train(dataset, job.spec, job.share, job.seed)
    network = load_network(stored, dataset.schema, job.spec.network)
    assert not network.training
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    said = say_all(trained.network, dataset, torch.device("cpu"))
    for target in ("kind", "size"):
        assert (np.load(stored / f"values-{target}.npy") == said.values[target].numpy()).all()
    assert (np.load(stored / "variances-size.npy") == said.variances["size"].numpy()).all()
    assert not (stored / "variances-kind.npy").exists()
    assert np.load(stored / "features.npy").shape[0] == len(dataset)


def test_its_curve_is_kept(stored: Path) -> None:
    assert [epoch.epoch for epoch in curve(stored)] == [1, 2, 3]
    assert all(np.isfinite(epoch.loss) for epoch in curve(stored))


def test_a_second_time_it_is_found_and_not_trained(
    stored: Path, dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Epoch] = []
    assert train_into(store, Path("data"), job, told.append) is True
    assert told == []


def test_a_flipped_byte_makes_it_anew(stored: Path, job: ReplicaJob, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    weights = stored / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    told: list[Epoch] = []
    assert train_into(store, Path("data"), job, told.append) is False
    assert len(told) == 3
    assert weights.read_bytes() == good
    assert "damaged" in caplog.text


def test_its_key_follows_all_that_determines_it(dataset: Dataset, job: ReplicaJob) -> None:
    share = job.share
    others = [
        replace(job, seed=8),
        replace(job, spec=job.spec.model_copy(update={"epochs": 4})),
        replace(job, share=replace(share, train=share.train[1:])),
        replace(job, share=replace(share, holdout=share.holdout[1:])),
    ]
    keys = [j.key(dataset) for j in (job, *others)] + [job.key(replace(dataset, fingerprint="g"))]
    assert len(set(keys)) == len(keys)


def test_who_judges_which_rows_does_not_change_its_key(dataset: Dataset, job: ReplicaJob) -> None:
    assert replace(job, share=replace(job.share, judged=np.arange(3))).key(dataset) == job.key(dataset)
