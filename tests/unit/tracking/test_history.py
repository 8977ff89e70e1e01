"""Past runs, read from a real MLflow database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuseline.tracking.history import past_runs
from fuseline.tracking.runs import Tracker
from fuseline.tracking.settings import Server, Settings
from fuseline.tracking.tags import KEY, KIND, RECIPE

HOUR = 3_600_000


@pytest.fixture(scope="module")
def history(common_tracker: Tracker) -> Callable[..., list[dict[str, Any]]]:
    """Five training runs of two recipes, one an hour, made in no order, and some that are no history."""
    client = common_tracker.client
    elsewhere = client.create_experiment("history elsewhere")

    def run(hour: int, recipe: str, kind: str = "train", status: str = "FINISHED", experiment: str = elsewhere) -> None:
        tags = {KIND: kind, KEY: f"history {hour}", RECIPE: recipe, "fuseline.version": f"{recipe}/{hour}"}
        tags["fuseline.best.kind"] = "mean"
        made = client.create_run(experiment, start_time=hour * HOUR, tags=tags).info.run_id
        scores = {"test/kind/accuracy": 0.9, "test/kind/accuracy_low": 0.8, "test/kind/accuracy_high": 0.95}
        others = {"test/size/rmse": 2.0, "gain/kind/accuracy": 0.1, "members_failed": 1, "members_trained": 2}
        for name, value in (scores | others).items():
            client.log_metric(made, name, value)
        client.set_terminated(made, status)

    for hour in (3, 1, 5):
        run(hour, "tea")
    run(4, "coffee")
    run(2, "coffee", experiment=common_tracker.experiment)
    run(6, "tea", status="FAILED")
    run(7, "tea", kind="member")
    settings = Settings(server=Server(mlflow_tracking_uri=client.tracking_uri))
    return lambda recipe=None, most=10: past_runs(settings, recipe, most)


def hours(lines: list[dict[str, Any]]) -> list[int]:
    return [int(line["version"].split("/")[1]) for line in lines if line["started"].startswith("1970")]


def test_finished_training_runs_of_every_experiment_stand_there_newest_first(history: Callable[..., Any]) -> None:
    assert hours(history()) == [5, 4, 3, 2, 1]


def test_one_recipe_alone(history: Callable[..., Any]) -> None:
    assert hours(history("tea")) == [5, 3, 1]
    assert {line["recipe"] for line in history("coffee")} == {"coffee"}
    assert history("cocoa") == []


def test_no_more_than_asked_for(history: Callable[..., Any]) -> None:
    assert hours(history("tea", 2)) == [5, 3]


@pytest.mark.parametrize("name", ["it's", "' or 'a' = 'a", "%"])
def test_a_name_with_signs_of_the_query_finds_nothing(history: Callable[..., Any], name: str) -> None:
    assert history(name) == []


def test_a_line_says_when_and_per_target_the_rule_and_the_scores(history: Callable[..., Any]) -> None:
    line = history("coffee", 1)[0]
    assert (line["recipe"], line["started"], line["version"]) == ("coffee", "1970-01-01 04:00", "coffee/4")
    assert line["members"] == {"trained": 2, "reused": 0, "failed": 1}
    assert line["targets"] == {
        "kind": {"rule": "mean", "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}},
        "size": {"rule": "", "metrics": {"rmse": {"value": 2.0, "low": None, "high": None}}},
    }
