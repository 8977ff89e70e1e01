"""The recipes that come with fuseline, each cut down by overrides and run through the real command on its own small real data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fuseline.component import Component
from fuseline.fusion.rules import FUSIONS
from fuseline.plan import Plan, make_plan
from fuseline.recipe import dump_recipe, load_recipe
from fuseline.store import Store, read_json
from recipes.make_cifar_digits import digits, write_cifar10

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))
FETCHED = {"cifar10"}
"""Recipes whose data must be downloaded."""

BRIEF = ["evaluation.resamples=100"]
CUTS = {
    "kinds": ["partition.kfold.folds=2", "members.0.epochs=3", "members.1.epochs=3", "members.1.count=1"],
    "strategies": [f"members.{i}.epochs=2" for i in range(4)] + ["members.0.count=2", "members.1.count=2"],
    "experts": ["members.0.epochs=3"],
    "tabular": ["partition.kfold.folds=2", *(f"members.{i}.epochs={n}" for i, n in enumerate((20, 4, 4, 4)))],
    "fusion": [f"members.{i}.{cut}" for i in range(2) for cut in ("epochs=3", "count=2")],
}


@pytest.fixture(scope="module")
def ran(commands: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Run a recipe's cut-down form once; its home and its summary."""

    @cache
    def run(name: str) -> tuple[Path, Any]:
        home = tmp_path_factory.mktemp(name) / "home"
        return home, commands(*arguments(name), home=home).summary

    return run


def arguments(name: str) -> list[Any]:
    cuts = [part for cut in [*BRIEF, *CUTS[name]] for part in ("--set", cut)]
    return ["run", RECIPES / f"{name}.yaml", "--json", *cuts]


@pytest.fixture(scope="module")
def files(ran: Callable[[str], tuple[Path, Any]], tracked: Callable[..., Any]) -> Callable[[str], Path]:
    """The folder with what MLflow keeps of a recipe's run."""

    def find(name: str) -> Path:
        home, summary = ran(name)
        return Path(tracked(home).get_run(summary["run_id"]).info.artifact_uri)

    return find


def plan_of(home: Path) -> Plan:
    (folder,) = (home / "store" / "plan").glob("[!.]*")
    return Plan.open(folder)


# ------------------------------------------------------------------------------------------------------ every recipe


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_can_be_read_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert recipe.name == name
    assert recipe.description
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("plans") / "store")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FETCHED])
def test_every_recipe_fits_its_data(name: str, store: Store) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    plan, _ = make_plan(recipe, store)
    assert list(plan.members) == recipe.member_names
    test = plan.split.rows("test")
    assert len(test) > 0
    assert (len(plan.split.rows("calibration")) > 0) == (recipe.calibration.method != "none")
    for jobs in plan.members.values():
        assert not any(np.isin(job.share.train, test).any() for job in jobs)


def test_the_table_of_all_kinds_is_what_its_script_makes() -> None:
    from recipes.make_kinds import kinds

    pd.testing.assert_frame_equal(pd.read_parquet(RECIPES / "kinds.parquet"), kinds(), check_dtype=False)


# -------------------------------------------------------------------------------------------- kinds: five of targets

ASK = """
import sys
import mlflow.pyfunc
import pandas as pd
model, rows, answers = sys.argv[1:]
mlflow.pyfunc.load_model(model).predict(pd.read_parquet(rows)).to_parquet(answers)
"""
SIGNS = ["sign_above_150", "sign_above_250", "sign_bmi", "sign_bp"]
COLUMNS = {
    "course": ["course", "course_proba_fast", "course_proba_slow"],
    "grade": ["grade", *(f"grade_proba_{grade}" for grade in (1, 2, 3, 4))],
    "signs": [*(f"signs_{sign}" for sign in SIGNS), *(f"signs_proba_{sign}" for sign in SIGNS)],
    "progression": ["progression"],
    "range": ["range", "range_q0.05", "range_q0.5", "range_q0.95"],
}


