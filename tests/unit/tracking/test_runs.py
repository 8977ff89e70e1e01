"""Runs by explicit ids, against a real MLflow database."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline.tracking.runs import Tracker
from fuseline.tracking.settings import load_settings


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    home = tmp_path_factory.mktemp("tracking") / "home"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
        patch.setenv("FUSELINE_HOME", str(home))
        patch.chdir(home.parent)
        yield Tracker(load_settings(), "experiment")


def test_an_unfinished_run_is_continued_as_the_next_attempt(tracker: Tracker) -> None:
    first = tracker.start("name", "train", "unfinished")
    assert tracker.start("name", "train", "unfinished") == first
    tracker.finish(first, "FAILED")
    assert tracker.start("name", "train", "unfinished") == first
    run = tracker.client.get_run(first)
    assert (run.info.status, run.data.tags["fuseline.attempt"]) == ("RUNNING", "3")


def test_a_finished_run_is_never_opened_again(tracker: Tracker) -> None:
    first = tracker.start("name", "train", "finished")
    tracker.finish(first)
    before = tracker.client.get_run(first).to_dictionary()
    second = tracker.start("name", "train", "finished")
    assert second != first
    assert tracker.client.get_run(first).to_dictionary() == before


@pytest.mark.parametrize("other", [("train", "b", None), ("flow", "a", None), ("train", "a", "parent")])
def test_a_run_of_another_kind_key_or_parent_is_another_run(tracker: Tracker, other: tuple[str, str, str | None]) -> None:
    first = tracker.start("name", "train", "a")
    kind, key, parent = other
    assert tracker.start("name", kind, key, parent) != first


def test_a_child_names_its_parent_and_the_origin_is_the_first_that_finished(tracker: Tracker) -> None:
    one, two = (tracker.start("run", "train", f"parent-{i}") for i in range(2))
    assert tracker.origin("member", "m") is None
    trained = tracker.start("mlp", "member", "m", one)
    assert tracker.client.get_run(trained).data.tags["mlflow.parentRunId"] == one
    assert tracker.origin("member", "m") is None  # it has not finished yet
    tracker.finish(trained)
    again = tracker.start("mlp", "member", "m", two)
    assert again != trained
    assert tracker.origin("member", "m") == trained
    tracker.finish(again)
    assert tracker.origin("member", "m") == trained


def test_points_sent_twice_stand_there_once(tracker: Tracker) -> None:
    run = tracker.start("name", "train", "points")
    points = [("loss", 1.0 / step, 1000 + step, step) for step in range(1, 1501)]  # more than one batch
    tracker.log(run, points=points)
    tracker.log(run, points=points)
    history = tracker.client.get_metric_history(run, "loss")
    assert [(p.step, p.value, p.timestamp) for p in history] == [(s, v, t) for _, v, t, s in points]


def test_what_is_not_finite_is_left_out(tracker: Tracker) -> None:
    run = tracker.start("name", "train", "finite")
    tracker.log(run, metrics={"good": 1.0, "nan": math.nan, "high": math.inf, "low": -math.inf})
    assert tracker.client.get_run(run).data.metrics == {"good": 1.0}


def test_parameters_of_an_earlier_attempt_may_be_sent_again(tracker: Tracker) -> None:
    run = tracker.start("name", "train", "params")
    tree = {"members": [{"name": "a", "epochs": 3}], "wide": {str(i): i for i in range(150)}, "long": "x" * 9000}
    for _ in range(2):
        tracker.log(run, tree)
    params = tracker.client.get_run(run).data.params
    assert params["members.0.epochs"] == "3"
    assert params["wide.149"] == "149"
    assert len(params["long"]) == 6000


def test_files_lie_under_the_home(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.start("name", "train", "files")
    (tmp_path / "a.txt").write_text("a")
    tracker.files(run, tmp_path, "under")
    place = Path(tracker.client.get_run(run).info.artifact_uri)
    assert (place / "under" / "a.txt").read_text() == "a"
    assert "home" in place.parts


def test_a_second_tracker_finds_the_same_experiment(tracker: Tracker) -> None:
    experiment = tracker.client.get_experiment(tracker.experiment)
    assert experiment.name == "experiment"
    assert "artifacts" in experiment.artifact_location
