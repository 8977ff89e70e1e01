"""A user's mistake gets one sentence that says where it is, exit code 2, and nothing half-made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

TABLE = """
name: table
data:
  source: {csv: {path: table.csv}}
  split: {rule: stratified, fusion: 0.2, calibration: 0.2, test: 0.2}
targets:
  kind: {kind: classification}
  size: {kind: regression}
partition: full
members:
  - {name: mlp, architecture: {mlp: {hidden: [4]}}, epochs: 2, early_stopping: null}
"""


def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    columns = {"x": random.normal(size=60).round(3), "kind": ["a", "b"] * 30, "size": random.normal(size=60).round(3)}
    return pd.DataFrame(columns)


@pytest.fixture
def refused(home: Path, monkeypatch: pytest.MonkeyPatch, plain: Callable[[str], str]) -> Callable[..., str]:
    """Run a recipe that must be refused, check that nothing is left of it, and return the sentence."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # nothing listens there: it must not be asked

    def call(text: str, *arguments: str, frame: pd.DataFrame | None = None, recipe: str = "recipe.yaml") -> str:
        from flows.cli import app

        Path("recipe.yaml").write_text(text, encoding="utf-8")
        (table() if frame is None else frame).to_csv("table.csv", index=False)
        done = CliRunner().invoke(app, ["run", recipe, "--json", *arguments])
        assert done.exit_code == 2, done.output
        assert isinstance(done.exception, SystemExit)
        assert done.stdout == ""
        sentence = plain(done.stderr)
        assert "Traceback" not in sentence
        assert len(sentence.splitlines()) == 1
        assert sentence.startswith("error: ")
        assert sentence.rstrip().endswith((".", "?"))
        assert not list(home.rglob("mlflow.db"))
        assert not list(home.rglob("weights.safetensors"))
        assert not [path for kind in ("plan", "replica", "package") for path in (home / "store" / kind).glob("*")]
        return sentence

    return call


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 2", "epoch: 2", ["recipe.yaml", "members.0", "epoch"]),
        ("epochs: 2", "epochs: many", ["recipe.yaml", "members.0.epochs", "many"]),
        ("epochs: 2", "epochs: 0", ["recipe.yaml", "members.0.epochs", "0"]),
        ("partition: full", "partition: halves", ["partition", "halves"]),
        ("partition: full", "partition: full\npartition: kfold", ["recipe.yaml", "partition", "line"]),
        ("hidden: [4]", "hiden: [4]", ["members.0.architecture", "hiden"]),
        ("{mlp: {hidden: [4]}}", "cnn", ["members.0.architecture", "cnn"]),
        ("path: table.csv", "path: other.csv", ["other.csv", "path"]),
        ("size: {kind: regression}", "weight: {kind: regression}", ["table.csv", "'weight'", "size"]),
        ("kind: {kind: classification}", "kind: {kind: classification, classes: [a, c]}", ["'kind'", "row 1", "'b'"]),
        ("size: {kind: regression}", "size: {kind: regression, metrics: [accuracy]}", ["targets.size", "accuracy"]),
        ("size: {kind: regression}", "size: {kind: regression, fusion: [vote]}", ["targets.size.fusion", "vote"]),
        ("rule: stratified, fusion: 0.2", "rule: stratified, fusion: 0.9", ["data.split", "train"]),
        ("early_stopping: null", "early_stopping: null, augment: [shift]", ["members.0.augment", "shift"]),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_by_field(refused: Callable[..., str], old: str, new: str, words: list[str]) -> None:
    assert old in TABLE
    sentence = refused(TABLE.replace(old, new))
    assert [word for word in words if word not in sentence] == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("members.0.epochs", ["members.0.epochs", "path=value"]),
        ("members.3.epochs=2", ["members.3.epochs=2", "'3'"]),
        ("members.0.epochs=[", ["members.0.epochs=[", "YAML"]),
        ("members.0.learning=2", ["members.0.learning"]),
    ],
)
def test_a_wrong_override_is_named(refused: Callable[..., str], override: str, words: list[str]) -> None:
    sentence = refused(TABLE, "--set", override)
    assert [word for word in words if word not in sentence] == []


def test_a_recipe_that_is_not_there_is_named(refused: Callable[..., str]) -> None:
    assert "nowhere.yaml" in refused(TABLE, recipe="nowhere.yaml")


