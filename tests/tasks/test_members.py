"""Training a member: what the store has is not trained, and progress is passed on in measure."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import allow_failure

from flows.signals import Interrupted
from fuseline.disk import NoRoomError
from fuseline.errors import MemberFailed, TrainingError
from fuseline.plan import Plan
from fuseline.recipe import Training
from fuseline.store import Store
from fuseline.training.messages import Epoch, Progress
from fuseline.training.supervise import Workers
from tasks import artifacts
from tasks import members as member_tasks
from tasks.members import _Reporter, stop, train_member
from tasks.progress import listening
from tasks.records import FailedMember, PlanRecord, RunRecord

train_flow: Any = import_module("flows.train")


def test_a_member_is_trained_and_its_record_names_its_replicas(stages: Any) -> None:
    plan = Plan.open(stages.plan.folder)
    assert [m.name for m in stages.members] == ["plain", "held"]
    for member in stages.members:
        assert (member.trained, member.attempts, member.status) == (2, 1, "trained")
        assert list(member.keys) == [job.key(plan.dataset) for job in plan.members[member.name]]
        assert all((folder / "weights.safetensors").is_file() for folder in member.folders)


def test_the_members_of_a_run_share_its_workers(stages: Any) -> None:
    assert stages.workers.asked == ["plain", "held"]
    with stages.workers.devices.lend() as device:
        assert device == "cpu"


def test_a_member_that_stands_in_the_store_ends_as_reused_without_a_worker(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_tasks, "Workers", None)
    state = train_member.fn(stages.plan, "plain")
    assert (state.name, state.type.value) == ("Reused", "COMPLETED")
    assert state.data.status == "reused"
    assert (state.data.keys, state.data.folders) == (stages.members[0].keys, stages.members[0].folders)
    assert member_tasks._workers == {}


def test_stopping_stops_this_runs_workers_and_starts_no_more(stages: Any, in_process: Any) -> None:
    mine, other = in_process(None), in_process(None)
    member_tasks._workers.update({stages.plan.key: mine, "another": other})
    try:
        stop(stages.plan, patience=7)
        assert (mine.patience, other.patience) == (7, None)
    finally:
        member_tasks._workers.clear()
        member_tasks._stopped.clear()


def test_a_member_whose_turn_comes_after_a_stop_is_not_trained(
    stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no other member had its turn before, and no workers are known yet."""
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda **_: None)
    monkeypatch.setattr(Store, "find", lambda *_: None)
    monkeypatch.setattr(member_tasks, "Workers", Workers)
    try:
        stop(stages.plan)
        with pytest.raises(MemberFailed, match="member 'plain': the run was stopped") as caught:
            train_member.fn(stages.plan, "plain")
        assert (caught.value.kind, caught.value.attempts) == ("stopped", 0)
    finally:
        member_tasks._workers.clear()
        member_tasks._stopped.clear()


