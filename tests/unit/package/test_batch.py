"""Sources of every kind in, a Parquet file out: part by part, resumed, with the bad rows apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fuseline.errors import DataError
from fuseline.evaluation.conformal import Conformal
from fuseline.package import batch, readers
from fuseline.package.batch import Predicted, predict_file
from fuseline.package.predict import predict


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(readers, "ROWS", 7)
    monkeypatch.setenv("FUSELINE_HOME", str(tmp_path / "home"))


RULES = {
    "kind": Conformal(score="probability", coverage=0.9, rows=50, threshold=0.7),
    "grade": Conformal(score="probability", coverage=0.9, rows=50, threshold=0.8),
    "size": Conformal(score="scaled", coverage=0.9, rows=50, threshold=2.0),
    "range": Conformal(score="quantiles", coverage=0.9, rows=50, threshold=0.5),
}


@pytest.fixture(scope="module")
def made(ensemble_of: Callable[..., Any]) -> Any:
    its = ensemble_of()
    targets = {name: part.model_copy(update={"conformal": RULES.get(name)}) for name, part in its.description.targets.items()}
    return type(its)(its.description.model_copy(update={"targets": targets}), its.networks, its.combiners)


@pytest.fixture
def package(made: Any, tmp_path: Path) -> Path:
    return made.save(tmp_path / "package")


def go(package: Path, source: Path, **settings: Any) -> tuple[Predicted, pd.DataFrame]:
    target = source.parent / "answers.parquet"
    done = predict_file(package, source, target, source.parent / "bad.csv", **settings)
    hidden = [path.name for path in source.parent.iterdir() if path.name.startswith(".")]
    assert hidden == []
    return done, pd.read_parquet(target)


def test_the_answers_are_those_of_all_rows_at_once_with_ids_and_sets(
    made: Any, package: Path, raw: pd.DataFrame, tmp_path: Path
) -> None:
    raw.reset_index().to_parquet(tmp_path / "rows.parquet", row_group_size=20)
    done, found = go(package, tmp_path / "rows.parquet", id_="name")
    assert done == Predicted(50, 0, 8, 0)
    assert found.pop("name").tolist() == list(raw.index)
    expected = predict(made.ensemble, raw, 16).reset_index(drop=True)
    pd.testing.assert_frame_equal(found[expected.columns], expected, atol=1e-6, rtol=1e-6)
    assert set(found.columns) - set(expected.columns) == {
        "kind_set", "grade_set", "size_low", "size_high", "range_low", "range_high",
    }  # fmt: skip
    for target, classes, t in (("kind", ["up", "down", "still"], 0.7), ("grade", [1, 2, 3, 5], 0.8)):
        p = found[[f"{target}_proba_{c}" for c in classes]].to_numpy()
        sets = [{c for c, its in zip(classes, row, strict=True) if its >= 1 - t or its == row.max()} for row in p]
        assert [set(its) for its in found[f"{target}_set"]] == sets
    half = 2 * np.sqrt(found["size_uncertainty"])
    np.testing.assert_allclose(found["size_low"], found["size"] - half)
    np.testing.assert_allclose(found["size_high"], found["size"] + half)
    ordered = found["range_q0.95"] - found["range_q0.05"] >= -1
    np.testing.assert_allclose(found["range_low"][ordered], (found["range_q0.05"] - 0.5)[ordered])
    assert (found["range_low"] <= found["range_high"]).all()


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_bad_rows_are_listed_with_their_reason_and_the_others_answered(
    made: Any, package: Path, tmp_path: Path, kind: str
) -> None:
    x = ["1.5", "?", "", "-2", "inf", "0", "7", "8", "9", "x"]
    rows = pd.DataFrame({"x": x, "y": np.arange(10.0), "color": ["red", None] * 5})
    source = tmp_path / f"rows.{kind}"
    if kind == "csv":
        rows.to_csv(source, index=False)
    elif kind == "parquet":
        rows.assign(x=rows["x"].replace("", None)).to_parquet(source)
    else:
        numbers = np.array([1.5, np.inf, np.nan, -2, -np.inf, 0, 7, 8, 9, np.inf])
        np.savez(source, x=numbers, y=rows["y"], color=np.array(["red", "?"] * 5))
    done, found = go(package, source)
    assert (done.rows, done.rejected) == (7, 3)
    good = [0, 2, 3, 5, 6, 7, 8]
    assert found["row"].tolist() == good
    clean = pd.DataFrame({"x": [1.5, np.nan, -2, 0, 7, 8, 9], "y": rows["y"][good], "color": rows["color"][good]})
    expected = predict(made.ensemble, clean, 16).reset_index(drop=True)
    if kind != "npz":  # there, "?" is a word never seen in the place of a missing one
        pd.testing.assert_frame_equal(found[expected.columns], expected, atol=1e-6, rtol=1e-6)
    bad = pd.read_csv(tmp_path / "bad.csv")
    assert bad["row"].tolist() == [1, 4, 9]
    assert bad["reason"][1] in [f"column 'x': {word} is not finite" for word in ("inf", "-inf", "'inf'")]
    assert all(reason.startswith("column 'x': ") for reason in bad["reason"])


def test_lines_of_a_csv_with_another_number_of_fields_are_bad_rows(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["x,y,color,name"]
    for row in range(200):
        odd = {50: "1,2", 51: "1,2,red,n,more", 120: '1,2,"re\nd",n120', 199: "1"}
        lines.append(odd.get(row, f"{row},2,red,n{row}"))
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    every = []
    for block in (1 << 24, 600):
        monkeypatch.setattr(readers, "BLOCK", block)
        done, found = go(package, tmp_path / "rows.csv", id_="name")
        assert (done.rows, done.rejected) == (197, 3)
        assert found["name"].tolist() == [f"n{row}" for row in range(200) if row not in (50, 51, 199)]
        bad = pd.read_csv(tmp_path / "bad.csv")
        assert bad["row"].tolist() == [50, 51, 199]
        assert bad["reason"][0] == "the line has 2 fields, and the header has 4"
        every.append(found)
    assert done.parts > 2
    pd.testing.assert_frame_equal(*every)


def test_a_killed_command_goes_on_with_the_part_where_it_was(
    package: Path, raw: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "rows.parquet", tmp_path / "answers.parquet"
    raw.assign(x=raw["x"].astype(object).where(raw.index != "row 9", "?").astype(str)).to_parquet(source)
    whole = go(package, source)
    target.unlink()
    write, written = pq.write_table, []

    def dies(table: Any, place: Path) -> None:
        written.append(place.name)
        if len(written) == 6:  # the answers of the third part
            place.write_bytes(b"torn")
            raise KeyboardInterrupt
        write(table, place)

    monkeypatch.setattr(batch.pq, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        predict_file(package, source, target, tmp_path / "bad.csv")
    assert not target.exists()
    monkeypatch.setattr(batch.pq, "write_table", write)
    done, found = go(package, source)
    assert (done.parts, done.reused) == (8, 2)
    assert done.rejected == whole[0].rejected > 0
    pd.testing.assert_frame_equal(found, whole[1])


def test_parts_of_other_rows_are_not_used(package: Path, raw: pd.DataFrame, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    raw.to_parquet(source)
    before = predict_file(package, source, tmp_path / "answers.parquet", tmp_path / "bad.csv")
    stale = tmp_path / f".answers.parquet.{'0' * 32}"
    stale.mkdir()
    (stale / "000000.parquet").write_bytes(b"?")
    assert go(package, source)[0] == before
    assert not stale.exists()


def test_no_rows_have_no_answers_and_all_columns(package: Path, raw: pd.DataFrame, tmp_path: Path) -> None:
    raw.to_parquet(tmp_path / "rows.parquet")
    full = go(package, tmp_path / "rows.parquet")[1]
    raw.iloc[:0].to_parquet(tmp_path / "rows.parquet")
    done, found = go(package, tmp_path / "rows.parquet")
    assert (done.rows, len(found)) == (0, 0)
    assert list(found.columns) == list(full.columns)


def test_where_every_row_is_bad_it_says_so_and_lists_them(package: Path, tmp_path: Path) -> None:
    pd.DataFrame({"x": ["?"] * 9, "y": [1.0] * 9, "color": ["red"] * 9}).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(DataError, match=r"none of its 9 rows can be predicted; row 0: column 'x': '\?' is not a number"):
        go(package, tmp_path / "rows.csv")
    assert len(pd.read_csv(tmp_path / "bad.csv")) == 9


@pytest.mark.parametrize(
    ("name", "named"),
    [("none.parquet", "no such file"), ("rows.txt", "are read"), ("empty.csv", "not readable as CSV"), ("folder", "picture")],
)
def test_a_source_that_is_none_is_named(package: Path, tmp_path: Path, name: str, named: str) -> None:
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=named) as caught:
        predict_file(package, tmp_path / name, tmp_path / "answers.parquet", tmp_path / "bad.csv")
    assert name in str(caught.value)
    assert not (tmp_path / "answers.parquet").exists()


def test_a_missing_column_is_said_of_the_file_and_not_of_each_row(package: Path, raw: pd.DataFrame, tmp_path: Path) -> None:
    raw.drop(columns="y").to_csv(tmp_path / "rows.csv")
    with pytest.raises(DataError, match="the input column 'y' is missing"):
        go(package, tmp_path / "rows.csv")


# ------------------------------------------------------------------------------------------------ pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    for row in range(10):
        place = folder / f"{row % 2}" / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (4, 4), np.uint8)).save(place)
    (folder / "0" / "4.png").write_bytes(b"no picture")
    Image.new("L", (5, 4)).save(folder / "1" / "5.png")
    return folder


@pytest.mark.parametrize("resize", [False, True])
def test_a_folder_of_pictures_is_answered_by_their_names(
    ensemble_of: Callable[..., Any], pictures: Path, tmp_path: Path, resize: bool
) -> None:
    made = ensemble_of(pictures=True)
    done, found = go(made.save(tmp_path / "package"), pictures, resize=resize)
    names = [f"0/{row}.png" for row in (0, 2, 6, 8)] + [f"1/{row}.png" for row in (1, 3, 5, 7, 9) if resize or row != 5]
    assert found["file"].tolist() == names
    assert (done.rows, done.rejected) == (len(names), 10 - len(names))
    bad = pd.read_csv(tmp_path / "bad.csv")
    assert "4.png: not readable as a picture" in bad["reason"][0]
    if not resize:
        assert bad["reason"][1].endswith("4×5 pixels, and the ensemble reads 4×4")
        array = np.stack([np.asarray(Image.open(pictures / name)) for name in names])
        expected = predict(made.ensemble, array, 16)
        pd.testing.assert_frame_equal(found[expected.columns], expected, atol=1e-6, rtol=1e-6)


def test_an_archive_of_pictures_is_answered_by_row(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    made, array = ensemble_of(pictures=True), np.random.default_rng(1).integers(0, 256, (10, 4, 4), np.uint8)
    np.savez(tmp_path / "rows.npz", pictures=array)
    _, found = go(made.save(tmp_path / "package"), tmp_path / "rows.npz")
    expected = predict(made.ensemble, array, 16)
    pd.testing.assert_frame_equal(found[expected.columns], expected, atol=1e-6, rtol=1e-6)
    assert found["row"].tolist() == list(range(10))
