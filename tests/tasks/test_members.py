"""Training a member: what the store has is not trained, and progress is passed on in measure."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from fuseline.plan import Plan
from fuseline.training.train import Epoch
from fuseline.training.worker import Progress
from tasks import members as member_tasks
from tasks.members import _processes, _Reporter, stop, train_member
from tasks.progress import listening


def test_a_member_is_trained_and_its_record_names_its_replicas(stages: Any) -> None:
    plan = Plan.open(stages.plan.folder)
    assert [m.name for m in stages.members] == ["plain", "held"]
    for member in stages.members:
        assert (member.trained, member.status) == (2, "trained")
        assert list(member.keys) == [job.key(plan.dataset) for job in plan.members[member.name]]
        assert all((folder / "weights.safetensors").is_file() for folder in member.folders)


def test_the_members_of_a_run_share_its_workers(stages: Any) -> None:
    assert stages.workers.asked == ["plain", "held"]
    assert stages.workers.processes == 1


def test_a_member_that_stands_in_the_store_ends_as_reused_without_a_worker(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_tasks, "Workers", None)
    state = train_member.fn(stages.plan, "plain")
    assert (state.name, state.type.value) == ("Reused", "COMPLETED")
    assert state.data.status == "reused"
    assert (state.data.keys, state.data.folders) == (stages.members[0].keys, stages.members[0].folders)
    assert member_tasks._workers == {}


def test_stopping_stops_this_runs_workers_and_forgets_them(stages: Any, in_process: Any) -> None:
    mine, other = in_process(1), in_process(1)
    member_tasks._workers.update({stages.plan.key: mine, "another": other})
    try:
        stop(stages.plan)
        assert (mine.stopped, other.stopped) == (True, False)
        stop(stages.plan)  # none is left, which is no trouble
        assert list(member_tasks._workers) == ["another"]
    finally:
        member_tasks._workers.clear()


@pytest.mark.parametrize(
    ("processes", "threads", "cores", "expected"), [(3, 1, 8, 3), (None, 2, 8, 4), (None, 3, 2, 1), (None, 1, None, 1)]
)
def test_so_many_processes_as_cores_have_room_for(
    stages: Any, monkeypatch: pytest.MonkeyPatch, processes: int | None, threads: int, cores: int | None, expected: int
) -> None:
    plan = Plan.open(stages.plan.folder)
    training = plan.recipe.training.model_copy(update={"processes": processes, "threads": threads})
    monkeypatch.setattr(member_tasks.os, "cpu_count", lambda: cores)
    changed = Plan(**(vars(plan) | {"recipe": plan.recipe.model_copy(update={"training": training})}))
    assert _processes(changed) == expected


def test_progress_goes_to_the_listener_each_time_and_to_prefect_once_per_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float] = []
    made: list[dict[str, Any]] = []
    identifier = uuid4()
    monkeypatch.setattr(member_tasks, "create_progress_artifact", lambda **given: made.append(given) or identifier)
    monkeypatch.setattr(member_tasks, "update_progress_artifact", lambda _, progress: sent.append(progress))
    heard: list[Progress] = []
    reporter = _Reporter("Big_Net-1")
    with listening(heard.append):
        for replica in range(2):
            for epoch in range(1, 501):
                reporter(Progress("Big_Net-1", replica, 2, Epoch(epoch, 1.0, None, 0.1, 0), 500))
    assert len(heard) == 1000
    assert 95 <= len(sent) <= 100  # rounding may cost a step
    assert sent[-1] == 100
    assert all(later - earlier >= 1 for earlier, later in pairwise(sent[:-1]))
    assert made == [{"progress": 0.0, "key": "train-big-net-1", "description": "Big_Net-1"}]
