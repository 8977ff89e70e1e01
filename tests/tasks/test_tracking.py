"""What the tasks tell MLflow beyond what a whole run shows: failures, and pictures drawn once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fuseline.planned import Planned
from fuseline.report import plots
from fuseline.store import read_json
from tasks.records import FailedMember, MemberRecord
from tasks.tracking import _pictures, fail_run, start_run, track_fusions, track_member, track_scores, tracker_of


@pytest.fixture
def client(stages: Any) -> Any:
    return tracker_of(Planned.open(stages.plan.folder)).client


def test_one_tracker_serves_all_tasks_of_a_recipe(stages: Any) -> None:
    plan = Planned.open(stages.plan.folder)
    assert tracker_of(plan) is tracker_of(Planned.open(stages.plan.folder))


def test_a_started_run_runs_and_keeps_the_plan(stages: Any, client: Any) -> None:
    run = client.get_run(stages.run.run_id)
    assert (run.info.status, run.data.tags["fuseline.recipe"]) == ("RUNNING", "iris")
    kept = {file.name for file in (Path(run.info.artifact_uri.removeprefix("file://")) / "plan").iterdir()}
    tables = {"statistics.json", "split.parquet", "partition.parquet"}
    assert kept == {"recipe.yaml", "environment.txt", "partition-iris.png", *tables}


def test_starting_again_continues_it(stages: Any) -> None:
    assert start_run.fn(stages.plan) == stages.run


def test_a_failed_member_is_a_failed_child_that_says_why(stages: Any, client: Any) -> None:
    run = client.get_run(track_member.fn(stages.plan, stages.run, FailedMember("held", "its process was killed by SIGKILL")))
    assert run.info.status == "FAILED"
    assert run.data.tags["fuseline.status"] == "failed"
    assert run.data.tags["fuseline.reason"] == "its process was killed by SIGKILL"
    assert run.data.params["replicas"] == "2"
    assert run.data.metrics == {}


def test_a_trained_member_has_a_curve_per_replica_and_then_its_scores(stages: Any, client: Any) -> None:
    children = {m.name: track_member.fn(stages.plan, stages.run, m) for m in stages.members}
    plain, held = (client.get_run(children[name]) for name in ("plain", "held"))
    assert plain.info.status == held.info.status == "FINISHED"
    assert [p.step for p in client.get_metric_history(plain.info.run_id, "replica_2/loss")] == [1, 2]
    assert "replica_1/holdout_loss" in held.data.metrics
    assert "replica_1/holdout_loss" not in plain.data.metrics
    track_scores.fn(stages.plan, stages.report, children)
    entries = read_json(stages.report.folder / "report.json")["targets"]["iris"]["members"]
    for entry in entries:
        scores = client.get_run(children[entry["name"]]).data.metrics
        assert scores["test/iris/log_loss"] == entry["metrics"]["log_loss"]["value"]


def test_a_reused_member_names_the_run_that_trained_it(stages: Any, client: Any) -> None:
    first = track_member.fn(stages.plan, stages.run, stages.members[0])
    member = stages.members[0]
    reused = MemberRecord(member.name, member.keys, member.folders, 0)
    tracker = tracker_of(Planned.open(stages.plan.folder))
    parent = tracker.start("iris", "train", "another run")
    run = client.get_run(track_member.fn(stages.plan, type(stages.run)(parent, "iris"), reused))
    assert run.data.tags["fuseline.status"] == "reused"
    assert run.data.tags["fuseline.origin"] == first


def test_every_rule_is_a_child_with_cross_fitted_losses(stages: Any, client: Any) -> None:
    track_fusions.fn(stages.plan, stages.run, stages.report)
    part = read_json(stages.report.folder / "report.json")["targets"]["iris"]
    found = client.search_runs(
        [client.get_run(stages.run.run_id).info.experiment_id], "tags.`fuseline.kind` = 'fusion'"
    )  # fmt: skip
    runs = {run.data.params["rule"]: run for run in found}
    assert set(runs) == {"mean", "stacking"}
    for name, run in runs.items():
        assert run.data.metrics["cross_fit/iris/loss"] == part["comparison"]["rules"][name]["loss"]
        assert run.data.tags.get("fuseline.chosen_for", "") == ("iris" if part["chosen"] == name else "")


def test_pictures_are_drawn_once(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []

    def draw(report: Any, curves: Any, folder: Path) -> None:
        drawn.append(folder)
        assert {name: [len(c) for c in replicas] for name, replicas in curves.items()} == {"plain": [2, 2], "held": [2, 2]}
        (folder / "a.png").write_bytes(b"a")

    monkeypatch.setattr(plots, "draw_all", draw)
    first = _pictures(stages.members, stages.report)
    assert _pictures(stages.members, stages.report) == first
    assert len(drawn) == 1


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_ends_badly_says_why_and_is_continued_later(stages: Any, client: Any, status: str) -> None:
    fail_run(stages.plan, stages.run, "the disk is full", status)
    run = client.get_run(stages.run.run_id)
    assert (run.info.status, run.data.tags["fuseline.reason"]) == (status, "the disk is full")
    assert start_run.fn(stages.plan).run_id == stages.run.run_id
