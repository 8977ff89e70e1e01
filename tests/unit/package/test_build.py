"""The package in the store: its key hangs on what it does, and on nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.errors import PackageError
from fuseline.fusion.combine import calibrate
from fuseline.package.build import build_package, requirements
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import predict
from fuseline.store import Store
from fuseline.training.replica import KIND


@pytest.fixture(scope="module")
def plain(gone_to_fusion: Callable[..., Any]) -> Any:
    return gone_to_fusion()


def build(gone: Any, **changes: Any) -> tuple[Path, bool]:
    given = {"store": gone.store, "fused": gone.fused, **changes}
    return build_package(given["store"], gone.plan, gone.bank, given["fused"])


def test_it_says_of_raw_rows_what_the_bank_and_the_fusion_said(plain: Any) -> None:
    folder, _ = build(plain)
    table = predict(load_ensemble(folder), plain.frame[["x", "y"]], 64)
    rows = plain.plan.split.rows("fusion", "calibration", "test")
    for part in plain.fused:
        said = calibrate(part.winner.combiner(plain.bank.outputs(part.target, rows)), part.winner.number)
        columns = ["kind_proba_down", "kind_proba_up"] if part.target == "kind" else ["size"]
        np.testing.assert_allclose(table[columns].to_numpy()[rows], said.values.numpy(), atol=1e-6, rtol=1e-6)
        if said.variances is not None:
            np.testing.assert_allclose(table["size_uncertainty"].to_numpy()[rows], said.variances[:, 0].numpy(), rtol=1e-5)


def test_its_description_names_members_rules_and_requirements(plain: Any) -> None:
    description = load_description(build(plain)[0])
    assert [member.name for member in description.members] == ["a", "b"]
    assert {name: target.rule for name, target in description.targets.items()} == {"kind": "mean", "size": "mean"}
    assert description.schema_ == plain.plan.dataset.schema
    assert description.provenance["requirements"] == requirements()
    assert description.provenance["data"] == plain.plan.dataset.fingerprint


def test_requirements_are_exact_versions_without_local_parts() -> None:
    assert all("==" in line and "+" not in line for line in requirements())
    assert any(line.startswith("torch==") for line in requirements())


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
    compared = gone_to_fusion(fusion={"rules": ["mean", "vote", "weights", "stacking"]}).fused
    folders = {build(plain)[0]}
    folders.add(build(plain, fused=[replace(compared[0], chosen="vote"), compared[1]])[0])
    folders.add(build(plain, fused=[replace(compared[0], chosen="stacking"), compared[1]])[0])
    folders.add(build(plain, fused=[compared[0], replace(compared[1], chosen="stacking")])[0])
    uncalibrated = gone_to_fusion(calibration={"method": "none"}).fused
    folders.add(build(plain, fused=uncalibrated)[0])
    assert len(folders) == 5


def test_other_members_are_another_package(plain: Any, gone_to_fusion: Callable[..., Any]) -> None:
    assert build(gone_to_fusion(seed=3))[0] != build(plain)[0]


def test_a_replica_that_is_gone_is_named(plain: Any, tmp_path: Path) -> None:
    lost = plain.plan.members["b"][0].key(plain.plan.dataset)
    other = Store(tmp_path / "store")
    shutil.copytree(plain.store.root / KIND, other.root / KIND)
    shutil.rmtree(other.path(KIND, lost))
    with pytest.raises(PackageError, match=lost):
        build(plain, store=other)
    assert not list((other.root / "package").iterdir())
