"""Packaging and registering: what the task makes of report and recipe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fuseline.planned import Planned
from fuseline.report.summary import winner
from fuseline.store import read_json
from fuseline.tracking.spool import opened, read
from tasks import package as package_tasks
from tasks.package import package, register_version, unmet_floors
from tasks.records import StageRecord


@pytest.fixture
def registered(stages: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the task with some report and floors, and give the version that it asks for."""

    def go(report: StageRecord, floors: dict[str, Any]) -> Any:
        plan = Planned.open(stages.plan.folder)
        recipe = plan.recipe.model_copy(update={"registry": plan.recipe.registry.model_copy(update={"floors": floors})})
        changed = Planned(**(vars(plan) | {"recipe": recipe}))
        monkeypatch.setattr(package_tasks.Planned, "open", lambda folder: changed)
        spool = opened(stages.run.run_id)
        monkeypatch.setattr(spool, "_labels", set())
        register_version.fn(stages.plan, stages.run, report, stages.package, unmet_floors(stages.plan, report))
        *_, (said, _) = read(spool.folder)
        assert said is not None
        assert said.run == stages.run.run_id
        return said.version

    return go


def test_the_same_package_is_found_again(stages: Any) -> None:
    assert not stages.package.reused
    assert package.fn(stages.plan, stages.bank, stages.fused) == StageRecord(stages.package.folder, True)


def test_a_version_that_clears_its_floors_says_so_and_its_scores(stages: Any, registered: Any) -> None:
    given = registered(stages.report, {"iris": {"accuracy": 0.0}})
    scores = winner(read_json(stages.report.folder / "report.json"), "iris")["metrics"]
    assert given.tags.pop("fuseline.plan") == stages.plan.key
    assert given.tags.pop("recipe") == "iris"
    assert given.tags.pop("floors") == "cleared"
    assert given.tags == {f"test.iris.{name}": f"{score['value']:.6g}" for name, score in scores.items()}
    assert (given.name, given.package, given.plan) == ("flowers", str(stages.package.folder), str(stages.plan.folder))


def test_a_package_is_asked_for_once(stages: Any) -> None:
    spool = opened(stages.run.run_id)
    counts = []
    for _ in range(2):
        register_version.fn(stages.plan, stages.run, stages.report, stages.package, [])
        counts.append(len(list(read(spool.folder))))
    assert counts[0] == counts[1]


def test_one_below_a_floor_says_which(stages: Any, registered: Any) -> None:
    given = registered(stages.report, {"iris": {"accuracy": 1.5, "log_loss": 0.0}})
    assert given.tags["floors"].count("; ") == 1
    assert "iris: accuracy is" in given.tags["floors"]


def test_a_score_that_is_no_number_is_no_tag_and_clears_no_floor(stages: Any, registered: Any, tmp_path: Any) -> None:
    report = read_json(stages.report.folder / "report.json")
    for entry in report["targets"]["iris"]["candidates"]:
        entry["metrics"]["accuracy"]["value"] = float("nan")
    (tmp_path / "report.json").write_text(json.dumps(report))
    given = registered(StageRecord(tmp_path, False), {"iris": {"accuracy": 0.0}})
    assert "test.iris.accuracy" not in given.tags
    assert "test.iris.log_loss" in given.tags
