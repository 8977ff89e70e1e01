"""What the tasks tell MLflow beyond what a whole run shows: failures, and pictures drawn once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuseline.planned import Planned
from fuseline.report.summary import assemble
from fuseline.store import read_json
from fuseline.tracking.deliver import deliverer
from fuseline.tracking.settings import load_settings
from fuseline.tracking.spool import held, opened, read, start_run
from fuseline.tracking.tags import tagged_entries
from tasks import tracking as tracking_tasks
from tasks.records import FailedMember, MemberRecord, PlanRecord, RunRecord
from tasks.tracking import _pictures, delivered, fail_run, finish_run, track_fusions, track_member, track_plan, track_scores
from tasks.tracking import start_run as start_task


@pytest.fixture
def client(stages: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
        from mlflow import MlflowClient

        return MlflowClient(load_settings().server.mlflow_tracking_uri)


@pytest.fixture
def arrived(stages: Any, client: Any) -> Callable[..., Any]:
    """A run in MLflow by its own id, once all that was told of its parent has arrived."""

    def find(own: str, parent: str | None = stages.run.run_id) -> Any:
        if parent is not None:
            assert deliverer().wait([opened(parent).folder], 60) == 0
        (experiment,) = (its for its in client.search_experiments() if its.name == "iris")
        (run,) = client.search_runs([experiment.experiment_id], f"tags.`fuseline.id` = '{own}'")
        return run

    return find


@pytest.fixture
def another_run(stages: Any) -> Iterator[RunRecord]:
    """A run of the same recipe that has just begun."""
    run = start_run("another plan", "iris", {}).run
    yield RunRecord(run, "iris")
    if run in held():
        opened(run).close()


@pytest.fixture
def another_plan(stages: Any) -> PlanRecord:
    """The plan of that run."""
    return replace(stages.plan, key="another plan")


def test_a_started_run_runs_and_keeps_the_plan(stages: Any, arrived: Callable[..., Any]) -> None:
    run = arrived(stages.run.run_id)
    assert (run.info.status, run.data.tags["fuseline.recipe"]) == ("RUNNING", "iris")
    assert run.data.params["members.0.name"] == "plain"
    assert len(run.inputs.dataset_inputs) == 1
    kept = {file.name for file in (Path(run.info.artifact_uri.removeprefix("file://")) / "plan").iterdir()}
    tables = {"statistics.json", "split.parquet", "partition.parquet"}
    assert kept == {"recipe.yaml", "environment.txt", "partition-iris.png", *tables}


def test_the_plan_is_kept_once(stages: Any) -> None:
    """A later attempt must not touch the files, which may be being sent."""
    spool = opened(stages.run.run_id)
    before = (spool.folder / "files" / "plan").stat().st_ino
    track_plan.fn(stages.plan, stages.run)
    assert (spool.folder / "files" / "plan").stat().st_ino == before


def test_a_failed_member_is_a_failed_child_that_says_why(
    stages: Any, another_run: RunRecord, arrived: Callable[..., Any]
) -> None:
    failed = FailedMember("held", "its process was killed by SIGKILL", "killed", 3)
    run = arrived(track_member.fn(stages.plan, another_run, failed), another_run.run_id)
    assert run.info.status == "FAILED"
    tags = {name: run.data.tags[f"fuseline.{name}"] for name in ("status", "reason", "failure", "attempts")}
    assert tags == {"status": "failed", "reason": failed.reason, "failure": "killed", "attempts": "3"}
    assert run.data.params["replicas"] == "2"
    assert run.data.metrics == {}


def test_the_curve_of_a_failed_member_s_replica_has_its_number(
    stages: Any, another_run: RunRecord, arrived: Callable[..., Any], client: Any
) -> None:
    epoch = {"epoch": 1, "loss": 0.5, "holdout": None, "rate": 0.1, "at": 1000}
    failed = FailedMember("held", "not finite", "not finite", 1, [[], [epoch]])
    for at in (1000, 2000):  # it fails again, when it is tried again
        child = track_member.fn(stages.plan, another_run, replace(failed, curves=[[], [epoch | {"at": at}]]))
    run = arrived(child, another_run.run_id)
    assert run.data.metrics == {"replica_2/loss": 0.5, "replica_2/rate": 0.1}
    (point,) = client.get_metric_history(run.info.run_id, "replica_2/loss")
    assert (point.step, point.timestamp) == (1, 1000)


def test_a_member_that_failed_and_is_trained_later_loses_its_reason(
    stages: Any, another_run: RunRecord, arrived: Callable[..., Any]
) -> None:
    for member in (FailedMember("plain", "out of memory"), stages.members[0]):
        child = track_member.fn(stages.plan, another_run, member)
    run = arrived(child, another_run.run_id)
    assert (run.info.status, run.data.tags["fuseline.status"]) == ("FINISHED", "trained")
    assert {"fuseline.reason", "fuseline.failure"} & run.data.tags.keys() == set()
    assert run.data.tags["fuseline.reason.1"] == "out of memory"


def test_a_trained_member_has_a_curve_per_replica_and_then_its_scores(
    stages: Any, client: Any, arrived: Callable[..., Any]
) -> None:
    children = {m.name: track_member.fn(stages.plan, stages.run, m) for m in stages.members}
    plain, held = (arrived(children[name]) for name in ("plain", "held"))
    assert plain.info.status == held.info.status == "FINISHED"
    history = client.get_metric_history(plain.info.run_id, "replica_2/loss")
    assert [p.step for p in history] == [1, 2]
    assert plain.info.start_time <= history[0].timestamp <= history[1].timestamp <= plain.info.end_time
    assert "replica_1/holdout_loss" in held.data.metrics
    assert "replica_1/holdout_loss" not in plain.data.metrics
    for _ in range(2):  # once by an attempt whose process died
        track_scores.fn(stages.run, stages.report, children)
    entries = read_json(stages.report.folder / "report.json")["targets"]["iris"]["members"]
    for entry in entries:
        run = arrived(children[entry["name"]])
        assert run.data.metrics["test/iris/log_loss"] == entry["metrics"]["log_loss"]["value"]
        assert len(client.get_metric_history(run.info.run_id, "test/iris/log_loss")) == 1


def test_a_member_that_was_trained_in_this_run_is_not_said_to_be_reused_when_the_run_goes_on(
    stages: Any, arrived: Callable[..., Any]
) -> None:
    member = stages.members[0]
    first = arrived(track_member.fn(stages.plan, stages.run, member))
    reused = MemberRecord(member.name, member.keys, member.folders, 0)
    again = arrived(track_member.fn(stages.plan, stages.run, reused))
    assert again.to_dictionary() == first.to_dictionary()
    assert again.data.tags["fuseline.status"] == "trained"


def test_a_reused_member_names_the_run_that_trained_it(stages: Any, another_run: RunRecord, arrived: Callable[..., Any]) -> None:
    first = arrived(track_member.fn(stages.plan, stages.run, stages.members[1]))
    member = stages.members[1]
    reused = MemberRecord(member.name, member.keys, member.folders, 0)
    run = arrived(track_member.fn(stages.plan, another_run, reused), another_run.run_id)
    assert run.data.tags["fuseline.status"] == "reused"
    assert run.data.tags["fuseline.origin"] == first.info.run_id


def test_every_rule_is_a_child_with_cross_fitted_losses(stages: Any, client: Any, arrived: Callable[..., Any]) -> None:
    for _ in range(2):
        track_fusions.fn(stages.plan, stages.run, stages.report)
    part = read_json(stages.report.folder / "report.json")["targets"]["iris"]
    parent = arrived(stages.run.run_id)
    found = client.search_runs([parent.info.experiment_id], "tags.`fuseline.kind` = 'fusion'")
    runs = {run.data.params["rule"]: run for run in found}
    assert len(found) == 2
    assert set(runs) == {"mean", "stacking"}
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics["cross_fit/iris/loss"] == part["comparison"]["rules"][name]["loss"]
        assert run.data.tags.get("fuseline.chosen_for", "") == ("iris" if part["chosen"] == name else "")


def test_a_finished_run_names_the_entries_that_it_is_made_of(
    stages: Any, another_run: RunRecord, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[Any] = []
    monkeypatch.setattr(tracking_tasks, "create_table_artifact", lambda rows, **_: tables.append(rows))
    made = [stages.bank, *stages.fused, stages.report, stages.package]
    gone = FailedMember("gone", "out of memory")
    summary = assemble("iris", [*stages.members, gone], read_json(stages.report.folder / "report.json")) | {"timing": {}}
    finish_run.fn(stages.plan, another_run, stages.members, stages.report, made, summary)
    told = delivered(another_run)
    assert told.run_id is not None
    run = client.get_run(told.run_id)
    assert {name: run.data.metrics[f"members_{name}"] for name in ("trained", "failed")} == {"trained": 2, "failed": 1}
    tags = run.data.tags
    entries = tagged_entries(tags)
    kinds = ["plan", "data", "bank", "fusion", "report", "package", "pictures", "pictures"]
    assert [kind for kind, _ in entries] == kinds
    assert len(set(entries)) == len(entries)
    assert all((stages.home / "store" / kind / key).is_dir() for kind, key in entries)
    assert dict(entries)["data"] == Planned.open(stages.plan.folder).data
    assert another_run.run_id not in held()
    (rows,) = tables
    assert [row["name"] for row in rows] == ["plain", "held", "mean", "stacking", "gone"]
    assert all(row["accuracy"] > 0 for row in rows[:-1])
    assert rows[-1] == {"target": "", "name": "gone", "status": "failed: out of memory"}


def test_pictures_are_drawn_once(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []

    def draw(function: str, report: Path, members: dict[str, Any], folder: Path) -> None:
        drawn.append(folder)
        assert (function, report) == ("fuseline.stages:draw_report", stages.report.folder)
        assert members == {m.name: m.folders for m in stages.members}
        (folder / "a.png").write_bytes(b"a")

    monkeypatch.setattr(tracking_tasks, "apart", draw)
    monkeypatch.setattr(tracking_tasks, "code_version", lambda *_: "another")
    first = _pictures(stages.members, stages.report)
    assert _pictures(stages.members, stages.report) == first
    assert len(drawn) == 1


@pytest.mark.parametrize(("kind", "status"), [(OSError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_badly_says_why_and_is_let_go_of(
    another_run: RunRecord, another_plan: PlanRecord, arrived: Callable[..., Any], kind: type[BaseException], status: str
) -> None:
    fail_run(another_plan, kind("the disk is full"))
    run = arrived(another_run.run_id, None)
    assert (run.info.status, run.data.tags["fuseline.reason"]) == (status, "the disk is full")
    assert another_run.run_id not in held()


def test_a_run_that_did_not_begin_has_no_end(stages: Any) -> None:
    before = held()
    fail_run(replace(stages.plan, key="a plan without a run"), KeyboardInterrupt("stopped by SIGTERM"))
    assert held() == before


def test_a_run_that_has_ended_does_not_end_again(another_run: RunRecord, another_plan: PlanRecord) -> None:
    spool = opened(another_run.run_id)
    spool.tell(spool.run, end="FINISHED")
    ends = []
    spool.told = lambda: ends.append("told")
    fail_run(another_plan, KeyboardInterrupt())
    assert spool.ends[spool.run] == "FINISHED"
    assert ends == []


def test_starting_again_continues_it(stages: Any) -> None:
    """Last of all, since it is another attempt."""
    assert start_task.fn(stages.plan) == stages.run
    *_, (said, _) = read(opened(stages.run.run_id).folder)
    assert said is not None
    assert (said.again, said.tags["fuseline.attempt"], said.params) == (True, "2", {})
