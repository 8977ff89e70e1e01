"""Units, attempts, and the end of all workers: by members that fail in every way there is."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import psutil
import pytest

from fuseline.devices import DeviceQueue
from fuseline.errors import MemberFailed, TrainingError
from fuseline.plan import Plan
from fuseline.recipe import Limits
from fuseline.store import Store
from fuseline.training import ending, watch
from fuseline.training.replica import KIND, ReplicaJob, train_into
from fuseline.training.supervise import Done, Workers
from fuseline.training.worker import Progress, UnitJob

Planned = Callable[..., tuple[Plan, Store]]
ONCE = Limits(retries=0)
TWICE = Limits(retries=1, wait_seconds=0)


def nothing(progress: Progress) -> None:
    """Nobody listens."""


def unit(planned: tuple[Plan, Store], member: str, limits: Limits = ONCE) -> UnitJob:
    plan, store = planned
    return replace(plan.job(member, store), limits=limits)


def writers(store: Store) -> list[psutil.Process]:
    """Our descendants that have a file of the store open; processes that end while we look have none."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(str(store.root) in file.path for file in process.open_files()):
                found.append(process)
    return found


# ------------------------------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("deed", "kind", "reason", "attempts"),
    [
        ("fail", "raised", r"RuntimeError: no luck \(see \S+/store/failures/fail-\w{8}\.txt\)", 2),
        ("refuse", "raised", "it is not meant to be", 1),
        ("leave", "raised", r"SystemExit: 7 \(see .*\)", 2),
        ("drop", "killed", r"its process ended without a word \(code 3\)", 2),
        ("die", "killed", "its process was killed by SIGKILL", 2),
        ("crash", "killed", "its process was killed by SIGSEGV", 2),
        ("ask_too_much", "out of memory", "RuntimeError: .*allocate memory.*", 2),
        ("lack_memory", "out of memory", r"MemoryError \(see .*\)", 2),
        ("lose", "not finite", r"the loss is not finite in epoch 1 \(of 2\), step \d+; lower the learning rate\.", 1),
    ],
)
def test_how_a_member_ends_is_told_and_its_siblings_finish(
    deed: str, kind: str, reason: str, attempts: int, planned_odd: Planned, crew: Any
) -> None:
    planned = planned_odd(deed, also={"name": "good"})
    name = deed.replace("_", "-")
    with ThreadPoolExecutor(1) as pool:
        good = pool.submit(crew.train, unit(planned, "good"), "good", nothing)
        with pytest.raises(MemberFailed, match=f"^member '{name}': {reason}$") as caught:
            crew.train(unit(planned, name, TWICE), name, nothing)
        assert good.result() == Done(2, 1)
    assert (caught.value.kind, caught.value.attempts) == (kind, attempts)
    assert len(crew.warnings) == attempts - 1
    assert not list((planned[1].root / KIND).glob(".*"))


def test_who_is_killed_because_memory_ran_out_is_told_by_the_kernel_s_count(
    planned_odd: Planned, tmp_path: Path, crew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = tmp_path / "vmstat"
    counts.write_text("oom_kill 7\n")
    monkeypatch.setattr(ending, "VMSTAT", counts)
    with pytest.raises(MemberFailed, match="the machine ran out of memory") as caught:
        crew.train(unit(planned_odd("starve", counts), "starve"), "starve", nothing)
    assert caught.value.kind == "out of memory"


def test_a_process_that_cannot_be_started_is_a_failure_like_others(
    planned: Planned, crew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), EOFError("unexpected EOF")]

    def warm() -> None:
        if full:
            raise full.pop()

    monkeypatch.setattr(watch, "warm", warm)
    job = unit(planned(), "mlp", Limits(retries=2, wait_seconds=0))
    assert crew.train(job, "mlp", nothing) == Done(2, 3)
    assert [text.partition(": ")[2] for text in crew.warnings] == [
        "its process could not be started (unexpected EOF)",
        "its process could not be started ([Errno 11] Resource temporarily unavailable)",
    ]


def test_a_failure_travels_between_processes() -> None:
    failure = pickle.loads(pickle.dumps(MemberFailed("a", "no luck", "hung", 3)))
    assert isinstance(failure, TrainingError)
    assert (failure.member, failure.reason, failure.kind, failure.attempts) == ("a", "no luck", "hung", 3)
    assert str(failure) == "member 'a': no luck"


def test_a_loss_that_is_not_finite_leaves_nothing_in_the_store(planned: Planned, crew: Any) -> None:
    plan, store = planned(optimizer={"sgd": {"lr": 1.0, "momentum": 0.99}}, schedule="constant")
    bad = plan.members["mlp"][0]
    spec = bad.spec.model_copy(update={"weights": {"iris": float("inf")}})
    job = plan.job("mlp", store)
    job.members["mlp"][:] = [ReplicaJob(spec, bad.share, bad.seed)]
    with pytest.raises(MemberFailed, match=r"member 'mlp': .*not finite in epoch 1"):
        crew.train(job, "mlp", nothing)
    assert not list((store.root / KIND).glob("*"))


