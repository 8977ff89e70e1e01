"""Runs in MLflow by explicit ids, against a real database: every call can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException

from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import PackageError, ProcessDied, UserError
from fuseline.tracking.records import Data, Start
from fuseline.tracking.runs import Tracker, is_for_ever
from fuseline.tracking.settings import load_settings
from tests.unit.tracking.known import file_paths

SCHEMA = Schema(numeric=["x"], categorical={"c": ["a"]}, targets={"kind": TargetSchema(kind="regression")})


@pytest.fixture
def tracker(common_tracker: Tracker) -> Tracker:
    return common_tracker


def start(
    tracker: Tracker,
    own: str,
    kind: str = "train",
    key: str = "key",
    parent: str | None = None,
    sent: bool = False,
    at: int = 1000,
) -> str:
    return tracker.start(own, Start(name="name", kind=kind, key=key), parent, {"color": "red"}, at, sent)


def test_a_run_begins_at_its_own_time_and_says_what_it_is(tracker: Tracker) -> None:
    parent = start(tracker, "begins")
    child = start(tracker, "begins, too", "member", parent=parent)
    run = tracker.client.get_run(child)
    assert (run.info.status, run.info.start_time, run.info.run_name) == ("RUNNING", 1000, "name")
    tags = {name: run.data.tags[name] for name in ("fuseline.id", "fuseline.kind", "fuseline.key", "color", "mlflow.parentRunId")}
    assert list(tags.values()) == ["begins, too", "member", "key", "red", parent]
    assert "mlflow.parentRunId" not in tracker.client.get_run(parent).data.tags


def test_a_run_that_was_sent_before_is_found_by_its_own_id(tracker: Tracker) -> None:
    first = start(tracker, "sent")
    assert start(tracker, "sent", sent=True) == first
    assert start(tracker, "never sent", sent=True) != first


def test_a_run_ends_at_its_own_time_and_may_go_on(tracker: Tracker) -> None:
    run = start(tracker, "goes on")
    tracker.log(run, tags={"fuseline.reason": "why"})
    for _ in range(2):
        tracker.end(run, "KILLED", 2000)
    ended = tracker.client.get_run(run)
    assert (ended.info.status, ended.info.end_time) == ("KILLED", 2000)
    for _ in range(2):
        tracker.go_on(run, ["fuseline.reason", "not there"])
    again = tracker.client.get_run(run)
    assert again.info.status == "RUNNING"
    assert "fuseline.reason" not in again.data.tags


def test_points_sent_twice_stand_there_once(tracker: Tracker) -> None:
    run = start(tracker, "points")
    points = [("loss", 1.0 / step, 1000 + step, step) for step in range(1, 1501)]  # more than one batch
    tracker.log(run, points=points[:700])
    tracker.log(run, points=points)
    history = tracker.client.get_metric_history(run, "loss")
    assert [(p.step, p.value, p.timestamp) for p in history] == [(s, v, t) for _, v, t, s in points]


def test_parameters_may_be_sent_again_and_not_be_changed(tracker: Tracker) -> None:
    run = start(tracker, "params")
    many = {f"wide.{i}": str(i) for i in range(150)}
    for _ in range(2):
        tracker.log(run, many)
    assert tracker.client.get_run(run).data.params == many
    with pytest.raises(MlflowException) as caught:
        tracker.log(run, {"wide.3": "4"})
    assert is_for_ever(caught.value)


def test_data_sent_twice_are_one_input(tracker: Tracker) -> None:
    run = start(tracker, "data")
    for _ in range(2):
        tracker.data(run, Data(name="wine", digest="d1", origin="elsewhere", schema_=SCHEMA))
    (given,) = tracker.client.get_run(run).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("wine", "d1")
    assert "elsewhere" in given.dataset.source


def test_files_lie_under_the_home(tracker: Tracker, tmp_path: Path) -> None:
    run = start(tracker, "files")
    (tmp_path / "a.txt").write_text("a")
    for _ in range(2):
        tracker.files(run, tmp_path, "under")
    place = Path(tracker.client.get_run(run).info.artifact_uri)
    assert file_paths(tracker.client, run) == {"under/a.txt"}
    assert tracker.home in place.parents


def test_the_origin_is_the_first_that_finished(tracker: Tracker) -> None:
    one, two = start(tracker, "origin 1", key="o"), start(tracker, "origin 2", key="o")
    assert tracker.origin("member", "origin") is None
    trained = start(tracker, "trained", "member", "origin", one, at=1000)
    assert tracker.origin("member", "origin") is None  # it has not finished yet
    tracker.end(trained, "FINISHED", 2000)
    again = start(tracker, "reused", "member", "origin", two, at=3000)
    tracker.end(again, "FINISHED", 3000)
    assert tracker.origin("member", "origin") == trained


def test_a_second_tracker_finds_the_same_experiment(tracker: Tracker) -> None:
    second = Tracker(load_settings(), "experiment", tracker.home)
    assert second.experiment == tracker.experiment
    experiment = tracker.client.get_experiment(tracker.experiment)
    assert experiment.name == "experiment"
    assert "artifacts" in experiment.artifact_location


def test_a_deleted_experiment_is_named(tracker: Tracker) -> None:
    other = Tracker(load_settings(), "deleted", tracker.home)
    other.check()
    tracker.client.delete_experiment(other.experiment)
    with pytest.raises(UserError, match="'deleted' was deleted; restore it"):
        other.check()
    with pytest.raises(UserError, match="'deleted' was deleted; restore it"):
        Tracker(load_settings(), "deleted", tracker.home)


def rejected(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def answered(code: str) -> MlflowException:
    from mlflow.protos.databricks_pb2 import ErrorCode

    return MlflowException(code, error_code=ErrorCode.Value(code))


@pytest.mark.parametrize(
    ("error", "for_ever"),
    [
        *((answered(code), True) for code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")),
        *((answered(code), False) for code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")),
        *((answered(code), False) for code in ("PERMISSION_DENIED", "UNAUTHENTICATED")),
        (rejected(413), True),
        (rejected(503), False),
        (rejected(401), False),
        (requests.ConnectionError("refused"), False),
        (FileNotFoundError("gone"), True),
        (OSError(28, "no room"), False),
        (UserError("the experiment was deleted"), False),
        (PackageError("damaged"), True),
        (ProcessDied("save_model: its process was killed by SIGKILL"), False),
        (MemoryError(), False),
        (EOFError(), False),
        (TypeError("a mistake"), True),
    ],
    ids=lambda value: f"{type(value).__name__} {value}"[:40] if isinstance(value, Exception) else "",
)
def test_what_is_at_fault(error: Any, for_ever: bool) -> None:
    assert is_for_ever(error) is for_ever
