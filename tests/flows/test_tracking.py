"""What MLflow's database says of the runs, read by explicit address."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from ruamel.yaml import YAML

from fuseline.store import read_json
from fuseline.tracking.tags import tagged_entries

SLOW = """
name: slow
data:
  source: {sklearn: {name: wine}}
targets:
  wine: {kind: classification, column: target}
partition: {kfold: {folds: 3}}
members:
  - {name: mlp, architecture: {mlp: {hidden: [32]}}, epochs: 400, batch_size: 8, early_stopping: null}
fusion: {rules: [mean]}
evaluation: {resamples: 100}
"""


def artifacts(client: Any, run_id: str, path: str | None = None) -> set[str]:
    found = set()
    for file in client.list_artifacts(run_id, path):
        found |= artifacts(client, run_id, file.path) if file.is_dir else {file.path}
    return found


# Fixtures of the session: what they read must stand before later runs add to it.


@pytest.fixture(scope="session")
def parent(first_run: Any, tracked: Callable[..., Any]) -> Any:
    return tracked(first_run.home).get_run(first_run.summary["run_id"])


@pytest.fixture(scope="session")
def children(first_run: Any, runs_of: Callable[..., list[Any]]) -> dict[str, Any]:
    return {run.info.run_name: run for run in runs_of(first_run.home, parent=first_run.summary["run_id"])}


def test_the_parent_has_finished_and_says_what_it_is(parent: Any) -> None:
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "wine"
    tags = parent.data.tags
    assert (tags["fuseline.kind"], tags["fuseline.recipe"], tags["fuseline.attempt"]) == ("train", "wine", "1")
    assert tags["fuseline.version"] == "wine/1"
    assert "mlflow.parentRunId" not in tags


def test_every_member_and_every_rule_has_a_finished_child(children: dict[str, Any]) -> None:
    kinds = {name: run.data.tags["fuseline.kind"] for name, run in children.items()}
    rules = ("mean", "vote", "weights", "greedy", "stacking")
    assert kinds == {"linear": "member", "mlp": "member", **{f"fusion {rule}": "fusion" for rule in rules}}
    assert {run.info.status for run in children.values()} == {"FINISHED"}


def test_no_run_is_left_running(first_run: Any, runs_of: Callable[..., list[Any]]) -> None:
    assert "RUNNING" not in {run.info.status for run in runs_of(first_run.home)}


def test_parameters_hold_the_recipe_and_each_members_settings(parent: Any, children: dict[str, Any]) -> None:
    assert parent.data.params["members.0.name"] == "linear"
    assert parent.data.params["partition.kfold.folds"] == "3"
    assert parent.data.params["evaluation.level"] == "0.95"  # a default, written out
    assert children["mlp"].data.params["epochs"] == "6"
    assert children["mlp"].data.params["replicas"] == "3"
    assert children["fusion greedy"].data.params["rule"] == "greedy"


def test_test_metrics_are_those_of_the_summary(first_run: Any, parent: Any, children: dict[str, Any]) -> None:
    summary = first_run.summary
    best = next(c for c in summary["candidates"] if c["rule"] == summary["best"]["wine"])
    entries = [(parent, best), (children["linear"], summary["members"][0]), (children["fusion vote"], summary["candidates"][1])]
    for run, entry in entries:
        for name, score in entry["metrics"]["wine"].items():
            assert run.data.metrics[f"test/wine/{name}"] == pytest.approx(score["value"])
            assert run.data.metrics[f"test/wine/{name}_low"] == pytest.approx(score["low"])
            assert run.data.metrics[f"test/wine/{name}_high"] == pytest.approx(score["high"])
    assert (parent.data.metrics["members_trained"], parent.data.metrics["members_reused"]) == (2, 0)


def test_every_metric_is_a_finite_number(parent: Any, children: dict[str, Any]) -> None:
    for run in (parent, *children.values()):
        assert [n for n, v in run.data.metrics.items() if not math.isfinite(v) or abs(v) > 1e300] == []


@pytest.mark.parametrize(("member", "curves"), [("linear", {"loss", "rate"}), ("mlp", {"loss", "rate", "holdout_loss"})])
def test_learning_curves_have_each_epoch_once(
    first_run: Any, tracked: Callable[..., Any], children: dict[str, Any], member: str, curves: set[str]
) -> None:
    client, run = tracked(first_run.home), children[member]
    names = {f"replica_{k}/{curve}" for k in (1, 2, 3) for curve in curves}
    assert {name for name in run.data.metrics if name.startswith("replica_")} == names
    for name in names:
        history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda point: point.step)
        steps = [point.step for point in history]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == 6 or member == "mlp"
        times = [point.timestamp for point in history]
        assert times == sorted(times)


def test_the_data_set_is_logged_with_its_fingerprint(first_run: Any, parent: Any) -> None:
    (given,) = parent.inputs.dataset_inputs
    meta = next((first_run.store / "data").glob("[!.]*")) / "dataset.json"
    fingerprint = YAML(typ="safe").load(meta.read_text())["fingerprint"]
    assert fingerprint.startswith(given.dataset.digest)
    assert "wine" in given.dataset.source


def test_the_parent_keeps_plan_report_and_pictures(first_run: Any, tracked: Callable[..., Any], parent: Any) -> None:
    found = artifacts(tracked(first_run.home), parent.info.run_id)
    plan = {f"plan/{n}" for n in ("recipe.yaml", "environment.txt", "statistics.json", "split.parquet", "partition.parquet")}
    pictures = {f"pictures/{n}-wine.png" for n in ("leaderboard", "diversity", "confusion", "reliability")}
    assert found >= plan | pictures | {"pictures/learning_curves.png", "report.json", "summary.json"}


@pytest.fixture(scope="session")
def files(parent: Any) -> Path:
    return Path(parent.info.artifact_uri)


def test_the_recipe_kept_makes_the_same_plan(first_run: Any, files: Path) -> None:
    from fuseline.recipe import load_recipe

    assert load_recipe(files / "plan" / "recipe.yaml") == load_recipe(first_run.recipe)


def test_the_environment_kept_names_the_packages(files: Path) -> None:
    text = (files / "plan" / "environment.txt").read_text()
    for name in ("torch==", "mlflow==", "prefect==", "scikit-learn=="):
        assert f"\n{name}" in text


def test_the_split_and_the_partition_kept_belong_together(files: Path) -> None:
    split = pd.read_parquet(files / "plan" / "split.parquet").set_index("id").role
    shares = pd.read_parquet(files / "plan" / "partition.parquet")
    assert len(split) == 178
    assert set(shares.id.map(split)) == {"train"}
    judged = shares[shares.use == "judged"]
    for _, part in judged.groupby("member"):
        assert sorted(part.id) == sorted(split.index[split == "train"])


def test_pictures_are_pictures(files: Path) -> None:
    pictures = list((files / "pictures").glob("*.png"))
    assert len(pictures) == 5
    for picture in pictures:
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert picture.stat().st_size > 2000


def test_a_reused_member_links_to_the_run_that_trained_it(
    first_run: Any, second_run: Any, children: dict[str, Any], runs_of: Callable[..., list[Any]]
) -> None:
    again = second_run[0].summary["run_id"]
    reused = {run.info.run_name: run for run in runs_of(first_run.home, "member", parent=again)}
    assert set(reused) == {"linear", "mlp"}
    for name, run in reused.items():
        assert run.info.run_id != children[name].info.run_id
        assert run.data.tags["fuseline.status"] == "reused"
        assert run.data.tags["fuseline.origin"] == children[name].info.run_id
        assert "fuseline.origin" not in children[name].data.tags


def test_the_summary_kept_is_that_of_the_command(first_run: Any, files: Path) -> None:
    kept, said = read_json(files / "summary.json"), first_run.summary
    assert {**kept, "timing": None} == {**said, "timing": None}
    assert kept["timing"].keys() == said["timing"].keys()


def test_the_entries_that_a_run_is_made_of_stand_in_the_store(first_run: Any, parent: Any) -> None:
    entries = tagged_entries(parent.data.tags)
    assert {kind for kind, _ in entries} == {"plan", "data", "bank", "fusion", "report", "package", "pictures"}
    assert all((first_run.store / kind / key).is_dir() for kind, key in entries)
    assert entries[0] == ("plan", parent.data.tags["fuseline.key"])


def test_nothing_waits_when_all_was_delivered(first_run: Any, second_run: Any) -> None:
    assert first_run.summary["tracking"] == second_run[0].summary["tracking"] == "delivered"
    assert not (first_run.home / "spool" / "refused.jsonl").exists()


def test_a_finished_run_is_never_opened_again(first_run: Any, parent: Any, second_run: Any, tracked: Callable[..., Any]) -> None:
    again = second_run[0].summary["run_id"]
    assert again != parent.info.run_id
    now = tracked(first_run.home).get_run(parent.info.run_id)
    assert now.to_dictionary() == parent.to_dictionary()


# --------------------------------------------------------------------------------------------------- after a kill -9


@pytest.fixture(scope="session")
def killed(
    tmp_path_factory: pytest.TempPathFactory,
    recipe_file: Callable[..., Path],
    environment: Callable[..., dict[str, str]],
    server: str,
    until: Callable[..., Any],
    runs_of: Callable[..., list[Any]],
    fuseline_command: Path,
) -> tuple[Path, Path, Any, set[str]]:
    """A run killed in the middle of training: recipe, home, its run in MLflow, and the replicas it had finished."""
    folder = tmp_path_factory.mktemp("slow")
    recipe, home = recipe_file(folder, SLOW), folder / "home"
    process = subprocess.Popen(
        [fuseline_command, "run", recipe],
        env=environment(home, PREFECT_API_URL=server),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def finished() -> set[str]:
        return {place.name for place in (home / "store" / "replica").glob("[!.]*")}

    def is_known() -> bool:
        """Whether MLflow knows of the run, by its file alone: MLflow's client would make a database that is not there yet."""
        try:
            with closing(sqlite3.connect(f"file:{home / 'mlflow.db'}?mode=ro", uri=True)) as database:
                return bool(database.execute("select count(*) from runs").fetchone()[0])
        except sqlite3.OperationalError:
            return False

    ended = "the first replica is in the store, and MLflow knows of the run"
    until(lambda: (finished() and is_known()) or process.poll() is not None, ended, 300)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "a worker outlives the command"
    (run,) = runs_of(home, "train")
    return recipe, home, run, finished()


