"""A finished run's keys are found by all that they follow from, and only while every entry is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fuseline.component import Component
from fuseline.errors import DataError
from fuseline.lineage import Lineage, recall, remember
from fuseline.recipe import Recipe
from fuseline.store import Store


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pd.DataFrame({"x": [1.0, 2.0], "y": ["a", "b"]}).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


@pytest.fixture
def tree(table: Path) -> dict[str, Any]:
    return {
        "name": "r",
        "data": {"source": {"csv": {"path": str(table)}}},
        "targets": {"y": {"kind": "classification"}},
        "partition": "full",
        "members": [{"name": "m", "architecture": "mlp"}],
    }


@pytest.fixture
def lineage(store: Store) -> Lineage:
    """The keys of entries that stand in the store."""
    found = Lineage(
        plan="p",
        data="d",
        members={"m": ["m1", "m2"]},
        rules={"y": [Component(name="greedy", settings={"steps": 3})]},
        bank="b",
        fused={"y": "f"},
        report="r",
        package="k",
        unmet=[],
    )
    for kind, key in found.entries():
        store.make(kind, key, lambda folder: (folder / "file").write_text("whole") and None)
    return found


def test_what_is_remembered_is_recalled(store: Store, tree: dict[str, Any], lineage: Lineage) -> None:
    recipe = Recipe.model_validate(tree)
    assert recall(recipe, store) is None
    remember(recipe, store, lineage)
    assert recall(Recipe.model_validate(tree), store) == lineage
    later = lineage.model_copy(update={"unmet": ["y: accuracy is low"]})
    remember(recipe, store, later)
    assert recall(recipe, store) == later


def test_another_recipe_or_other_data_are_not_it(store: Store, tree: dict[str, Any], lineage: Lineage, table: Path) -> None:
    recipe = Recipe.model_validate(tree)
    remember(recipe, store, lineage)
    assert recall(Recipe.model_validate({**tree, "seed": 1}), store) is None
    table.write_text(table.read_text() + "3.0,a\n")
    assert recall(recipe, store) is None


def test_other_weights_under_the_same_name_are_not_it(
    store: Store, tree: dict[str, Any], lineage: Lineage, tmp_path: Path
) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    tree["members"][0] |= {"architecture": {"resnet18": {"weights": str(weights)}}}
    recipe = Recipe.model_validate(tree)
    remember(recipe, store, lineage)
    assert recall(recipe, store) == lineage
    weights.write_bytes(b"two")
    assert recall(recipe, store) is None


def test_another_accelerator_is_not_it(
    store: Store, tree: dict[str, Any], lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(tree)
    remember(recipe, store, lineage)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert recall(recipe, store) is None


@pytest.mark.parametrize("kind", ["plan", "data", "replica", "bank", "fusion", "report", "package"])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_an_entry_that_is_missing_or_damaged_sends_the_long_way(
    store: Store, tree: dict[str, Any], lineage: Lineage, kind: str, damage: str
) -> None:
    recipe = Recipe.model_validate(tree)
    remember(recipe, store, lineage)
    key = dict(lineage.entries())[kind]
    file = store.path(kind, key) / "file"
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("other")
    assert recall(recipe, store) is None


def test_a_torn_file_sends_the_long_way(store: Store, tree: dict[str, Any], lineage: Lineage) -> None:
    recipe = Recipe.model_validate(tree)
    remember(recipe, store, lineage)
    (file,) = (store.root / "lineage").iterdir()
    file.write_text(file.read_text()[:40])
    assert recall(recipe, store) is None


def test_a_recipe_with_another_packages_function_is_never_recalled(
    store: Store, tree: dict[str, Any], lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuseline.lineage.installed", lambda group: {"mlp": None} if "architectures" in group else {})
    recipe = Recipe.model_validate(tree)
    remember(recipe, store, lineage)
    assert recall(recipe, store) is None


def test_a_file_that_is_not_there_is_said_so(store: Store, tree: dict[str, Any], table: Path) -> None:
    table.unlink()
    with pytest.raises(DataError, match=r"table\.csv"):
        recall(Recipe.model_validate(tree), store)


def test_neither_asking_nor_the_flow_that_follows_loads_torch() -> None:
    """In a process of its own: nothing that is loaded before or in a run in which everything is reused may compute."""
    loaded = "import sys, warnings; warnings.simplefilter('ignore'); import fuseline.lineage, flows.again"
    code = f"{loaded}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
