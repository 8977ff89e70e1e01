"""What a worker process does: it trains what is wanted and tells of it, heeds no signal, and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fuseline.plan import Plan
from fuseline.store import Store
from fuseline.training.ending import Failure
from fuseline.training.replica import KIND, train_into
from fuseline.training.supervise import Done
from fuseline.training.watch import Watched
from fuseline.training.worker import End, Progress, UnitJob

PARENT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuseline.devices import DeviceQueue
from fuseline.plan import Plan
from fuseline.store import Store
from fuseline.training.supervise import Workers

if __name__ == "__main__":
    plan, store = Plan.open(Path(sys.argv[1])), Store(Path(sys.argv[2]))
    crew = Workers(DeviceQueue(["cpu"], slots=2))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda member: crew.train(plan.job(member, store), member, print), plan.members))
"""


def listened(job: UnitJob) -> list[Progress | End]:
    """All that a worker tells until it ends by itself."""
    heard: list[Progress | End] = []
    with Watched(job, "cpu") as worker:
        assert worker.until_it_ends(heard.append).reason.endswith("(code 0)")
    return heard


def test_it_tells_of_every_epoch_of_every_replica_in_order_and_of_its_end(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    heard = listened(plan.job("mlp", store))
    told = [(m.member, m.replica, m.replicas, m.epoch.epoch, m.epochs) if isinstance(m, Progress) else m for m in heard]
    assert told == [
        ("mlp", 0, 2, 1, 2),
        ("mlp", 0, 2, 2, 2),
        End("mlp", 0, True),
        ("mlp", 1, 2, 1, 2),
        ("mlp", 1, 2, 2, 2),
        End("mlp", 1, True),
    ]


def test_it_gives_the_same_bytes_as_training_in_this_process(planned: Callable[..., Any], tmp_path: Path) -> None:
    plan, store = planned()
    listened(plan.job("mlp", store))
    here = Store(tmp_path / "here")
    for job in plan.members["mlp"]:
        train_into(here, plan.data, job, lambda epoch: None)
        key = job.key(plan.dataset)
        for name in ("weights.safetensors", "values-iris.npy", "features.npy"):
            assert (here.path(KIND, key) / name).read_bytes() == (store.path(KIND, key) / name).read_bytes()


def test_what_stands_in_the_store_is_told_as_such(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    first = plan.members["mlp"][0]
    train_into(store, plan.data, first, lambda epoch: None)
    heard = listened(plan.job("mlp", store))
    assert [m for m in heard if isinstance(m, End)] == [End("mlp", 0, False), End("mlp", 1, True)]
    assert {m.replica for m in heard if isinstance(m, Progress)} == {1}
    assert np.isfinite(np.load(store.path(KIND, first.key(plan.dataset)) / "values-iris.npy")).all()


def test_only_what_is_wanted_is_trained_and_what_belongs_together(planned: Callable[..., Any]) -> None:
    plan, store = planned()
    wanted = replace(plan.job("mlp", store), wanted=frozenset({("mlp", 1)}))
    assert [m for m in listened(wanted) if isinstance(m, End)] == [End("mlp", 1, True)]
    plan, store = planned("always", count=2)
    wanted = replace(plan.job("mlp-1", store), wanted=frozenset({("mlp-2", 1)}))
    told = {m for m in listened(wanted) if isinstance(m, End)}
    assert {End("mlp-1", 1, True), End("mlp-2", 1, True)} <= told


def test_one_replica_s_failure_keeps_no_other_from_being_trained(planned_odd: Callable[..., Any], tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    tries.mkdir()
    (tries / "0").touch()  # so that it fails once more
    plan, store = planned_odd("fail_twice", tries)
    first, second = (m for m in listened(plan.job("fail-twice", store)) if isinstance(m, End))
    (place,) = (store.root / "failures").glob("fail-twice-*.txt")
    assert first == End("fail-twice", 0, Failure("raised", f"OSError: try 1 (see {place})", again=True))
    assert second == End("fail-twice", 1, True)
    assert "in fail_twice" in place.read_text()


def test_data_that_cannot_be_read_fail_every_replica_with_a_reason(planned: Callable[..., Any], tmp_path: Path) -> None:
    plan, store = planned("always", count=2)
    heard = listened(replace(plan.job("mlp-1", store), data=tmp_path / "nowhere"))
    ends = [m for m in heard if isinstance(m, End)]
    assert sorted((m.member, m.replica) for m in ends) == [(f"mlp-{i}", k) for i in (1, 2) for k in (0, 1)]
    for end in ends:
        assert isinstance(end.result, Failure)
        assert "nowhere" in end.result.reason


def test_it_stops_between_two_steps_and_goes_on_from_there(planned_odd: Callable[..., Any], tmp_path: Path, crew: Any) -> None:
    marker = tmp_path / "go on"
    plan, store = planned_odd("linger", marker, epochs=300)
    first: list[Progress | End] = []
    with Watched(plan.job("linger", store), "cpu") as worker:

        def hear(message: Progress | End) -> None:
            first.append(message)
            if len(first) == 3:
                worker.ask_to_stop()

        worker.until_it_ends(hear)
    assert set(first[-2:]) == {End("linger", k, Failure("stopped", "the run was stopped")) for k in (0, 1)}
    assert not list((store.root / KIND).glob("[!.]*"))
    marker.touch()
    then: list[Progress] = []
    assert crew.train(plan.job("linger", store), "linger", then.append) == Done(2, 1)
    epochs = [m.epoch.epoch for m in [*first, *then] if isinstance(m, Progress) and m.replica == 0]
    assert epochs == list(range(1, 301))


# --------------------------------------------------------------------------------------------------------- with its parent


@contextmanager
def supervised(plan: Plan, store: Store, packages: Path, folder: Path) -> Iterator[tuple[psutil.Process, list[psutil.Process]]]:
    """A process that trains a plan's members in two workers, and room for its descendants; nothing of them is left afterwards."""
    script = folder / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, script, store.path("plan", plan.key), store.root]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as process:
        parent = psutil.Process(process.pid)
        family: list[psutil.Process] = []
        try:
            yield parent, family
        finally:
            for one in [parent, *family, *family_of(parent)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def family_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def lives(process: psutil.Process) -> bool:
    """Who is dead but was not asked about yet is no trouble: the first process of the machine asks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_only_its_parent_decides_when_it_ends_and_ends_it_by_its_own_death(
    planned_odd: Callable[..., Any], odd: Path, tmp_path: Path, until: Callable[..., Any]
) -> None:
    """SIGINT and SIGTERM do not reach it, not even while it starts, nor the server that it is forked from. When its parent is
    killed it dies, even if it holds Python's lock, so that no thread of its own could see to it."""
    markers = [tmp_path / "hangs", tmp_path / "holds"]
    holds = {"name": "hold", "architecture": {"odd": {"deed": "hold", "place": str(markers[1])}}}
    plan, store = planned_odd("hang", markers[0], also=holds)
    told: dict[int, int] = {}

    def reached_though_told_to_end() -> bool:
        for process in family_of(parent):
            told[process.pid] = told.get(process.pid, 0) + 1
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGTERM)
        return all(marker.exists() and marker.read_text() for marker in markers)

    with supervised(plan, store, odd, tmp_path) as (parent, family):
        until(reached_though_told_to_end, "both networks hang")
        workers = [int(marker.read_text()) for marker in markers]
        assert all(told[worker] > 0 for worker in workers)
        family += family_of(parent)
        assert {*workers} < {one.pid for one in family if lives(one)}
        parent.kill()
        parent.wait()
        until(lambda: not any(lives(one) for one in family), "all have ended", 30)