@pytest.fixture(scope="module")
def answers(ran: Callable[[str], tuple[Path, Any]], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What the registered model of all kinds says of every patient, in a process of its own."""
    home, summary = ran("kinds")
    folder = tmp_path_factory.mktemp("answers")
    registered = summary["registered"]
    done = subprocess.run(
        [sys.executable, "-c", ASK, f"models:/{registered['name']}/{registered['version']}",
         RECIPES / "kinds.parquet", folder / "answers.parquet"],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return pd.read_parquet(folder / "answers.parquet")


def test_a_model_of_all_kinds_answers_with_the_columns_of_its_schema(
    answers: pd.DataFrame, ran: Callable[[str], tuple[Path, Any]]
) -> None:
    expected = [c for target, own in COLUMNS.items() for c in (*own, f"{target}_uncertainty", f"{target}_epistemic")]
    assert list(answers.columns) == expected
    assert plan_of(ran("kinds")[0]).dataset.schema.answers == expected
    assert len(answers) == 442


def test_a_models_answers_of_each_kind_are_consistent(answers: pd.DataFrame) -> None:
    for target, labels in (("course", ["fast", "slow"]), ("grade", [1, 2, 3, 4])):
        said = answers[[f"{target}_proba_{label}" for label in labels]].to_numpy()
        np.testing.assert_allclose(said.sum(1), 1, atol=1e-9)
        assert answers[target].tolist() == [labels[i] for i in said.argmax(1)]
    for sign in SIGNS:
        assert (answers[f"signs_{sign}"] == (answers[f"signs_proba_{sign}"] > 0.5)).all()
    levels = answers[COLUMNS["range"][1:]].to_numpy()
    assert (np.diff(levels, axis=1) >= 0).all()
    assert answers["range"].tolist() == answers["range_q0.5"].tolist()
    assert (answers["progression_uncertainty"] > 0).all()


def test_every_kind_has_its_own_metrics_and_the_rules_that_fit(ran: Callable[[str], tuple[Path, Any]]) -> None:
    _, summary = ran("kinds")
    assert list(summary["best"]) == list(COLUMNS)
    own = {"course": "mcc", "grade": "kappa_quadratic", "signs": "average_precision", "progression": "crps", "range": "pinball"}
    for entry in (*summary["members"], *summary["candidates"]):
        assert {target: own[target] in metrics for target, metrics in entry["metrics"].items()} == dict.fromkeys(own, True)


# ------------------------------------------------------------------------- strategies: members that follow each other


def test_a_member_that_follows_another_waits_for_it(ran: Callable[[str], tuple[Path, Any]], ask: Callable[..., Any]) -> None:
    ran("strategies")
    flow_run, *_ = ask("flow_runs/filter", flow_runs={"name": {"any_": ["strategies"]}}, sort="EXPECTED_START_TIME_ASC")
    tasks = {task["name"]: task for task in ask("task_runs/filter", task_runs={"flow_run_id": {"any_": [flow_run["id"]]}})}

    def awaited(name: str) -> list[str]:
        ids = {task["id"]: other for other, task in tasks.items()}
        return [ids[i["id"]] for i in tasks[name]["task_inputs"].get("wait_for", []) if i["input_type"] == "task_run"]

    assert awaited("train snapshot-2") == ["train snapshot-1"]
    assert awaited("train boosted-2") == ["train boosted-1"]
    assert [awaited(f"train {name}") for name in ("snapshot-1", "boosted-1", "averaged", "moving")] == [[]] * 4
    for first, second in (("snapshot-1", "snapshot-2"), ("boosted-1", "boosted-2")):
        assert tasks[f"train {first}"]["end_time"] <= tasks[f"train {second}"]["start_time"]


def test_members_that_follow_each_other_are_reused(ran: Callable[[str], tuple[Path, Any]], commands: Callable[..., Any]) -> None:
    home, summary = ran("strategies")
    assert (summary["trained"], summary["reused"]) == (6, 0)
    again = commands(*arguments("strategies"), home=home).summary
    assert (again["trained"], again["reused"]) == (0, 6)
    assert again["candidates"] == summary["candidates"]


# -------------------------------------------------------------------------------------- experts, tabular and fusion


def test_experts_know_their_own_classes_and_the_picture_is_kept(
    ran: Callable[[str], tuple[Path, Any]], files: Callable[[str], Path]
) -> None:
    home, summary = ran("experts")
    own = [jobs[0].share.own for jobs in plan_of(home).members.values()]
    assert [len(classes) for classes in own] == [4] * 5
    assert np.bincount(np.concatenate(own), minlength=10).tolist() == [2] * 10
    statistics = read_json(files("experts") / "plan" / "statistics.json")
    assert np.array(statistics["coverage"]["digit"]).shape == (5, 10)
    assert (files("experts") / "plan" / "partition-digit.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert {c["rule"] for c in summary["candidates"]} >= {"gate", "dynamic", "features"}


def test_a_fusion_of_experts_is_better_than_any_of_them(ran: Callable[[str], tuple[Path, Any]]) -> None:
    _, summary = ran("experts")
    chosen = next(c for c in summary["candidates"] if c["rule"] == summary["best"]["digit"])
    assert chosen["metrics"]["digit"]["accuracy"]["low"] > max(
        m["metrics"]["digit"]["accuracy"]["high"] for m in summary["members"]
    )


def test_every_member_for_tables_learns(ran: Callable[[str], tuple[Path, Any]]) -> None:
    home, summary = ran("tabular")
    networks = {name: jobs[0].spec.network for name, jobs in plan_of(home).members.items()}
    assert {name: n.architecture.name for name, n in networks.items()} == {
        "linear": "mlp", "mlp-plr": "mlp", "tabm": "tabm", "transformer": "ft_transformer",
    }  # fmt: skip
    assert [n.numbers.name for n in networks.values()] == ["standard", "quantile", "quantile", "quantile"]
    for member in summary["members"]:
        assert member["metrics"]["tumour"]["accuracy"]["low"] > 0.7  # 0.63 of the tumours are benign


def test_all_rules_stand_on_one_leaderboard(ran: Callable[[str], tuple[Path, Any]], files: Callable[[str], Path]) -> None:
    _, summary = ran("fusion")
    assert [c["rule"] for c in summary["candidates"]] == list(FUSIONS)
    for candidate in summary["candidates"]:
        assert candidate["metrics"]["digit"]["accuracy"]["low"] > 0.5, candidate["rule"]
    assert (files("fusion") / "pictures" / "leaderboard-digit.png").is_file()
    assert (files("fusion") / "pictures" / "pareto-digit.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# ----------------------------------------------------------------------------------------- CIFAR-10's format and code

TRAIN, TEST = 900, 400


def cifar_cuts(root: Path) -> list[str]:
    """Overrides that bring the recipe down to minutes: small pictures, few epochs, the rates that these want."""
    source = {"root": root, "checksums": root / "checksums.txt", "download": "false", "size": 8}
    cuts = [f"data.source.torchvision.{name}={value}" for name, value in source.items()]
    cuts += ["data.split.fusion=0.1", "data.split.calibration=0.1", "members.0.count=1", "evaluation.resamples=100"]
    for i, epochs in enumerate((5, 4, 1)):
        cuts += [f"members.{i}.epochs={epochs}", f"members.{i}.batch_size=32", f"members.{i}.optimizer.sgd.lr=0.01"]
        cuts += [f"members.{i}.augment=[{{crop: {{padding: 1}}}}]"]
    return cuts


@pytest.fixture(scope="module")
def cifar(commands: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The recipe for CIFAR-10 itself, cut down, on digits in CIFAR-10's format; its home and summary."""
    folder = tmp_path_factory.mktemp("cifar")
    pictures, classes = digits()
    train, test = slice(0, TRAIN), slice(TRAIN, TRAIN + TEST)
    write_cifar10(folder / "set", (pictures[train], classes[train]), (pictures[test], classes[test]), [str(k) for k in range(10)])
    cuts = [part for cut in cifar_cuts(folder / "set") for part in ("--set", cut)]
    return folder / "home", commands("run", RECIPES / "cifar10.yaml", "--json", *cuts, home=folder / "home").summary


def test_the_official_test_part_is_the_test_set(cifar: tuple[Path, Any]) -> None:
    plan = plan_of(cifar[0])
    assert plan.split.rows("test").tolist() == list(range(TRAIN, TRAIN + TEST))
    known = {job.spec.network.architecture.name for jobs in plan.members.values() for job in jobs}
    assert known == {"resnet18", "vgg16_bn", "inception_v3"}


def test_the_cut_down_cifar_recipe_reaches_nine_tenths(cifar: tuple[Path, Any]) -> None:
    best = cifar[1]["best"]["object"]
    scores = next(c["metrics"]["object"] for c in cifar[1]["candidates"] if c["rule"] == best)
    assert scores["accuracy"]["low"] >= 0.9


def test_the_cifar_recipe_is_built_as_it_is_written() -> None:
    recipe = load_recipe(RECIPES / "cifar10.yaml")
    assert recipe.data.split.rule == "column"
    assert all(isinstance(member.architecture, Component) and member.epochs == 200 for member in recipe.members)
    assert recipe.registry.floors == {"object": {"accuracy": 0.94}}