def test_a_killed_worker_leaves_nothing_half_made(planned: Planned, crew: Any) -> None:
    plan, store = planned(epochs=100_000)
    killed: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if killed:  # epochs that it told of before it died
            return
        killed.extend(writers(store))
        assert len(killed) == 1, "the worker holds its replica's lock"
        os.kill(killed[0].pid, signal.SIGKILL)

    with pytest.raises(MemberFailed, match="member 'mlp': its process was killed by SIGKILL"):
        crew.train(unit((plan, store), "mlp"), "mlp", kill)
    assert not list((store.root / KIND).glob("[!.]*"))


def test_an_error_in_the_listener_ends_the_worker(planned: Planned, crew: Any) -> None:
    plan, store = planned(epochs=100_000)
    busy: list[psutil.Process] = []

    def fail(progress: Progress) -> None:
        busy.extend(writers(store))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        crew.train(unit((plan, store), "mlp", TWICE), "mlp", fail)
    assert busy
    assert not psutil.wait_procs(busy, timeout=60)[1]


# --------------------------------------------------------------------------------------------------------------- attempts


def test_who_fails_is_tried_again_and_may_succeed(planned_odd: Planned, tmp_path: Path, crew: Any) -> None:
    """Both of its replicas fail in the first attempt."""
    tries = tmp_path / "tries"
    tries.mkdir()
    plan, store = planned_odd("fail_twice", tries)
    job = unit((plan, store), "fail-twice", Limits(retries=3, wait_seconds=0.01))
    assert crew.train(job, "fail-twice", nothing) == Done(2, 2)
    (trace,) = (file for file in (store.root / "failures").iterdir() if "OSError: try 0" in file.read_text())
    reason = f"OSError: try 0 (see {trace})"
    assert crew.warnings == [f"member 'fail-twice' is tried again in 0.01 seconds (attempt 2 of 4): {reason}"]


def test_the_wait_doubles(planned_odd: Planned, crew: Any) -> None:
    with pytest.raises(MemberFailed) as caught:
        crew.train(unit(planned_odd("drop"), "drop", Limits(retries=3, wait_seconds=0.01)), "drop", nothing)
    assert caught.value.attempts == 4
    waits = [text.partition(" seconds")[0].rpartition(" ")[2] for text in crew.warnings]
    assert waits == ["0.01", "0.02", "0.04"]


def test_a_second_attempt_trains_only_what_is_not_done(planned: Planned, crew: Any) -> None:
    plan, store = planned(epochs=300)
    told: list[Progress] = []

    def kill(progress: Progress) -> None:
        told.append(progress)
        if progress.replica == 1 and not [p for p in told[:-1] if p.replica == 1]:
            for process in writers(store):
                process.kill()

    assert crew.train(unit((plan, store), "mlp", TWICE), "mlp", kill) == Done(2, 2)
    assert len(crew.warnings) == 1
    first = [p.epoch.epoch for p in told if p.replica == 0]
    assert first == list(range(1, 301))


def test_a_stack_that_is_killed_goes_on_with_all_its_members(planned: Planned, crew: Any) -> None:
    plan, store = planned("always", count=2, epochs=300)
    killed: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if not killed:
            killed.extend(writers(store))
            for process in killed:
                process.kill()

    job = unit((plan, store), "mlp-1", TWICE)
    assert [crew.train(job, name, kill) for name in plan.members] == [Done(2, 2), Done(2, 2)]
    assert len(crew.warnings) == 2


# ------------------------------------------------------------------------------------------------------------------ stops


def test_a_stop_lets_workers_save_checkpoints_and_another_run_goes_on_from_there(
    planned_odd: Planned, tmp_path: Path, crew: Any
) -> None:
    marker = tmp_path / "go on"
    plan, store = planned_odd("linger", marker, epochs=300, also={"name": "other", "epochs": 100_000})
    begun, told = Barrier(3), {"linger": list[Progress](), "other": list[Progress]()}

    def ask(member: str) -> str:
        def hear(progress: Progress) -> None:
            told[member].append(progress)
            if len(told[member]) == 1:
                begun.wait()

        with pytest.raises(MemberFailed, match=f"^member '{member}': the run was stopped$") as caught:
            crew.train(unit((plan, store), member, TWICE), member, hear)
        return f"{caught.value.kind} {caught.value.attempts}"

    with ThreadPoolExecutor(2) as pool:
        ends = pool.map(ask, told)
        begun.wait()
        crew.stop(patience=120)
        assert not writers(store)
        assert list(ends) == ["stopped 1", "stopped 1"]
    assert crew.warnings == []
    with pytest.raises(MemberFailed, match="the run was stopped"):
        crew.train(plan.job("linger", store), "linger", nothing)

    marker.touch()
    then: list[Progress] = []
    assert Workers(DeviceQueue(["cpu"], 1)).train(unit((plan, store), "linger"), "linger", then.append) == Done(2, 1)
    epochs = [p.epoch.epoch for p in [*told["linger"], *then] if p.replica == 0]
    assert epochs == list(range(1, 301))
    assert then[0].epoch.epoch > 1


