"""The whole life of a model on real servers: nights that come by themselves, challengers, promotion, tampering, rollback, use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.servers import Servers, until


def aliases(servers: Servers) -> dict[str, int]:
    """Which version each alias of the model names."""
    model = servers.ask_mlflow("registered-models/get", name="night")["registered_model"]
    return {its["alias"]: int(its["version"]) for its in model.get("aliases", [])}


def test_the_night_came_by_itself(night: Any, servers: Servers) -> None:
    assert night.auto_scheduled
    assert night.state.is_completed(), night.state
    assert night.parameters["recipe"]["name"] == "night"
    assert night.parameters["recipe"]["data"]["source"]["settings"]["path"] == str(servers.folder / "table.csv")


def test_its_run_and_its_model_are_known_to_mlflow(night: Any, servers: Servers) -> None:
    runs = servers.runs("night")
    parent = next(run for run in runs if run["info"]["run_name"] == "night")
    children = {run["info"]["run_name"] for run in runs if "mlflow.parentRunId" in {tag["key"] for tag in run["data"]["tags"]}}
    assert parent["info"]["status"] == "FINISHED"
    assert {"north", "south", "fusion mean"} <= children
    assert aliases(servers)["champion"] == 1


def test_a_schedule_that_is_taken_away_comes_no_more(night: Any, servers: Servers) -> None:
    with servers.prefect_client() as client:
        assert client.read_deployment_by_name("train/night").schedules == []


@pytest.fixture(scope="session")
def loser(night: Any, servers: Servers, night_recipe: Callable[..., Path]) -> Any:
    """A challenger that is no better."""
    return servers.told("run", night_recipe("loser.yaml", seed=7))["registered"]


def test_a_challenger_that_is_no_better_is_kept_out(loser: Any, servers: Servers) -> None:
    assert int(loser["version"]) == 2
    done = servers.command("promote", "night", "2", "--json")
    assert done.returncode == 1, done.stderr
    assert '"kept"' in done.stdout
    assert aliases(servers)["champion"] == 1


@pytest.fixture(scope="session")
def winner(loser: Any, servers: Servers, night_recipe: Callable[..., Path]) -> Any:
    """A challenger that is far better."""
    return servers.told("run", night_recipe("winner.yaml", epochs=12))["registered"]


@pytest.fixture(scope="session")
def promoted(winner: Any, servers: Servers) -> Any:
    return servers.told("promote", "night", winner["version"])


def test_a_better_challenger_becomes_the_champion(promoted: Any, winner: Any, servers: Servers) -> None:
    assert promoted["state"] == "promoted", promoted
    assert aliases(servers)["champion"] == int(winner["version"])
    assert aliases(servers)["previous"] == 1


def test_the_promotion_went_through_the_teams_deployment(promoted: Any, servers: Servers) -> None:
    runs = servers.flow_runs("promote/on-demand")
    assert runs
    assert {run.state.type.value for run in runs} == {"COMPLETED"}


@pytest.fixture
def tampered(promoted: Any, winner: Any, servers: Servers) -> Iterator[Path]:
    """One bit of the champion's weights, flipped where the server keeps them."""
    version = servers.ask_mlflow("model-versions/get", name="night", version=winner["version"])["model_version"]
    (file,) = [
        file for file in servers.home.rglob("weights.safetensors") if version["source"].rpartition("/")[2] in str(file.parent)
    ]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    yield file
    file.write_bytes(whole)


def test_a_champion_that_was_tampered_with_is_refused(tampered: Path, servers: Servers) -> None:
    out = servers.folder / "tampered.parquet"
    done = servers.command("predict", "night@champion", "--data", "new.csv", "--out", out)
    assert done.returncode != 0
    assert "weights.safetensors" in done.stderr, done.stderr
    assert not out.exists()


def test_the_champion_answers_new_rows(promoted: Any, servers: Servers) -> None:
    done = servers.told("predict", "night@champion", "--data", "new.csv", "--out", "answers.parquet")
    answers = pd.read_parquet(servers.folder / "answers.parquet")
    assert (done["rows"], len(answers)) == (60, 60)
    truth = pd.read_csv(servers.folder / "labelled.csv").kind
    assert (answers["kind"].to_numpy() == truth.to_numpy()).mean() > 0.75


def test_rows_that_have_drifted_start_a_training_by_themselves(promoted: Any, servers: Servers) -> None:
    report = servers.told("evaluate", "night@champion", "--data", "moved.csv")
    assert "fuseline.drift" in report["events"]

    def ended() -> Any:
        runs = [run for run in servers.flow_runs("train/night") if not run.auto_scheduled]
        return next((run for run in runs if run.state.is_final()), None)

    assert until(ended, "the automation has trained").state.is_completed()


def test_the_previous_champion_comes_back(promoted: Any, winner: Any, servers: Servers) -> None:
    servers.told("rollback", "night", "--reason", "a test")
    assert aliases(servers)["champion"] == 1
    events = servers.told("history", "night")
    assert any("a test" in str(event) for event in events)
