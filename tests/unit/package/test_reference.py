"""What a package keeps of its test rows, against the rows and answers themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import PackageError
from fuseline.evaluation.sketch import Numbers, Words
from fuseline.package.build import build_package
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import answer, predict
from fuseline.package.reference import FILE, count, empty, inputs_of, load, save


@pytest.fixture(scope="module")
def made(gone_to_fusion: Callable[..., Any]) -> tuple[Any, Path]:
    gone = gone_to_fusion()
    return gone, build_package(gone.store, gone.plan, gone.bank, gone.fused)[0]


def test_the_inputs_of_the_test_rows_are_counted(made: Any) -> None:
    gone, folder = made
    frame, kept = gone.frame.iloc[gone.plan.split.rows("test")], load(folder)["inputs"]
    assert list(kept) == ["x", "y", "color"]
    x, color = kept["x"], kept["color"]
    assert isinstance(x, Numbers)
    assert (x.known, x.missing) == (frame["x"].notna().sum(), frame["x"].isna().sum())
    assert x.mean == pytest.approx(frame["x"].mean())
    assert isinstance(color, Words)
    said = dict(zip(color.words, color.counts.tolist(), strict=True))
    assert said == {"unknown": 0, "missing": frame["color"].isna().sum(), **frame["color"].value_counts().to_dict()}


def test_what_the_package_says_of_the_test_rows_is_counted(made: Any) -> None:
    """It is taken from the bank, and the package says the same to rounding."""
    gone, folder = made
    kept, rows = load(folder), gone.plan.split.rows("test")
    said = predict(load_ensemble(folder), gone.frame[["x", "y", "color"]].iloc[rows], 64)
    classes = kept["predictions"]["kind: class"]
    assert isinstance(classes, Words)
    assert dict(zip(classes.words, classes.counts.tolist(), strict=True)) == said["kind"].value_counts().to_dict() | {
        word: 0 for word in classes.words if word not in set(said["kind"])
    }
    values = {"size": "size", "range": "range", "kind: confidence": ["kind_proba_down", "kind_proba_up"]}
    for name, columns in values.items():
        sketch = kept["predictions"][name]
        assert isinstance(sketch, Numbers)
        own = said[columns].max(axis=1) if isinstance(columns, list) else said[columns]
        assert sketch.mean == pytest.approx(own.mean(), rel=1e-5)
    yes = kept["predictions"]["signs: u"]
    assert yes.counts.tolist() == [(~said["signs_u"]).sum(), said["signs_u"].sum()]
    for name in gone.plan.recipe.targets:
        sketch = kept["disagreement"][name]
        assert isinstance(sketch, Numbers)
        assert sketch.mean == pytest.approx(said[f"{name}_epistemic"].mean(), rel=1e-4, abs=1e-9)


def test_sketches_come_back_as_they_were_saved(made: Any, tmp_path: Path) -> None:
    kept = load(made[1])
    save(kept, tmp_path / FILE)
    again = load(tmp_path)
    assert {part: list(its) for part, its in again.items()} == {part: list(its) for part, its in kept.items()}
    for part, its in kept.items():
        for name, sketch in its.items():
            other = again[part][name]
            assert other.counts.tolist() == sketch.counts.tolist()
            if isinstance(sketch, Numbers) and isinstance(other, Numbers):
                assert other.edges.tolist() == sketch.edges.tolist()
                assert (other.missing, other.about, other.sums) == (sketch.missing, sketch.about, sketch.sums)


def test_rows_counted_part_by_part_are_as_those_counted_at_once(made: Any) -> None:
    gone, folder = made
    description, ensemble, kept = load_description(folder), load_ensemble(folder), load(folder)
    frame, counts = gone.frame[["x", "y", "color"]], []
    for size in (150, 40):
        now = empty(kept)
        for start in range(0, len(frame), size):
            arrays = description.schema_.encode(frame.iloc[start : start + size])
            count(now, description.schema_, arrays, answer(ensemble, arrays, 16))
        counts.append({name: sketch.counts.tolist() for its in now.values() for name, sketch in its.items() if sketch.known})
    inputs = ("x", "y", "color")
    assert {name: counts[0][name] for name in inputs} == {name: counts[1][name] for name in inputs}
    assert all(sum(its) in (150, 150 - frame["x"].isna().sum()) for its in counts[0].values())


def test_of_pictures_the_channels_are_watched() -> None:
    schema = Schema(image=(3, 2, 2), targets={"t": TargetSchema(kind="regression")})
    pictures = np.random.default_rng(0).integers(0, 255, (2500, 3, 2, 2), np.uint8)
    series = {its.name: its.column for its in inputs_of(schema, {"image": pictures})}
    assert list(series) == [f"channel {c} {what}" for c in range(3) for what in ("mean", "spread")]
    np.testing.assert_allclose(series["channel 1 mean"], pictures[:, 1].reshape(2500, -1).mean(1))
    np.testing.assert_allclose(series["channel 2 spread"], pictures[:, 2].reshape(2500, -1).std(1))


def test_no_row_lies_in_a_package(made: Any) -> None:
    """Of each column its values in their own order alone: nothing says which belong to one row."""
    folder = made[1]
    for sketch in load(folder)["inputs"].values():
        if isinstance(sketch, Numbers):
            assert (np.diff(sketch.edges) > 0).all()
    known = {file.name for file in folder.iterdir()}
    assert not any(name.endswith((".parquet", ".csv", ".npz")) for name in known)


def test_other_test_rows_are_another_package(made: Any, gone_to_fusion: Callable[..., Any]) -> None:
    gone, folder = made
    moved = gone_to_fusion(data=gone.plan.recipe.data.model_dump() | {"split": {"rule": "stratified", "seed": 5}})
    assert build_package(moved.store, moved.plan, moved.bank, moved.fused)[0] != folder


def test_a_package_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="as in packages of earlier releases; run the recipe again"):
        load(tmp_path)


def test_a_new_word_is_unknown(made: Any) -> None:
    schema = load_description(made[1]).schema_
    arrays = schema.encode(pd.DataFrame({"x": [1.0], "y": [2.0], "color": ["violet"]}))
    [color] = [its for its in inputs_of(schema, arrays) if its.name == "color"]
    assert color.words is not None
    assert color.words[int(color.column[0])] == "unknown"
