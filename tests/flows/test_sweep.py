"""``fuseline sweep``: what is shared, what is compared and on what, who is chosen and registered, and who fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def swept(bootstrap_run: Any, commands: Callable[..., Any], replicas: Callable[..., Any]) -> Any:
    """A grid of two over the smallest recipe, of which one was run before, and over another one that has no time to train."""
    other = bootstrap_run.folder / "hopeless.yaml"
    text = bootstrap_run.recipe.read_text().replace("hidden: []", "hidden: [4]").replace("name: bootstrap\n", "name: hopeless\n")
    other.write_text(text + "training: {limits: {minutes: 0.0000001, retries: 0}}\n")
    before = set(replicas(bootstrap_run.home))
    arguments = (bootstrap_run.recipe, other, "--grid", "members.0.epochs=2,3", "--json")
    board = commands("sweep", *arguments, home=bootstrap_run.home).summary
    return board, len(set(replicas(bootstrap_run.home)) - before)


def test_what_is_the_same_is_trained_once(swept: Any) -> None:
    board, made = swept
    assert [its["label"] for its in board["candidates"]] == ["bootstrap members.0.epochs=2", "bootstrap members.0.epochs=3"]
    assert (board["trained"], board["reused"], made) == (1, 1, 1)


def test_a_candidate_that_fails_is_listed_and_ends_nothing(swept: Any) -> None:
    board, _ = swept
    assert [its["label"] for its in board["failed"]] == ["hopeless members.0.epochs=2", "hopeless members.0.epochs=3"]
    assert all("timed out" in its["reason"] for its in board["failed"])


def test_the_lowest_cross_fitted_loss_is_chosen_whatever_the_test_rows_say(swept: Any) -> None:
    [board] = swept[0]["leaderboards"]
    losses = [its["loss"]["iris"] for its in board["candidates"]]
    assert losses == sorted(losses)
    assert board["chosen"] == board["candidates"][0]["label"] == swept[0]["chosen"]


def test_intervals_are_wider_than_those_of_one_run(swept: Any, bootstrap_run: Any) -> None:
    [board] = swept[0]["leaderboards"]
    own = next(its for its in board["candidates"] if its["label"].endswith("=2"))["metrics"]["iris"]["accuracy"]
    alone = bootstrap_run.summary["candidates"][0]["metrics"]["iris"]["accuracy"]
    assert own["value"] == pytest.approx(alone["value"])
    assert own["low"] < alone["low"]
    assert board["rows"]["iris"] == len(np.load(bootstrap_run.reports()[0] / "rows-iris.npy"))


def test_the_chosen_one_alone_is_registered(swept: Any, runs_of: Callable[..., Any], bootstrap_run: Any, tracked: Any) -> None:
    version = swept[0]["registered"]
    assert version["name"] == "bootstrap"
    held = tracked(bootstrap_run.home).get_model_version("bootstrap", str(version["version"]))
    rows = {its["run_id"] for its in swept[0]["candidates"]}
    assert held.run_id not in rows or version["version"] == 1
    tagged = [run for run in runs_of(bootstrap_run.home, "train") if run.info.run_id in rows]
    assert len(tagged) == 2
    assert not any("fuseline.version" in run.data.tags for run in tagged)


def test_a_sweep_is_one_run_that_names_its_runs(swept: Any, runs_of: Callable[..., Any], bootstrap_run: Any) -> None:
    [run] = runs_of(bootstrap_run.home, "sweep")
    assert run.info.status == "FINISHED"
    assert run.data.tags["fuseline.runs"].split() == [its["run_id"] for its in swept[0]["candidates"]]
    assert (run.data.metrics["candidates"], run.data.metrics["failed"]) == (2, 2)


def test_the_runs_are_its_own_in_prefect(swept: Any, ask: Callable[..., Any]) -> None:
    [parent] = ask("flow_runs/filter", flow_runs={"name": {"any_": ["sweep bootstrap"]}})
    inner = ask("flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [parent["id"]]}})
    assert {run["name"] for run in inner} >= {"bootstrap", "hopeless"}


def test_one_wrong_candidate_keeps_all_from_being_trained(
    bootstrap_run: Any, commands: Callable[..., Any], replicas: Callable[..., Any]
) -> None:
    before = set(replicas(bootstrap_run.home))
    grid = ("--grid", "targets.iris.column=target,nothing", "--set", "members.0.epochs=4")
    done = commands("sweep", bootstrap_run.recipe, *grid, home=bootstrap_run.home)
    assert done.code == 2
    assert "1 of 2 candidates can't be trained, so that none is. bootstrap targets.iris.column=nothing:" in done.err
    assert "there is no column 'nothing'" in done.err
    assert set(replicas(bootstrap_run.home)) == before


def test_candidates_with_other_test_rows_are_not_compared(
    bootstrap_run: Any, commands: Callable[..., Any], tmp_path: Path
) -> None:
    done = commands("sweep", bootstrap_run.recipe, "--grid", "data.split.seed=0,1", "--json", home=bootstrap_run.home)
    board = json.loads(done.out)
    assert [len(its["candidates"]) for its in board["leaderboards"]] == [1, 1]
    assert (board["chosen"], board["registered"]) == (None, None)
