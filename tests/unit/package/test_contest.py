"""Champion and challenger as packages, on the same test rows of a target of every kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.evaluation.metrics import LOWER_IS_BETTER, POINT
from fuseline.evaluation.report import predicted
from fuseline.fusion.combine import calibrate
from fuseline.package.build import build_package
from fuseline.package.contest import differs, hold
from fuseline.package.files import FITTED
from fuseline.promotion.scores import DEFAULT
from fuseline.promotion.verdict import Contestant, Earlier, Verdict

REGISTRY = {
    "floors": {"kind": {"accuracy": 0.0}},
    "guards": [
        {"target": "kind", "metric": "accuracy", "where": {"color": "red"}, "min": 0},
        {"target": "kind", "metric": "recall", "of_class": "up", "min": 0},
        {"target": "kind", "metric": "ece", "max": 1},
        {"metric": "latency_ms", "max": 60000},
        {"metric": "size_mib", "max": 10},
    ],
}


@pytest.fixture(scope="module")
def old(gone_to_fusion: Callable[..., Any]) -> Any:
    return gone_to_fusion()


@pytest.fixture(scope="module")
def new(gone_to_fusion: Callable[..., Any]) -> Any:
    return gone_to_fusion(seed=3, registry=REGISTRY)


def package(gone: Any) -> Path:
    return build_package(gone.store, gone.plan, gone.bank, gone.fused)[0]


def plan(gone: Any) -> Path:
    return Path(gone.store.path("plan", gone.plan.key))


def verdict(challenger: Any, champion: Path | None, said: Path, earlier: Any = ()) -> Verdict:
    fighters = Contestant("m/2", package(challenger)), None if champion is None else Contestant("m/1", champion)
    return Verdict.model_validate(hold(plan(challenger), *fighters, earlier, said))


def metric(gone: Any, target: str, name: str) -> float:
    """Of what the bank and the fusion say of the test rows."""
    its = gone.plan
    part = next(part for part in gone.fused if part.target == target)
    rows = its.dataset.known(target, its.split.rows("test"))
    said = calibrate(part.winner.combiner(gone.bank.outputs(its.dataset, target, rows, part.needs)), part.winner.number)
    kind = its.dataset.schema.targets[target].kind
    return POINT[kind](np.asarray(its.dataset.targets[target])[rows], predicted(said), [name])[name]


def test_of_every_kind_of_target_the_gain_is_that_of_the_banks(old: Any, new: Any, tmp_path: Path) -> None:
    found = verdict(new, package(old), tmp_path / "said.npz")
    checks = {check.name: check for check in found.checks}
    for target, schema in new.plan.dataset.schema.targets.items():
        name = DEFAULT[schema.kind]
        sign = -1 if name in LOWER_IS_BETTER else 1
        expected = sign * (metric(new, target, name) - metric(old, target, name))
        its = checks[f"{target}: gain of {name}"]
        assert its.value == pytest.approx(expected, abs=1e-5, rel=1e-4)
        assert its.low is not None
        assert its.high is not None
        assert its.low < its.value < its.high
    assert found.rows == max(
        len(new.plan.dataset.known(target, new.plan.split.rows("test"))) for target in new.plan.recipe.targets
    )
    assert checks["kind: accuracy"].value == pytest.approx(metric(new, "kind", "accuracy"))
    assert {name for name, check in checks.items() if "gain" not in name and not check.passed} == set()
    for name in ("kind: accuracy where color is red", "kind: recall of class up", "kind: ece", "latency_ms", "size_mib"):
        assert checks[name].value is not None


def test_a_first_version_is_held_to_its_floors_alone(new: Any, tmp_path: Path) -> None:
    found = verdict(new, None, tmp_path / "said.npz")
    assert found.passed
    assert not any("gain" in check.name for check in found.checks)


def test_those_that_were_judged_before_on_the_same_rows_count(old: Any, new: Any, tmp_path: Path) -> None:
    first = verdict(new, package(old), tmp_path / "said.npz")
    later = verdict(new, package(old), tmp_path / "said.npz", [Earlier("m/3", first.sketch), Earlier("m/4", ["elsewhere"])])
    assert (first.attempt, later.attempt) == (1, 2)


def test_one_that_was_fitted_on_test_rows_is_refused(
    old: Any, new: Any, gone_to_fusion: Callable[..., Any], tmp_path: Path
) -> None:
    data = {**new.plan.recipe.data.model_dump(mode="json"), "split": {"rule": "stratified", "seed": 5, "test": 0.2}}
    found = verdict(gone_to_fusion(data=data), package(old), tmp_path / "said.npz")
    assert not found.passed
    (check, *_) = found.checks
    assert check.name == "comparable"
    assert "m/1 was fitted on" in check.says


def test_one_that_does_not_say_what_it_was_fitted_on_is_refused(old: Any, new: Any, tmp_path: Path) -> None:
    silent = tmp_path / "package"
    shutil.copytree(package(old), silent, ignore=shutil.ignore_patterns(FITTED, "manifest.json"))
    found = verdict(new, silent, tmp_path / "said.npz")
    assert "does not say which rows" in found.checks[0].says


def test_one_that_lacks_a_target_or_a_column_is_refused(
    old: Any, new: Any, gone_to_fusion: Callable[..., Any], tmp_path: Path
) -> None:
    tree = new.plan.recipe.model_dump(mode="json")
    fewer = {**tree["targets"]}
    del fewer["size"]
    partly = verdict(new, package(gone_to_fusion(targets=fewer)), tmp_path / "said.npz")
    assert [check.name for check in partly.checks if "does not predict 'size'" in check.says] == ["size: comparable"]
    narrow = {**tree["data"], "inputs": ["x", "y"]}
    wholly = verdict(gone_to_fusion(data=narrow), package(old), tmp_path / "said.npz")
    assert "can't answer these test rows" in wholly.checks[0].says
    assert "'color' is missing" in wholly.checks[0].says


def test_a_champion_is_known_by_what_it_said(old: Any, new: Any, tmp_path: Path) -> None:
    said = tmp_path / "said.npz"
    verdict(new, None, said)
    assert differs(package(new), plan(new), said) is None
    told = differs(package(old), plan(new), said)
    assert told is not None
    assert "something else of 'kind'" in told
    assert differs(package(new), None, None) is None