def test_who_does_not_heed_a_stop_is_killed(planned_odd: Planned, tmp_path: Path, crew: Any, until: Callable[..., Any]) -> None:
    marker = tmp_path / "pid"
    job = unit(planned_odd("hang", marker), "hang", TWICE)
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(crew.train, job, "hang", nothing)
        until(marker.exists, "it hangs")
        crew.stop(patience=0.1)
        with pytest.raises(MemberFailed, match="the run was stopped"):
            end.result()


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_stop_ends_the_wait_before_another_attempt(way: str, planned_odd: Planned) -> None:
    warned = Event()
    crew = Workers(DeviceQueue(["cpu"], 1), lambda text: warned.set())
    job = unit(planned_odd("drop"), "drop", Limits(retries=1, wait_seconds=3600))
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(crew.train, job, "drop", nothing)
        assert warned.wait(120)
        crew.stop(patience=60) if way == "stop" else crew.kill()
        with pytest.raises(MemberFailed, match="the run was stopped") as caught:
            end.result()
    assert (caught.value.kind, caught.value.attempts) == ("stopped", 1)


def test_a_stop_ends_those_that_wait_for_a_device(planned_odd: Planned, tmp_path: Path, until: Callable[..., Any]) -> None:
    crew, marker = Workers(DeviceQueue(["cpu"], 1)), tmp_path / "pid"
    planned = planned_odd("hang", marker, also={"name": "other"})
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(crew.train, unit(planned, "hang", TWICE), "hang", nothing)]
        until(marker.exists, "it hangs")
        ends.append(pool.submit(crew.train, unit(planned, "other"), "other", nothing))
        until(lambda: crew.started(unit(planned, "other")), "the other one was asked for")
        crew.kill()
        for end, attempts in zip(ends, (1, 0), strict=True):
            with pytest.raises(MemberFailed) as caught:
                end.result()
            assert (caught.value.kind, caught.value.attempts) == ("stopped", attempts)


# ----------------------------------------------------------------------------------------------------------------- stacks


def test_the_members_of_a_stack_share_a_worker_and_each_hears_of_its_own_epochs(planned: Planned, crew: Any) -> None:
    plan, store = planned("always", count=3)
    (its,) = plan.training_units
    assert (its.members, its.pace.stacked) == (["mlp-1", "mlp-2", "mlp-3"], True)
    told: dict[str, list[Progress]] = {name: [] for name in plan.members}
    barrier = Barrier(3)  # all have asked before the first can be done

    def ask(name: str) -> Done:
        barrier.wait()
        done: Done = crew.train(plan.job(name, store), name, told[name].append)
        return done

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, plan.members)) == [Done(2, 1)] * 3
    for name, heard in told.items():
        epochs = [(p.member, p.epoch.epoch, p.replica) for p in heard]
        assert set(epochs) <= {(name, epoch, replica) for epoch in (1, 2) for replica in (0, 1)}
        assert epochs == sorted(epochs)
    assert [len(list((store.root / KIND).iterdir())), crew.started(plan.job("mlp-2", store))] == [6, True]


def test_who_asks_when_the_stack_is_done_hears_what_became_of_it(planned: Planned, crew: Any) -> None:
    plan, store = planned("always", count=2)
    assert [crew.train(plan.job(name, store), name, nothing) for name in plan.members] == [Done(2, 1)] * 2


def test_only_what_the_store_lacks_is_trained_of_a_stack(planned: Planned, crew: Any) -> None:
    plan, store = planned("always", count=2)
    train_into(store, plan.data, plan.members["mlp-1"][1], lambda epoch: None)
    assert [crew.train(plan.job(name, store), name, nothing) for name in plan.members] == [Done(1, 1), Done(2, 1)]


def test_stacked_and_separate_members_are_the_same_to_rounding_and_have_different_keys(planned: Planned) -> None:
    said: list[dict[str, Any]] = []
    keys: list[str] = []
    for how in ("always", "never"):
        plan, store = planned(how, count=2)
        crew = Workers(DeviceQueue(["cpu"], 1))
        for name, jobs in plan.members.items():
            crew.train(plan.job(name, store), name, nothing)
            keys += [job.key(plan.dataset) for job in jobs]
            said.append({f: np.load(store.path(KIND, keys[-1]) / f"{f}.npy") for f in ("values-iris", "features")})
    assert len(set(keys)) == 8
    for together, alone in zip(said[:2], said[2:], strict=True):
        for name, values in together.items():
            assert values == pytest.approx(alone[name], abs=1e-5)


def test_a_killed_worker_fails_every_member_of_its_stack(planned: Planned, crew: Any) -> None:
    plan, store = planned("always", count=2, epochs=100_000)

    def kill(progress: Progress) -> None:
        for process in writers(store):
            process.kill()

    for name in plan.members:
        with pytest.raises(MemberFailed, match=f"member '{name}': its process was killed by SIGKILL"):
            crew.train(unit((plan, store), name), name, kill)
    assert not list((store.root / KIND).glob("[!.]*"))
