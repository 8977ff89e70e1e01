"""The real command: one run in a process of its own, and what later runs reuse."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

METRICS = [
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "mcc",
    "roc_auc",
    "log_loss",
    "brier",
    "ece",
]
VALUES = ["rmse", "mae", "r2", "nll", "crps", "coverage_90"]
STAGES = {"plan", "track", "train", "bank", "fuse", "evaluate", "package", "register", "promote"}
COUNTS = ("trained", "reused", "failed", "refused")
OUTCOMES = ("promotion", "promotion_reason", "plan", "report")
KEYS = {"run_id", "recipe", "members", "candidates", "best", "registered", "tracking", "timing", *COUNTS, *OUTCOMES}


def of_home(home: Path) -> list[psutil.Process]:
    """The processes that work in a home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FUSELINE_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


# ---------------------------------------------------------------------------------------------------- the first run


def test_the_command_succeeds_and_prints_the_summary_alone(first_run: Any) -> None:
    assert first_run.finished.code == 0, first_run.finished.err
    assert len(first_run.finished.out.splitlines()) == 1
    assert set(json.loads(first_run.finished.out)) == KEYS


def check_scores(metrics: dict[str, Any], names: list[str]) -> None:
    assert list(metrics) == names
    for score in metrics.values():
        assert set(score) == {"value", "low", "high"}
        assert score["low"] <= score["high"]


def test_the_summary_has_the_form_promised(first_run: Any) -> None:
    summary = first_run.summary
    assert summary["recipe"] == "wine"
    assert re.fullmatch(r"[0-9a-f]{32}", summary["run_id"])
    assert [(m["name"], m["status"]) for m in summary["members"]] == [("linear", "trained"), ("mlp", "trained")]
    assert [c["rule"] for c in summary["candidates"]] == ["mean", "vote", "weights", "greedy", "stacking"]
    for entry in summary["members"]:
        assert set(entry) == {"name", "status", "metrics"}
        assert set(entry["metrics"]) == {"wine"}
        check_scores(entry["metrics"]["wine"], METRICS)
    for entry in summary["candidates"]:
        assert set(entry) == {"rule", "metrics"}
        check_scores(entry["metrics"]["wine"], METRICS)
    assert list(summary["best"]) == ["wine"]
    assert summary["best"]["wine"] in [c["rule"] for c in summary["candidates"]]
    assert summary["registered"] == {"name": "wine", "version": 1, "aliases": ["challenger", "champion"]}
    assert set(summary["timing"]) == STAGES
    assert all(seconds >= 0 for seconds in summary["timing"].values())
    assert (summary["trained"], summary["reused"]) == (2, 0)


def test_the_ensemble_has_learnt_something(first_run: Any) -> None:
    best = next(c for c in first_run.summary["candidates"] if c["rule"] == first_run.summary["best"]["wine"])
    assert best["metrics"]["wine"]["accuracy"]["low"] > 0.4  # the largest class is 0.4 of all


def test_nothing_that_the_run_started_is_left(first_run: Any, until: Callable[..., Any], plain: Callable[[str], str]) -> None:
    until(lambda: not of_home(first_run.home), "every process of the run has ended", 30)
    page = re.search(r"http://127\.0\.0\.1:(\d+)", plain(first_run.finished.err))
    assert page is not None, "the command says where Prefect's page was"
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(page[1])), 5):
        pass


def test_messages_hold_no_traceback_and_no_warning(first_run: Any) -> None:
    assert "Traceback" not in first_run.finished.err
    assert "Warning" not in first_run.finished.err


def test_a_run_writes_into_its_home_alone(first_run: Any) -> None:
    assert {path.name for path in first_run.folder.iterdir()} == {"recipe.yaml", "home"}


def test_the_command_itself_needs_nothing_that_computes(first_run: Any) -> None:
    """What plans, trains, fuses, judges, packages and draws is loaded once, in the server that processes are forked from."""
    assert "flows.train" in first_run.modules
    assert first_run.modules.isdisjoint({"torch", "torchvision", "sklearn", "matplotlib"})


# --------------------------------------------------------------------------------------------------- runs after it


def test_a_second_run_trains_nothing(second_run: Any, first_run: Any) -> None:
    done, before, after = second_run
    assert [m["status"] for m in done.summary["members"]] == ["reused", "reused"]
    assert (done.summary["trained"], done.summary["reused"]) == (0, 2)
    assert len(before) == 6
    assert after == before