@pytest.mark.parametrize(
    ("column", "row", "value", "words"),
    [
        ("size", 7, np.nan, ["table.csv", "'size'", "row 7", "missing"]),
        ("size", 7, np.inf, ["table.csv", "'size'", "row 7", "inf"]),
        ("kind", 9, None, ["table.csv", "'kind'", "row 9", "missing"]),
        ("x", 3, np.inf, ["table.csv", "'x'", "row 3", "inf"]),
    ],
)
def test_a_wrong_value_is_named_by_column_and_row(
    refused: Callable[..., str], column: str, row: int, value: Any, words: list[str]
) -> None:
    frame = table()
    frame.loc[row, column] = value
    sentence = refused(TABLE, frame=frame)
    assert [word for word in words if word not in sentence] == []


def test_a_missing_value_is_refused_where_the_recipe_says_so(refused: Callable[..., str]) -> None:
    frame = table()
    frame.loc[5, "x"] = np.nan
    sentence = refused(TABLE, "--set", "data.missing=refuse", frame=frame)
    assert "'x', row 5" in sentence


def test_data_that_have_changed_are_named_by_their_fingerprint(
    home: Path, refused: Callable[..., str], plain: Callable[[str], str]
) -> None:
    other = "0123456789abcdef" * 2
    sentence = refused(TABLE, "--set", f"data.fingerprint='{other}'")
    assert [word for word in ("table.csv", "changed or are damaged", other, "data.fingerprint") if word not in sentence] == []
    found = re.search("fingerprint is ([0-9a-f]{32}) and not", sentence)
    assert found is not None
    frame = table()
    frame.loc[7, "x"] += 0.001
    again = refused(TABLE, "--set", f"data.fingerprint='{found[1]}'", frame=frame)
    assert f"not {found[1]}" in again


def test_a_split_too_small_for_its_classes_is_refused(refused: Callable[..., str]) -> None:
    frame = table()
    frame.loc[1, "kind"] = "c"
    sentence = refused(TABLE, frame=frame)
    assert [word for word in ("table.csv", "'kind'", "'c'", "role") if word not in sentence] == []


def test_a_partition_that_leaves_a_member_empty_is_refused(refused: Callable[..., str]) -> None:
    sentence = refused(TABLE, "--set", "partition=disjoint", "--set", "members.0.count=40")
    assert "partition: member 'mlp-" in sentence
    assert "rows" in sentence


def test_a_member_that_would_see_one_class_only_is_refused(refused: Callable[..., str]) -> None:
    frame = table()
    frame["kind"] = ["b" if i % 12 == 0 else "a" for i in range(60)]
    sentence = refused(TABLE, "--set", "partition=disjoint", "--set", "members.0.count=6", frame=frame)
    assert "partition: member 'mlp-" in sentence
    assert "one class of 'kind'" in sentence


def test_without_calibration_rows_calibration_is_refused(refused: Callable[..., str]) -> None:
    assert "data.split.calibration" in refused(TABLE, "--set", "data.split.calibration=0.0")


def test_too_few_fusion_rows_are_refused(refused: Callable[..., str]) -> None:
    assert "data.split.fusion" in refused(TABLE, "--set", "data.split.fusion=0.0")


def test_check_refuses_in_the_same_words(home: Path, refused: Callable[..., str], plain: Callable[[str], str]) -> None:
    from flows.cli import app

    sentence = refused(TABLE.replace("epochs: 2", "epochs: many"))
    done = CliRunner().invoke(app, ["check", "recipe.yaml"])
    assert done.exit_code == 2
    assert plain(done.stderr) == sentence


def test_the_real_command_refuses_and_leaves_no_server(
    tmp_path: Path, command: Callable[..., Any], plain: Callable[[str], str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(TABLE)
    frame = table()
    frame.loc[7, "size"] = np.nan
    frame.to_csv(tmp_path / "table.csv", index=False)
    done = command("run", "recipe.yaml", home=tmp_path / "home")
    assert (done.code, done.out) == (2, "")
    assert len(plain(done.err).splitlines()) == 1
    assert "'size', row 7" in done.err
    assert not (tmp_path / "home" / "mlflow.db").exists()