def test_runs_of_one_plan_in_one_process_are_told_apart(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert member_tasks._run(stages.plan) == stages.plan.key
    for flow_run in ("one", "two"):
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", flow_run)
        assert member_tasks._run(stages.plan) == flow_run


def test_what_is_tried_again_is_logged_as_a_warning_of_the_task(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(member_tasks, "get_run_logger", lambda: SimpleNamespace(warning=logged.append))
    stages.workers.warn("member 'a' is tried again")
    assert logged == ["member 'a' is tried again"]


def epoch_of(member: str, replica: int, replicas: int, epoch: int, epochs: int) -> Progress:
    return Progress(member, replica, replicas, Epoch(epoch, 1.0, None, 0.1, 0), epochs)


def test_progress_goes_to_the_listener_each_time_and_its_percent_is_shown() -> None:
    shown: list[float] = []
    heard: list[Progress] = []
    reporter = _Reporter(2, shown.append)
    with listening(heard.append):
        for replica in range(2):
            for epoch in (1, 2):
                reporter(epoch_of("a", replica, 2, epoch, 2))
    assert len(heard) == 4
    assert shown == [25, 50, 75, 100]


def test_replicas_that_take_their_epochs_by_turns_count_together() -> None:
    shown: list[float] = []
    reporter = _Reporter(2, shown.append)
    for epoch in (1, 2):
        for replica in range(2):
            reporter(epoch_of("stacked", replica, 2, epoch, 2))
    assert shown == [25, 50, 75, 100]
    assert [[epoch["epoch"] for epoch in curve] for curve in reporter.curves()] == [[1, 2], [1, 2]]


def test_a_replica_that_was_not_begun_has_a_curve_without_epochs() -> None:
    """So that the others keep their numbers."""
    reporter = _Reporter(3, lambda percent: None)
    reporter(epoch_of("a", 1, 3, 1, 2))
    assert [[epoch["epoch"] for epoch in curve] for curve in reporter.curves()] == [[], [1], []]


def test_the_flow_lets_a_member_wait_for_the_one_that_it_follows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is tried even if that one has failed, so that it says itself why it can't be trained."""
    waited: dict[str, list[Any]] = {}
    futures: dict[str, Any] = {}
    ended: list[tuple[Any, ...]] = []
    tracked: list[FailedMember] = []

    def failing(member: str) -> Any:
        def result() -> None:
            raise MemberFailed(member, f"{member} could not be trained", "hung", 2)

        return SimpleNamespace(result=result)

    def submit(plan: PlanRecord, *, member: str, wait_for: list[Any], return_state: bool) -> Any:
        waited[member], futures[member] = wait_for, failing(member)
        return futures[member]

    record = PlanRecord("key", tmp_path, ("a", "b-1", "b-2", "b-3"), ("y",), {"b-2": "b-1", "b-3": "b-2"})
    monkeypatch.setenv("FUSELINE_HOME", str(tmp_path))
    monkeypatch.setattr(train_flow, "plan_run", lambda recipe: record)
    monkeypatch.setattr(train_flow, "start_run", lambda plan: RunRecord("run", "r"))
    monkeypatch.setattr(train_flow, "track_plan", lambda plan, run: None)
    monkeypatch.setattr(train_flow, "train_member", SimpleNamespace(submit=submit))
    monkeypatch.setattr(train_flow, "track_member", lambda plan, run, member: tracked.append(member))
    monkeypatch.setattr(train_flow, "fail_run", lambda *given: ended.append(given))
    with pytest.raises(TrainingError, match=r"^0 of 4 .* needed .*: member 'a': a could not be trained; member 'b-1': b-1 could"):
        train_flow.train.fn(SimpleNamespace(name="r", training=Training()))
    assert list(waited) == ["a", "b-1", "b-2", "b-3"]
    assert [waited["a"], waited["b-1"]] == [[], []]
    assert (waited["b-2"], waited["b-3"]) == ([allow_failure(futures["b-1"])], [allow_failure(futures["b-2"])])
    assert ended[0][0] is record
    assert tracked[0] == FailedMember("a", "a could not be trained", "hung", 2)
    assert isinstance(ended[0][-1], TrainingError)


def test_a_full_disk_fails_the_run_and_not_the_member() -> None:
    def result() -> None:
        raise MemberFailed("a", "There is no room for a checkpoint.", "no room")

    with pytest.raises(NoRoomError, match=r"^There is no room for a checkpoint\.$"):
        train_flow.outcome(SimpleNamespace(result=result), "a")


@pytest.mark.parametrize("name", ["train", "again"])
def test_a_signal_that_comes_while_the_run_is_begun_ends_it(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its first record may be told by then."""
    module, record = import_module(f"flows.{name}"), PlanRecord("key", tmp_path, (), (), {})
    ended: list[tuple[Any, ...]] = []

    def begin(plan: PlanRecord) -> None:
        raise Interrupted(15)

    monkeypatch.setenv("FUSELINE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "plan_run" if name == "train" else "find_plan", lambda given: record)
    monkeypatch.setattr(module, "start_run", begin)
    monkeypatch.setattr(module, "fail_run", lambda *given: ended.append(given))
    flow, given = (module.train, ()) if name == "train" else (module.train_again, (None,))
    with pytest.raises(Interrupted):
        flow.fn(SimpleNamespace(name="r"), *given)
    member_tasks._stopped.clear()
    [(ended_record, error)] = ended
    assert ended_record is record
    assert isinstance(error, Interrupted)
