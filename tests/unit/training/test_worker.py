"""Training in a process of its own: what it tells, and what becomes of one that fails or is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fuseline.errors import TrainingError
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store
from fuseline.training.replica import KIND, ReplicaJob, train_into
from fuseline.training.worker import Progress, Workers


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[Plan, Store]]:
    def make(**changes: Any) -> tuple[Plan, Store]:
        member = {"name": "mlp", "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "early_stopping": None, **changes}
        tree = {
            "name": "iris",
            "data": {"source": {"sklearn": {"name": "iris"}}},
            "targets": {"iris": {"kind": "classification", "column": "target"}},
            "partition": {"kfold": {"folds": 2}},
            "members": [member],
        }
        store = Store(tmp_path / "store")
        return make_plan(Recipe.model_validate(tree), store)[0], store

    return make


def test_it_tells_of_every_epoch_of_every_replica_in_order(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    told: list[Progress] = []
    Workers(1).train(plan.job("mlp", store), told.append)
    assert [(p.member, p.replica, p.replicas, p.epoch.epoch, p.epochs) for p in told] == [
        ("mlp", 0, 2, 1, 2),
        ("mlp", 0, 2, 2, 2),
        ("mlp", 1, 2, 1, 2),
        ("mlp", 1, 2, 2, 2),
    ]


def test_it_gives_the_same_bytes_as_training_in_this_process(planned: Callable[..., Any], tmp_path: Path) -> None:
    plan, store = planned()
    Workers(1).train(plan.job("mlp", store), lambda progress: None)
    here = Store(tmp_path / "here")
    for job in plan.members["mlp"]:
        train_into(here, plan.data, job, lambda epoch: None)
        key = job.key(plan.dataset)
        for name in ("weights.safetensors", "values-iris.npy", "features.npy"):
            assert (here.path(KIND, key) / name).read_bytes() == (store.path(KIND, key) / name).read_bytes()


def test_a_loss_that_is_not_finite_names_member_and_epoch(planned: Callable[..., Any]) -> None:
    plan, store = planned(optimizer={"sgd": {"lr": 1.0, "momentum": 0.99}}, schedule="constant", epochs=2)
    bad = plan.members["mlp"][0]
    spec = bad.spec.model_copy(update={"weights": {"iris": float("inf")}})
    job = plan.job("mlp", store)
    job.replicas[:] = [ReplicaJob(spec, bad.share, bad.seed)]
    with pytest.raises(TrainingError, match=r"member 'mlp': .*not finite in epoch 1"):
        Workers(1).train(job, lambda progress: None)
    assert not list((store.root / KIND).glob("*"))


def writers(store: Store) -> list[psutil.Process]:
    """Our descendants that have a file of the store open; processes that end while we look have none."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(str(store.root) in file.path for file in process.open_files()):
                found.append(process)
    return found


def test_a_killed_worker_is_told_by_its_signal_and_leaves_nothing_half_made(planned: Callable[..., Any]) -> None:
    plan, store = planned(epochs=100_000)
    killed: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if killed:  # epochs that it told of before it died
            return
        killed.extend(writers(store))
        assert len(killed) == 1, "the worker holds its replica's lock"
        os.kill(killed[0].pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match="member 'mlp': its process was killed by SIGKILL"):
        Workers(1).train(plan.job("mlp", store), kill)
    assert not list((store.root / KIND).glob("[!.]*"))


def test_an_error_in_the_listener_ends_the_worker(planned: Callable[..., Any]) -> None:
    plan, store = planned(epochs=100_000)
    workers: list[psutil.Process] = []

    def fail(progress: Progress) -> None:
        workers.extend(writers(store))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        Workers(1).train(plan.job("mlp", store), fail)
    assert workers
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_after_a_kill_finished_replicas_are_kept(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    first = plan.members["mlp"][0]
    train_into(store, plan.data, first, lambda epoch: None)
    told: list[Progress] = []
    Workers(1).train(plan.job("mlp", store), told.append)
    assert {p.replica for p in told} == {1}
    assert np.isfinite(np.load(store.path(KIND, first.key(plan.dataset)) / "values-iris.npy")).all()