def test_a_second_run_says_the_same_numbers_in_a_run_of_its_own(second_run: Any, first_run: Any) -> None:
    done, _, _ = second_run
    assert done.summary["candidates"] == first_run.summary["candidates"]
    assert [m["metrics"] for m in done.summary["members"]] == [m["metrics"] for m in first_run.summary["members"]]
    assert done.summary["run_id"] != first_run.summary["run_id"]


ALONE = """
import json, sys
from typer.testing import CliRunner
from flows.cli import app
result = CliRunner().invoke(app, sys.argv[1:])
print(json.dumps([result.exit_code, result.stdout, "torch" in sys.modules]))
"""


def test_a_run_in_which_everything_is_reused_never_loads_torch(
    first_run: Any, server: str, environment: Callable[..., dict[str, str]]
) -> None:
    """Without torch there is no tensor to work on."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "run", str(first_run.recipe), "--json"],
        env=environment(first_run.home, PREFECT_API_URL=server),
        cwd=first_run.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=400,
    )
    code, out, loaded = json.loads(done.stdout)
    assert (code, loaded) == (0, False), done.stderr
    summary = json.loads(out)
    assert (summary["trained"], summary["reused"], summary["candidates"]) == (0, 2, first_run.summary["candidates"])


def test_a_damaged_bank_is_made_again_and_nothing_is_trained(
    first_run: Any, second_run: Any, commands: Callable[..., Any]
) -> None:
    """The short way is gone only where every entry is whole."""
    files = list((first_run.store / "bank").glob("[!.]*/bank.json"))
    before = [file.read_text() for file in files]
    for file in files:
        file.write_text("{}")
    again = commands("run", first_run.recipe, "--json", home=first_run.home).summary
    assert (again["trained"], again["reused"]) == (0, 2)
    assert again["candidates"] == first_run.summary["candidates"]
    assert any(file.read_text() == text for file, text in zip(files, before, strict=True))


def test_a_second_run_registers_no_new_version(second_run: Any, first_run: Any, tracked: Callable[..., Any]) -> None:
    done, _, _ = second_run
    assert done.summary["registered"] == first_run.summary["registered"]


def test_a_changed_fusion_trains_nothing(
    first_run: Any, second_run: Any, commands: Callable[..., Any], replicas: Callable[..., dict[str, int]]
) -> None:
    before = replicas(first_run.home)
    done = commands("run", first_run.recipe, "--json", "--set", "fusion.rules=[vote, greedy]", home=first_run.home)
    assert [c["rule"] for c in done.summary["candidates"]] == ["vote", "greedy"]
    assert (done.summary["trained"], done.summary["reused"]) == (0, 2)
    assert replicas(first_run.home) == before


@pytest.mark.parametrize("partition", ["bootstrap", "kfold"])
def test_one_more_member_trains_one(
    partition: str, request: pytest.FixtureRequest, commands: Callable[..., Any], replicas: Callable[..., dict[str, int]]
) -> None:
    base = request.getfixturevalue({"bootstrap": "bootstrap_run", "kfold": "first_run"}[partition])
    position, folds = (1, 3) if partition == "kfold" else (0, 1)
    earlier = [m["name"] for m in base.summary["members"]]
    before = replicas(base.home)
    assert len(before) == folds * len(earlier)
    more = commands("run", base.recipe, "--json", "--set", f"members.{position}.count=2", home=base.home).summary
    names = [*earlier[:-1], f"{earlier[-1]}-1", f"{earlier[-1]}-2"]
    assert [(m["name"], m["status"]) for m in more["members"]] == [*((n, "reused") for n in names[:-1]), (names[-1], "trained")]
    assert (more["trained"], more["reused"]) == (1, len(earlier))
    after = replicas(base.home)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + folds
    assert more["registered"]["version"] > base.summary["registered"]["version"]


def test_a_run_of_mixed_targets_leaves_out_rules_unfit_for_a_kind(mixed_run: Any) -> None:
    summary = mixed_run.summary
    metrics = {c["rule"]: c["metrics"] for c in summary["candidates"]}
    assert {rule: list(part) for rule, part in metrics.items()} == {
        "mean": ["kind"],
        "features": ["kind"],
        "weights": ["size"],
        "stacking": ["size"],
    }
    check_scores(metrics["mean"]["kind"], METRICS)
    check_scores(metrics["stacking"]["size"], VALUES)
    for member in summary["members"]:
        check_scores(member["metrics"]["kind"], METRICS)
        check_scores(member["metrics"]["size"], VALUES)
    assert list(summary["best"]) == ["kind", "size"]


# ------------------------------------------------------------------------------------------ Prefect's view of a run


def flow_runs(ask: Callable[..., Any], name: str) -> list[Any]:
    found: list[Any] = ask("flow_runs/filter", flow_runs={"name": {"any_": [name]}}, sort="EXPECTED_START_TIME_ASC")
    return found


def task_states(ask: Callable[..., Any], flow_run: str) -> dict[str, str]:
    found = ask("task_runs/filter", task_runs={"flow_run_id": {"any_": [flow_run]}})
    return {task["name"]: task["state_name"] for task in found}


def test_a_configured_server_is_used_and_no_other_started(mixed_run: Any, ask: Callable[..., Any]) -> None:
    assert mixed_run.summary
    assert not (mixed_run.home / "prefect-server.log").exists()
    assert flow_runs(ask, "mixed")[0]["state_name"] == "Completed"


def test_every_member_is_a_task_with_a_progress_artifact(mixed_run: Any, ask: Callable[..., Any]) -> None:
    flow_run, *_ = flow_runs(ask, "mixed")
    states = task_states(ask, flow_run["id"])
    assert states["train mlp"] == "Completed"
    assert set(states.values()) == {"Completed"}
    progress = ask("artifacts/filter", artifacts={"flow_run_id": {"any_": [flow_run["id"]]}, "type": {"any_": ["progress"]}})
    assert [(a["key"], a["data"]) for a in progress] == [("train-mlp", 100.0)]


def test_reused_members_end_as_reused(second_run: Any, ask: Callable[..., Any]) -> None:
    _, flow_run, *_ = flow_runs(ask, "wine")  # the first one is first_run: its own server kept the same database
    members = {name: state for name, state in task_states(ask, flow_run["id"]).items() if name.startswith("train ")}
    assert members == {"train linear": "Reused", "train mlp": "Reused"}


# --------------------------------------------------------------------------------------------- the other commands


def test_check_prints_the_plan_and_trains_nothing(
    tmp_path: Path, commands: Callable[..., Any], recipe_file: Callable[..., Path]
) -> None:
    home = tmp_path / "home"
    recipe = recipe_file(tmp_path)
    done = commands("check", recipe, home=home)
    assert done.code == 0, done.err
    for words in ("178 rows", "calibration", "kfold", "linear", "mlp", "class_0", "overlap"):
        assert words in done.out
    assert not (home / "mlflow.db").exists()
    assert not (home / "store" / "replica").exists()


def test_check_as_json_says_rows_members_overlap_and_cost(
    tmp_path: Path, commands: Callable[..., Any], recipe_file: Callable[..., Path]
) -> None:
    plan = commands("check", recipe_file(tmp_path), "--json", home=tmp_path / "home").summary
    assert plan["rows"] == 178
    assert sum(role["rows"] for role in plan["roles"].values()) + plan["excluded"] == 178
    assert list(plan["members"]) == list(plan["rough_seconds"]) == ["linear", "mlp"]
    assert [row[i] for i, row in enumerate(plan["overlap"])] == [1, 1]
    assert plan["members"]["linear"]["parameters"] == 2 * 13 * 3 + 3
    assert all(cost > 0 for cost in plan["rough_seconds"].values())


def test_the_leaderboard_lists_finished_runs_newest_first(first_run: Any, second_run: Any, commands: Callable[..., Any]) -> None:
    runs = commands("leaderboard", "--json", home=first_run.home).summary
    ids = [run["run_id"] for run in runs]
    assert ids.index(second_run[0].summary["run_id"]) < ids.index(first_run.summary["run_id"])
    first = runs[ids.index(first_run.summary["run_id"])]
    assert (first["recipe"], first["version"]) == ("wine", "wine/1")
    best = next(c for c in first_run.summary["candidates"] if c["rule"] == first_run.summary["best"]["wine"])
    assert first["targets"]["wine"]["rule"] == best["rule"]
    assert first["targets"]["wine"]["metrics"]["log_loss"] == pytest.approx(best["metrics"]["wine"]["log_loss"])


def test_the_leaderboard_of_another_recipe_is_empty(first_run: Any, commands: Callable[..., Any]) -> None:
    assert commands("leaderboard", "nobody", "--json", home=first_run.home).summary == []
