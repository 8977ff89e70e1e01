"""The package in the store: its key hangs on what it does, and on nothing else."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pytest

from fuseline.errors import PackageError
from fuseline.fusion.combine import calibrate
from fuseline.fusion.rules import FUSIONS
from fuseline.models.architectures import ARCHITECTURES
from fuseline.package.build import REQUIREMENTS, RUNTIME, build_package, requirements
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import predict
from fuseline.store import Store
from fuseline.training.messages import KIND


@pytest.fixture(scope="module")
def plain(gone_to_fusion: Callable[..., Any]) -> Any:
    return gone_to_fusion()


def build(gone: Any, **changes: Any) -> tuple[Path, bool]:
    given = {"store": gone.store, "fused": gone.fused, **changes}
    return build_package(given["store"], gone.plan, gone.bank, given["fused"])


EITHER = {
    "by default": [
        *(name for name in FUSIONS if name not in ("gate", "features")), {"gate": {"steps": 10}}, {"features": {"steps": 10}},
    ],
    "otherwise": [
        "mean",
        {"trimmed": {"cut": 0.4}},
        {"greedy": {"bags": 3, "steps": 5}},
        {"stacking": {"passthrough": True}},
        {"gate": {"sees": "inputs", "steps": 10}},
        {"dynamic": {"sees": "inputs", "method": "ola"}},
        {"features": {"merge": "attention", "steps": 10}},
    ],
    "by outputs": ["mean", {"gate": {"sees": "outputs", "hidden": 0, "steps": 10}}, {"dynamic": {"sees": "outputs"}}],
}  # fmt: skip


@pytest.fixture(scope="module", params=EITHER)
def compared(request: pytest.FixtureRequest, gone_to_fusion: Callable[..., Any]) -> Any:
    """Every rule fitted to every kind that it fits."""
    return gone_to_fusion(fusion={"rules": EITHER[request.param], "folds": 2})


def test_whichever_rule_serves_it_says_of_raw_rows_what_the_bank_and_the_fusion_said(compared: Any) -> None:
    plan, bank = compared.plan, compared.bank
    rows = plan.split.rows("fusion", "calibration", "test")
    raw = compared.frame[["x", "y", "color"]]
    for name in (candidate.name for candidate in compared.fused[0].candidates):
        fused = [replace(part, chosen=name) if name in {c.name for c in part.candidates} else part for part in compared.fused]
        folder, _ = build(compared, fused=fused)
        description, found = load_description(folder), predict(load_ensemble(folder), raw, 64)
        assert list(found.columns) == plan.dataset.schema.answers
        for part in fused:
            assert description.targets[part.target].rule == part.chosen
            task = plan.dataset.schema.targets[part.target]
            outputs = bank.outputs(plan.dataset, part.target, rows, part.needs)
            said = calibrate(part.winner.combiner(outputs), part.winner.number)
            columns = [c for c, _ in task.answers(part.target) if "_proba_" in c or "_q0" in c] or [part.target]
            np.testing.assert_allclose(found[columns].to_numpy(float)[rows], said.values.numpy(), atol=2e-6, rtol=2e-5)
            if said.variances is not None:
                np.testing.assert_allclose(found["size_uncertainty"].to_numpy()[rows], said.variances[:, 0], rtol=1e-4)


def test_only_an_ensemble_that_looks_at_inputs_is_given_them(gone_to_fusion: Callable[..., Any]) -> None:
    compared = gone_to_fusion(fusion={"rules": EITHER["otherwise"], "folds": 2})
    found = {}
    for name in ("mean", "stacking", "gate", "features"):
        folder, _ = build(compared, fused=[compared.fused[0], *(replace(part, chosen=name) for part in compared.fused[1:])])
        found[name] = {target: its.looks for target, its in load_description(folder).targets.items()}
        assert load_ensemble(folder).looks == {thing for looks in found[name].values() for thing in looks}
    others = ("grade", "signs", "size", "range")
    assert [found[name]["size"] for name in found] == [[], ["inputs"], ["inputs"], ["features"]]
    assert all(len({str(found[name][target]) for target in others}) == 1 for name in found)


def test_its_description_names_members_rules_and_requirements(plain: Any) -> None:
    description = load_description(build(plain)[0])
    assert [member.name for member in description.members] == ["a", "b", "c"]
    assert {name: target.rule for name, target in description.targets.items()} == dict.fromkeys(plain.plan.recipe.targets, "mean")
    assert description.schema_ == plain.plan.dataset.schema
    assert description.provenance["requirements"] == requirements(["mlp"])
    assert description.provenance["data"] == plain.plan.dataset.fingerprint


def test_what_an_ensemble_runs_is_among_the_code_and_the_requirements_that_are_named() -> None:
    """By what is imported, from the model file that MLflow loads."""
    graph = grimp.build_graph("fuseline", include_external_packages=True, cache_dir=None)
    behind = graph.find_upstream_modules("fuseline.package.pyfunc_model")
    own = {name.split(".")[1] for name in behind if name.startswith("fuseline.")}
    assert own <= set(RUNTIME)
    outside = {name for name in behind if not name.startswith("fuseline")} - set(sys.stdlib_module_names)
    brought_by = {"scipy": "mlflow", "sklearn": "mlflow", "torchvision": "its own line"}
    assert {brought_by.get(name, name) for name in outside} <= {*REQUIREMENTS, "its own line"}


def test_requirements_are_exact_versions_without_local_parts() -> None:
    lines = requirements(["mlp"])
    assert all("==" in line and "+" not in line for line in lines)
    assert [line.split("==")[0] for line in lines] == list(REQUIREMENTS)
    assert any(line.startswith("torch==") for line in lines)


def test_torchvision_is_required_by_those_who_borrow_from_it() -> None:
    borrowed = next(name for name in ARCHITECTURES if ARCHITECTURES.borrowed(name))
    assert not any(line.startswith("torchvision") for line in requirements(["mlp"]))
    assert sum(line.startswith("torchvision==") for line in requirements(["mlp", borrowed, borrowed])) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "other"},
        {"description": "in other words"},
        {"registry": {"name": "elsewhere", "floors": {"kind": {"accuracy": 0.9}}}},
        {"evaluation": {"resamples": 100, "level": 0.9}},
        {"training": {"device": "cpu", "processes": 1}},
    ],
    ids=str,
)
def test_the_same_ensemble_of_another_recipe_is_the_same_package(
    plain: Any, gone_to_fusion: Callable[..., Any], changes: dict[str, Any]
) -> None:
    folder, _ = build(plain)
    again, reused = build(gone_to_fusion(**changes))
    assert again == folder
    assert reused


def test_which_rules_were_compared_does_not_count(plain: Any, gone_to_fusion: Callable[..., Any]) -> None:
    compared = gone_to_fusion(fusion={"rules": ["mean", "vote", "stacking"]})
    assert [part.key for part in compared.fused] != [part.key for part in plain.fused]
    chosen = [replace(part, chosen="mean") for part in compared.fused]
    assert build(plain, fused=chosen)[0] == build(plain)[0]


def test_another_rule_number_or_weight_is_another_package(plain: Any, gone_to_fusion: Callable[..., Any]) -> None:
    compared = [replace(p, chosen="mean") for p in gone_to_fusion(fusion={"rules": ["mean", "vote", "stacking"]}).fused]
    folders = {build(plain)[0]}
    folders.add(build(plain, fused=[replace(compared[0], chosen="vote"), *compared[1:]])[0])
    for i, part in enumerate(compared):
        folders.add(build(plain, fused=[*compared[:i], replace(part, chosen="stacking"), *compared[i + 1 :]])[0])
    uncalibrated = gone_to_fusion(calibration={"method": "none"}).fused
    folders.add(build(plain, fused=uncalibrated)[0])
    assert len(folders) == 8


def test_other_members_are_another_package(plain: Any, gone_to_fusion: Callable[..., Any]) -> None:
    assert build(gone_to_fusion(seed=3))[0] != build(plain)[0]


def test_the_thresholds_are_those_that_the_packages_own_answers_to_the_calibration_rows_give(
    plain: Any, gone_to_fusion: Callable[..., Any]
) -> None:
    folder, _ = build(plain)
    rules = {name: target.conformal for name, target in load_description(folder).targets.items()}
    rows = plain.plan.split.rows("calibration")
    frame = plain.frame.iloc[rows]
    found = predict(load_ensemble(folder), frame[["x", "y", "color"]], 64)
    known = frame["range"].notna()
    scores = {
        "kind": [1 - found[f"kind_proba_{kind}"][row] for row, kind in frame["kind"].items()],
        "size": (frame["size"] - found["size"]).abs() / found["size_uncertainty"] ** 0.5,
        "range": np.maximum(found["range_q0.1"] - frame["range"], frame["range"] - found["range_q0.9"])[known],
    }
    for target, own in scores.items():
        place = int(np.ceil((len(own) + 1) * 0.9)) - 1
        assert rules[target].rows == len(own)
        assert rules[target].threshold == pytest.approx(sorted(own)[place], rel=1e-4, abs=1e-5)
    assert rules["signs"] is None
    other, _ = build(gone_to_fusion(evaluation={"coverage": 0.8}))
    assert other != folder
    assert load_description(other).targets["kind"].conformal.threshold <= rules["kind"].threshold


def test_a_replica_that_is_gone_is_named(plain: Any, tmp_path: Path) -> None:
    lost = plain.plan.members["b"][0].key(plain.plan.dataset)
    other = Store(tmp_path / "store")
    shutil.copytree(plain.store.root / KIND, other.root / KIND)
    shutil.rmtree(other.path(KIND, lost))
    with pytest.raises(PackageError, match=lost):
        build(plain, store=other)
    assert not list((other.root / "package").iterdir())
