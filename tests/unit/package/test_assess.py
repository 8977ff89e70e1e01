"""A package judged on new rows: on the test rows it must say what the test report said, of every kind of target."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fuseline.errors import DataError
from fuseline.evaluation.report import evaluate
from fuseline.package.assess import assess
from fuseline.package.build import build_package
from fuseline.package.collected import Grown
from fuseline.package.files import FITTED
from fuseline.package.rows import Part
from fuseline.report.summary import winner

INPUTS = ["x", "y", "color"]


@pytest.fixture(scope="module")
def gone(gone_to_fusion: Callable[..., Any]) -> Any:
    return gone_to_fusion(evaluation={"resamples": 100})


@pytest.fixture(scope="module")
def package(gone: Any) -> Path:
    return build_package(gone.store, gone.plan, gone.bank, gone.fused)[0]


@pytest.fixture(scope="module")
def tested(gone: Any) -> dict[str, Any]:
    """The test report."""
    plan, settings = gone.plan, gone.plan.recipe.evaluation
    names = {target: plan.metric_names(target) for target in plan.recipe.targets}
    rest = (gone.fused, names, settings.resamples, settings.level, plan.recipe.seed)
    report, folder, _ = evaluate(gone.store, gone.bank, plan.dataset, plan.split, plan.units, *rest)
    return {"report": report, "folder": folder, "then": {name: winner(report, name)["metrics"] for name in names}}


def parts(frame: pd.DataFrame, size: int, others: list[str] | None = None) -> Iterator[Part]:
    columns = [name for name in frame.columns if name not in INPUTS] if others is None else others
    for start in range(0, len(frame), size):
        some = frame.iloc[start : start + size]
        yield Part(some[INPUTS], np.arange(start, start + len(some)), None, {}, some[columns])


def of_test(gone: Any) -> pd.DataFrame:
    return gone.frame.iloc[gone.plan.split.rows("test")]


@pytest.mark.parametrize("size", [1000, 7])
def test_on_the_test_rows_it_says_what_the_test_report_says(
    gone: Any, package: Path, tested: dict[str, Any], tmp_path: Path, size: int
) -> None:
    """Of five kinds of target, some of them missing in places, however the rows are divided."""
    found = assess(package, gone.plan.recipe, parts(of_test(gone), size), "here", tested["then"], tmp_path)
    assert list(found["targets"]) == list(gone.plan.recipe.targets)
    for name, part in found["targets"].items():
        assert part["rows"] == tested["report"]["targets"][name]["rows"]
        for metric, score in part["metrics"].items():
            assert score["now"] == pytest.approx(tested["then"][name][metric], rel=2e-4, abs=2e-5, nan_ok=True), (name, metric)
            assert score["change"] is None or not score["change"]["worse"]
    assert found["worse"] == found["alarm"] == []
    assert found["drift"]["size"] == "stable"
    assert not list(tmp_path.iterdir())


def test_rows_that_it_was_fitted_on_are_left_out_and_named(
    gone: Any, package: Path, tested: dict[str, Any], tmp_path: Path
) -> None:
    known = shutil.copytree(package, tmp_path / "package", ignore=shutil.ignore_patterns("manifest.json"))
    train = gone.plan.split.rows("train", "fusion", "calibration")
    np.save(known / FITTED, np.unique(gone.plan.dataset.content[train]))
    mixed = gone.frame.iloc[[*gone.plan.split.rows("test"), *train[:3]]]
    found = assess(known, gone.plan.recipe, parts(mixed, 10), "here", tested["then"], tmp_path)
    count = len(gone.plan.split.rows("test"))
    assert found["fitted"] == {"known": True, "rows": 3, "first": [count, count + 1, count + 2]}
    assert found["rows"] == count
    assert found["targets"]["kind"]["metrics"]["log_loss"]["now"]["value"] == pytest.approx(
        tested["then"]["kind"]["log_loss"]["value"], rel=2e-4
    )
    with pytest.raises(DataError, match="the ensemble was fitted on all 5 of them; give rows that it has not seen"):
        assess(known, gone.plan.recipe, parts(gone.frame.iloc[train[:5]], 10), "here", {}, tmp_path)


def test_without_targets_there_is_drift_alone(gone: Any, package: Path, tmp_path: Path) -> None:
    moved = of_test(gone).assign(y=lambda rows: rows["y"] + 4)
    found = assess(package, gone.plan.recipe, parts(moved, 100, []), "here", {}, tmp_path)
    assert (found["targets"], found["worse"]) == ({}, [])
    assert found["drift"]["parts"]["inputs"] == "large"
    assert [test["name"] for test in found["drift"]["tests"] if test["part"] == "inputs" and test["size"] == "large"] == ["y"]


def test_what_has_become_worse_is_named(gone: Any, package: Path, tested: dict[str, Any], tmp_path: Path) -> None:
    wrong = of_test(gone).assign(size=lambda rows: rows["size"] + 50)
    found = assess(package, gone.plan.recipe, parts(wrong, 100, ["size"]), "here", tested["then"], tmp_path)
    assert list(found["targets"]) == ["size"]
    assert {"size: rmse", "size: mae"} <= set(found["worse"])
    assert found["alarm"] == ["size: rmse"]


def test_of_labels_all_columns_or_none_must_be_there(gone: Any, package: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of the target 'signs' the column 'v' is missing; give all of its columns, or none"):
        assess(package, gone.plan.recipe, parts(of_test(gone), 100, ["u"]), "here", {}, tmp_path)


def test_a_wrong_target_is_named_by_its_row_in_the_whole_source(gone: Any, package: Path, tmp_path: Path) -> None:
    rows = of_test(gone).copy()
    rows.iloc[17, rows.columns.get_loc("grade")] = 9.0
    with pytest.raises(DataError, match="here: target column 'grade', row 17: 9 is not among the classes 1, 2, 3"):
        assess(package, gone.plan.recipe, parts(rows, 5), "here", {}, tmp_path)


def test_no_rows_are_refused(gone: Any, package: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="here: no row is left to judge it by: there are none"):
        assess(package, gone.plan.recipe, iter(()), "here", {}, tmp_path)


def test_an_array_grows_in_its_file(tmp_path: Path) -> None:
    grown = Grown(tmp_path / "a", np.float32, 2)
    assert grown.read().shape == (0, 2)
    values = np.arange(10.0).reshape(5, 2)
    for part in (values[:2], values[2:2], values[2:]):
        grown.add(part)
    assert grown.read().tolist() == values.tolist()
