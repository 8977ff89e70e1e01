"""Training in a process of its own: what it tells, and what becomes of one that fails or is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import psutil
import pytest

from fuseline.devices import DeviceQueue
from fuseline.errors import TrainingError
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store
from fuseline.training.replica import KIND, ReplicaJob, train_into
from fuseline.training.worker import Progress, Workers


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[Plan, Store]]:
    def make(stack: str = "never", **changes: Any) -> tuple[Plan, Store]:
        member = {"name": "mlp", "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "early_stopping": None, **changes}
        tree = {
            "name": "iris",
            "data": {"source": {"sklearn": {"name": "iris"}}},
            "targets": {"iris": {"kind": "classification", "column": "target"}},
            "partition": {"kfold": {"folds": 2}},
            "members": [member],
            "training": {"device": "cpu", "processes": 1, "stack": stack},
        }
        store = Store(tmp_path / "store")
        return make_plan(Recipe.model_validate(tree), store)[0], store

    return make


def workers() -> Workers:
    return Workers(DeviceQueue(["cpu"], slots=1))


def test_it_tells_of_every_epoch_of_every_replica_in_order(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    told: list[Progress] = []
    workers().train(plan.job("mlp", store), "mlp", told.append)
    assert [(p.member, p.replica, p.replicas, p.epoch.epoch, p.epochs) for p in told] == [
        ("mlp", 0, 2, 1, 2),
        ("mlp", 0, 2, 2, 2),
        ("mlp", 1, 2, 1, 2),
        ("mlp", 1, 2, 2, 2),
    ]


def test_it_gives_the_same_bytes_as_training_in_this_process(planned: Callable[..., Any], tmp_path: Path) -> None:
    plan, store = planned()
    workers().train(plan.job("mlp", store), "mlp", lambda progress: None)
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
    job.members["mlp"][:] = [ReplicaJob(spec, bad.share, bad.seed)]
    with pytest.raises(TrainingError, match=r"member 'mlp': .*not finite in epoch 1"):
        workers().train(job, "mlp", lambda progress: None)
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
        workers().train(plan.job("mlp", store), "mlp", kill)
    assert not list((store.root / KIND).glob("[!.]*"))


def test_an_error_in_the_listener_ends_the_worker(planned: Callable[..., Any]) -> None:
    plan, store = planned(epochs=100_000)
    busy: list[psutil.Process] = []

    def fail(progress: Progress) -> None:
        busy.extend(writers(store))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        workers().train(plan.job("mlp", store), "mlp", fail)
    assert busy
    assert not psutil.wait_procs(busy, timeout=60)[1]


def test_after_a_kill_finished_replicas_are_kept(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    first = plan.members["mlp"][0]
    train_into(store, plan.data, first, lambda epoch: None)
    told: list[Progress] = []
    workers().train(plan.job("mlp", store), "mlp", told.append)
    assert {p.replica for p in told} == {1}
    assert np.isfinite(np.load(store.path(KIND, first.key(plan.dataset)) / "values-iris.npy")).all()


# ------------------------------------------------------------------------------------------------------------------ stacks


def test_the_members_of_a_stack_share_a_worker_and_each_hears_of_its_own_epochs(planned: Callable[..., Any]) -> None:
    plan, store = planned("always", count=3)
    (unit,) = plan.training_units
    assert (unit.members, unit.pace.stacked) == (["mlp-1", "mlp-2", "mlp-3"], True)
    crew, told = workers(), {name: [] for name in plan.members}
    barrier = Barrier(3)  # all have asked before the first can be done

    def ask(name: str) -> int:
        barrier.wait()
        return crew.train(plan.job(name, store), name, told[name].append)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, plan.members)) == [2, 2, 2]
    for name, heard in told.items():
        epochs = [(p.member, p.epoch.epoch, p.replica) for p in heard]
        assert set(epochs) <= {(name, epoch, replica) for epoch in (1, 2) for replica in (0, 1)}
        assert epochs == sorted(epochs)
    assert [len(list((store.root / KIND).iterdir())), crew.started(plan.job("mlp-2", store))] == [6, True]


def test_who_asks_when_the_stack_is_done_hears_what_became_of_it(planned: Callable[..., Any]) -> None:
    plan, store = planned("always", count=2)
    crew = workers()
    assert [crew.train(plan.job(name, store), name, lambda progress: None) for name in plan.members] == [2, 2]


def test_only_what_the_store_lacks_is_trained_of_a_stack(planned: Callable[..., Any]) -> None:
    plan, store = planned("always", count=2)
    train_into(store, plan.data, plan.members["mlp-1"][1], lambda epoch: None)
    crew = workers()
    assert [crew.train(plan.job(name, store), name, lambda progress: None) for name in plan.members] == [1, 2]


def test_stacked_and_separate_members_are_the_same_to_rounding_and_have_different_keys(planned: Callable[..., Any]) -> None:
    said: list[dict[str, Any]] = []
    keys: list[str] = []
    for how in ("always", "never"):
        plan, store = planned(how, count=2)
        crew = workers()
        for name, jobs in plan.members.items():
            crew.train(plan.job(name, store), name, lambda progress: None)
            keys += [job.key(plan.dataset) for job in jobs]
            said.append({f: np.load(store.path(KIND, keys[-1]) / f"{f}.npy") for f in ("values-iris", "features")})
    assert len(set(keys)) == 8
    for together, alone in zip(said[:2], said[2:], strict=True):
        for name, values in together.items():
            assert values == pytest.approx(alone[name], abs=1e-5)


def test_a_killed_worker_fails_every_member_of_its_stack(planned: Callable[..., Any]) -> None:
    plan, store = planned("always", count=2, epochs=100_000)
    crew = workers()

    def kill(progress: Progress) -> None:
        for process in writers(store):
            process.kill()

    for name in plan.members:
        with pytest.raises(TrainingError, match=f"member '{name}': its process was killed by SIGKILL"):
            crew.train(plan.job(name, store), name, kill)
    assert not list((store.root / KIND).glob("[!.]*"))