def test_a_killed_run_leaves_an_unfinished_one_behind(killed: tuple[Path, Path, Any, set[str]]) -> None:
    _, _, run, finished = killed
    assert run.info.status == "RUNNING"
    assert 1 <= len(finished) < 3


def test_a_dead_run_is_continued_and_its_finished_replicas_are_kept(
    killed: tuple[Path, Path, Any, set[str]],
    commands: Callable[..., Any],
    tracked: Callable[..., Any],
    runs_of: Callable[..., list[Any]],
) -> None:
    recipe, home, run, finished = killed
    before = {key: (home / "store" / "replica" / key).stat().st_mtime_ns for key in finished}
    summary = commands("run", recipe, "--json", home=home).summary
    assert (summary["run_id"], summary["tracking"]) == (run.info.run_id, "delivered")
    assert [m["status"] for m in summary["members"]] == ["trained"]
    assert {key: (home / "store" / "replica" / key).stat().st_mtime_ns for key in finished} == before
    assert len(list((home / "store" / "replica").glob("*"))) == 3
    (now,) = runs_of(home, "train")
    assert now.info.status == "FINISHED"
    assert now.data.tags["fuseline.attempt"] == "2"
    assert now.data.tags["fuseline.reason.1"] == "its process died"
    assert "fuseline.reason" not in now.data.tags
    assert {child.info.status for child in runs_of(home, parent=run.info.run_id)} == {"FINISHED"}
