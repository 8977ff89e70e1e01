"""The data set: what is refused, what is kept, and what its hashes stand for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

import fuseline.data.dataset
from fuseline.component import Component
from fuseline.data.dataset import Dataset, content_hash, prepare, read
from fuseline.data.schema import FIRST, MISSING, UNKNOWN, Schema
from fuseline.errors import DataError
from fuseline.recipe import Data, Split, Target
from fuseline.store import Store

CLASSES = Target(kind="classification")
VALUES = Target(kind="regression")
FRAME = {"x": [1.0, 2.0, 3.0, 4.0], "c": ["a", "b", None, "a"], "y": ["u", "v", "u", "v"]}

Prepare = Callable[..., tuple[Dataset, bool]]


@pytest.fixture
def table(store: Store, tmp_path: Path) -> Prepare:
    """Write columns into a Parquet file and prepare it, with settings of ``Data`` and the targets."""

    def run(columns: dict[str, Any], targets: dict[str, Target] | None = None, **settings: Any) -> tuple[Dataset, bool]:
        path = tmp_path / "table.parquet"
        pd.DataFrame(columns).to_parquet(path)
        data = Data(source=Component(name="parquet", settings={"path": str(path)}), **settings)
        return prepare(data, targets or {"y": CLASSES}, store)

    return run


@pytest.fixture
def pictures(store: Store, tmp_path: Path) -> Prepare:
    """Write arrays into an npz file and prepare it."""

    def run(targets: dict[str, Target] | None = None, settings: dict[str, Any] | None = None, **arrays: Any) -> Any:
        path = tmp_path / "pictures.npz"
        np.savez(path, **arrays)
        data = Data(source=Component(name="npz", settings={"path": str(path)}), **(settings or {}))
        return prepare(data, targets or {"y": CLASSES}, store)

    return run


@pytest.fixture
def refused(table: Prepare, refusal: Callable[..., str]) -> Callable[..., str]:
    """Prepare a table that must be refused, and return the sentence, which names the file."""

    def run(columns: dict[str, Any], targets: dict[str, Target] | None = None, **settings: Any) -> str:
        sentence = refusal(DataError, table, columns, targets, **settings)
        assert "table.parquet" in sentence
        return sentence

    return run


def plain(array: NDArray[Any]) -> list[Any]:
    return np.asarray(array).tolist()


# ---------------------------------------------------------------------------------------------------------- what is kept


def test_columns_become_inputs_and_targets(table: Prepare) -> None:
    dataset, reused = table(FRAME)
    assert not reused
    assert len(dataset) == 4
    assert dataset.schema.numeric == ["x"]
    assert dataset.schema.categorical == {"c": ["a", "b"]}
    assert dataset.schema.targets["y"].classes == ["u", "v"]
    assert plain(dataset.inputs["numeric"]) == [[1.0], [2.0], [3.0], [4.0]]
    assert plain(dataset.inputs["categorical"]) == [[FIRST], [FIRST + 1], [MISSING], [FIRST]]
    assert plain(dataset.targets["y"]) == [0, 1, 0, 1]
    assert plain(dataset.ids) == ["0", "1", "2", "3"]
    assert dataset.split_column is None


def test_a_target_may_have_another_name_than_its_column(table: Prepare) -> None:
    dataset, _ = table(FRAME, {"outcome": Target(kind="classification", column="y")})
    assert set(dataset.targets) == {"outcome"}
    assert "y" not in dataset.schema.columns


def test_several_targets_are_kept_apart(table: Prepare) -> None:
    dataset, _ = table({**FRAME, "z": [1, 2, 3, 4]}, {"y": CLASSES, "z": VALUES})
    assert plain(dataset.targets["z"]) == [1.0, 2.0, 3.0, 4.0]
    assert dataset.targets["z"].dtype == np.float64
    assert dataset.schema.columns == ["x", "c"]


def test_ids_and_the_split_column_are_no_inputs(table: Prepare) -> None:
    columns = {**FRAME, "id": [7, 8, 9, 10], "g": ["p", "p", "q", "q"]}
    dataset, _ = table(columns, id="id", split=Split(rule="group", column="g"))
    assert dataset.schema.columns == ["x", "c"]
    assert plain(dataset.ids) == ["7", "8", "9", "10"]
    assert dataset.split_column is not None
    assert plain(dataset.split_column) == ["p", "p", "q", "q"]


def test_chosen_inputs_and_categories(table: Prepare) -> None:
    dataset, _ = table({**FRAME, "k": [1, 2, 1, 2]}, inputs=["k", "x"], categorical=["k"])
    assert dataset.schema.numeric == ["x"]
    assert dataset.schema.categorical == {"k": ["1", "2"]}


def test_a_flag_is_a_category(table: Prepare) -> None:
    dataset, _ = table({**FRAME, "f": [True, False, True, True]})
    assert dataset.schema.categorical["f"] == ["False", "True"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([1, 0, 2, 1], [0, 1, 2]),
        ([1.0, 0.0, 2.0, 1.0], [0, 1, 2]),
        ([True, False, True, True], [False, True]),
        (["no", "yes", "no", "no"], ["no", "yes"]),
        (["10", "9", "9", "10"], ["10", "9"]),
    ],
)
def test_labels_of_any_kind_are_coded_in_the_order_of_the_classes(table: Prepare, labels: list[Any], classes: list[Any]) -> None:
    dataset, _ = table({**FRAME, "y": labels})
    assert dataset.schema.targets["y"].classes == classes
    assert [type(label) for label in dataset.schema.targets["y"].classes] == [type(label) for label in classes]
    assert [classes[code] for code in dataset.targets["y"]] == labels


def test_declared_classes_keep_their_order_and_may_be_absent(table: Prepare) -> None:
    dataset, _ = table(FRAME, {"y": Target(kind="classification", classes=["w", "v", "u"])})
    assert plain(dataset.targets["y"]) == [2, 1, 2, 1]
    assert dataset.schema.targets["y"].width == 3


def test_pictures_are_kept_as_bytes_where_they_are_whole(pictures: Prepare) -> None:
    whole = np.arange(32).reshape(2, 4, 4)
    dataset, _ = pictures(p=whole, y=[0, 1])
    assert dataset.schema.image == (1, 4, 4)
    assert dataset.inputs["image"].dtype == np.uint8
    assert (dataset.inputs["image"][:, 0] == whole).all()
    for other in (whole / 7, whole - 1, whole + 250):
        dataset, _ = pictures(p=other, y=[0, 1])
        assert dataset.inputs["image"].dtype == np.float32
        assert (dataset.inputs["image"][:, 0] == other.astype(np.float32)).all()


def test_times_are_kept_in_their_order(table: Prepare) -> None:
    for when in (
        ["2024-03-01", "2024-01-01", "2024-02-01", "2023-12-31"],
        [3, 1, 2, -1],
        ["2300-01-01", "1999-01-01", "2024-01-01", "1980-01-01"],
    ):
        dataset, _ = table({**FRAME, "t": when}, split=Split(rule="time", column="t"))
        assert dataset.split_column is not None
        assert np.argsort(dataset.split_column).tolist() == [3, 1, 2, 0]


def test_zones_are_taken_into_account(table: Prepare) -> None:
    when = ["2024-01-01T12:00+02:00", "2024-01-01T11:00+00:00", "2024-01-01T10:00+00:00", "2024-01-01T09:00+00:00"]
    dataset, _ = table({**FRAME, "t": when}, split=Split(rule="time", column="t"))
    assert dataset.split_column is not None
    assert dataset.split_column[0] == dataset.split_column[2] < dataset.split_column[1]


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        ({}, {"inputs": ["x", "gone"]}, "'gone'"),
        ({}, {"id": "gone"}, "'gone'"),
        ({}, {"categorical": ["gone"]}, "'gone'"),
        ({}, {"split": Split(rule="group", column="gone")}, "'gone'"),
        ({}, {"inputs": ["x", "y"]}, "'y' is a target"),
        ({"y": ["u", None, "v", "u"]}, {}, "'y', row 1: the value is missing"),
        ({"y": [0, 1, float("nan"), 1]}, {}, "'y', row 2: the value is missing"),
        ({"y": [0, 1, 0.5, 1]}, {}, "'y', row 2: 0.5"),
        ({"y": [0, 1, float("inf"), 1]}, {}, "'y', row 2: inf"),
        ({"y": ["u"] * 4}, {}, "'y' has one class only ('u')"),
        ({"i": ["a", "b", "a", "c"]}, {"id": "i"}, "'i', row 2: the id 'a'"),
        ({"i": [1, 2, 3, 2]}, {"id": "i"}, "'i', row 3: the id '2'"),
        ({"i": ["a", None, "b", "c"]}, {"id": "i"}, "'i', row 1: the id is missing"),
        ({"g": ["a", "b", None, "c"]}, {"split": Split(rule="group", column="g")}, "'g', row 2: the value is missing"),
        ({"t": ["2024-01-01", "soon", "2024-01-02", "2024-01-03"]}, {"split": Split(rule="time", column="t")}, "'t'"),
        ({"t": ["w", "x", "y", "z"]}, {"split": Split(rule="time", column="t")}, "'t'"),
        ({"x": [1.0, None, 3.0, 4.0]}, {"missing": "refuse", "inputs": ["x"]}, "'x', row 1: the value is missing"),
        ({}, {"missing": "refuse"}, "'c', row 2: the value is missing"),
        ({"x": [1.0, 2.0, float("inf"), 4.0]}, {}, "'x', row 2: inf"),
    ],
)
def test_wrong_rows_and_columns_are_named(refused: Callable[..., str], change: Any, settings: Any, words: str) -> None:
    assert words in refused({**FRAME, **change}, **settings)


def test_a_missing_target_column_is_named_with_those_that_are_there(refused: Callable[..., str]) -> None:
    sentence = refused(FRAME, {"z": CLASSES})
    assert "'z'" in sentence
    assert "x, c, y" in sentence


@pytest.mark.parametrize("classes", [["u", "w"], ["U", "V"]])
def test_a_label_that_is_not_among_the_declared_classes_is_named(refused: Callable[..., str], classes: list[Any]) -> None:
    sentence = refused(FRAME, {"y": Target(kind="classification", classes=classes)})
    row, label = (1, "v") if classes == ["u", "w"] else (0, "u")
    assert f"'y', row {row}: {label!r} is not among the classes {classes[0]}, {classes[1]}" in sentence


@pytest.mark.parametrize("value", ["high", None, float("inf"), float("nan")])
def test_a_value_that_is_no_number_is_named(refused: Callable[..., str], value: Any) -> None:
    values = ["1", "2", "3", "high"] if value == "high" else [1.0, 2.0, 3.0, value]
    assert "'y', row 3" in refused({**FRAME, "y": values}, {"y": VALUES})


def test_classes_declared_twice_are_refused() -> None:
    with pytest.raises(ValidationError, match="'u' stands there twice"):
        Target(kind="classification", classes=["u", "u", "v"])


def test_no_rows_are_refused(refused: Callable[..., str]) -> None:
    assert "no rows" in refused({name: column[:0] for name, column in FRAME.items()})


def test_no_input_columns_are_refused(refused: Callable[..., str]) -> None:
    assert "no column is left" in refused({"y": FRAME["y"]})


@pytest.mark.parametrize("settings", [{"inputs": ["p"]}, {"categorical": ["y"]}, {"inputs": ["y"]}])
def test_pictures_take_no_columns(pictures: Prepare, refusal: Callable[..., str], settings: Any) -> None:
    sentence = refusal(DataError, pictures, settings=settings, p=np.zeros((2, 4, 4)), y=[0, 1])
    assert "pictures.npz" in sentence


def test_a_picture_that_is_not_finite_is_named(pictures: Prepare, refusal: Callable[..., str]) -> None:
    p = np.zeros((3, 4, 4))
    p[2, 0, 0] = np.nan
    assert "picture 2" in refusal(DataError, pictures, p=p, y=[0, 1, 0])


def test_what_is_refused_is_not_stored(table: Prepare, refusal: Callable[..., str], store: Store) -> None:
    refusal(DataError, table, {**FRAME, "y": ["u"] * 4})
    assert list((store.root / "data").iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Data, int]:
    """A folder of pictures that are small as files and 16 MiB decoded, and how many bytes that is."""
    for i in range(64):
        (tmp_path / "pictures" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(tmp_path / "pictures" / str(i % 2) / f"{i}.png")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    settings = {"path": str(tmp_path / "pictures"), "size": 512, "channels": 1}
    return Data(source=Component(name="image_folder", settings=settings)), 64 * 512 * 512


def test_large_pictures_are_never_in_memory_as_a_whole(large: tuple[Data, int], store: Store, tmp_path: Path) -> None:
    data, size = large
    tracemalloc.start()  # it counts numpy's arrays, but not what is mapped from a file
    try:
        dataset, _ = prepare(data, {"y": Target(kind="classification", column="class")}, store)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert dataset.inputs["image"].nbytes == size
    assert isinstance(dataset.inputs["image"], np.memmap)
    assert sorted(dataset.inputs["image"][:, 0, 0, 0].tolist()) == list(range(64))
    assert peak < size / 2
    assert list((tmp_path / "scratch").iterdir()) == []


def test_nothing_is_left_of_large_pictures_that_were_refused(
    large: tuple[Data, int], store: Store, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    data, _ = large
    refusal(DataError, prepare, data, {"y": Target(kind="regression", column="file")}, store)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert list((store.root / "data").iterdir()) == []


def test_bytes_are_not_copied_unless_they_are_read_only() -> None:
    schema = Schema(image=(1, 2, 2), targets={})
    pictures = np.zeros((3, 1, 2, 2), np.uint8)
    assert np.shares_memory(schema.encode(pictures)["image"], pictures)
    pictures.flags.writeable = False
    assert schema.encode(pictures)["image"].flags.writeable


# --------------------------------------------------------------------------------------------------------------- reuse


def test_a_second_time_the_data_are_found(table: Prepare, store: Store) -> None:
    first, made = table(FRAME)
    second, found = table(FRAME)
    assert (made, found) == (False, True)
    assert first.key == second.key
    assert first.fingerprint == second.fingerprint
    assert read(store.path("data", first.key)).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"targets": {"y": Target(kind="classification", classes=["v", "u"])}},
        {"inputs": ["x"]},
        {"missing": "handle", "categorical": ["x"]},
        {"split": Split(rule="group", column="c")},
    ],
)
def test_other_settings_make_another_data_set(table: Prepare, settings: Any) -> None:
    columns = {**FRAME, "c": ["a", "b", "b", "a"]}
    first, _ = table(columns)
    other, reused = table(columns, **settings)
    assert not reused
    assert other.key != first.key


def test_a_split_by_other_shares_uses_the_same_data(table: Prepare) -> None:
    first, _ = table(FRAME)
    again, reused = table(FRAME, split=Split(test=0.4, seed=5))
    assert reused
    assert again.key == first.key


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["input-numeric.npy", "target-y.npy", "ids.npy", "content.npy", "dataset.json"])
def test_stored_data_that_are_damaged_are_made_again_from_the_source(
    table: Prepare, store: Store, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    first, _ = table(FRAME)
    file = store.path("data", first.key) / name
    sound = file.read_bytes()
    del first  # its arrays are mapped from the files
    flip(file, len(sound) - 2)
    with caplog.at_level("WARNING"):
        again, reused = table(FRAME)
    assert not reused
    assert f"data {again.key} is damaged ({name} has changed); it is made again" in caplog.text
    assert file.read_bytes() == sound


def test_a_stored_array_that_claims_more_than_there_is_is_not_mapped(table: Prepare, store: Store) -> None:
    first, _ = table(FRAME)
    file = store.path("data", first.key) / "input-numeric.npy"
    file.write_bytes(file.read_bytes().replace(b"(4, 1), ", b"(9999, 1), ").replace(b" " * 8 + b"\n", b" " * 5 + b"\n"))
    with pytest.raises(ValueError, match="mmap length is greater"):
        read(file.parent)
    assert plain(table(FRAME)[0].inputs["numeric"]) == [[1.0], [2.0], [3.0], [4.0]]


# --------------------------------------------------------------------------------------------------------- fingerprint


def write_csv(folder: Path) -> Path:
    pd.DataFrame({**FRAME, "x": [1.25, 2.5, 3.75, 4.5]}).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def write_parquet(folder: Path) -> Path:
    pd.DataFrame({**FRAME, "x": [1.25, 2.5, 3.75, 4.5]}).to_parquet(folder / "table.parquet", compression=None)
    return folder / "table.parquet"


def write_npz(folder: Path) -> Path:
    np.savez(folder / "arrays.npz", x=[1.25, 2.5, 3.75, 4.5], y=list("uvuv"))
    return folder / "arrays.npz"


def write_pictures(folder: Path) -> Path:
    for i, label in enumerate("uvuv"):
        (folder / "pictures" / label).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 50 * i + 7).save(folder / "pictures" / label / f"{i}.bmp")
    return folder / "pictures"


WRITTEN: dict[str, Callable[[Path], Path]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "npz": write_npz,
    "image_folder": write_pictures,
}


@pytest.fixture(params=WRITTEN)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[..., Data]]:
    """A file or folder of data, and the recipe's part that reads it, with a fingerprint."""
    path = WRITTEN[request.param](tmp_path)
    component = Component(name=request.param, settings={"path": str(path)})
    return path, lambda fingerprint=None: Data(source=component, fingerprint=fingerprint)


LABEL = {
    "csv": CLASSES,
    "parquet": CLASSES,
    "npz": CLASSES,
    "image_folder": Target(kind="classification", column="class"),
}


def test_data_of_the_given_fingerprint_are_taken_and_their_key_is_the_same(
    source: tuple[Path, Callable[..., Data]], store: Store
) -> None:
    _, data = source
    target = {"y": LABEL[data().source.name]}
    first, _ = prepare(data(), target, store)
    again, reused = prepare(data(first.fingerprint), target, store)
    assert reused
    assert (again.key, again.fingerprint) == (first.key, first.fingerprint)


def test_a_flipped_bit_is_found_wherever_it_is(
    source: tuple[Path, Callable[..., Data]], store: Store, refusal: Callable[..., str]
) -> None:
    """Of the first numbers; whatever it does to the file, the file or the row is named, and the rest of it is not read on."""
    path, data = source
    target = {"y": LABEL[data().source.name]}
    first, _ = prepare(data(), target, store)
    file = path if path.is_file() else path / "u" / "0.bmp"
    value = {"csv": b"1.25", "image_folder": bytes([7] * 8)}.get(data().source.name, np.float64(1.25).tobytes())
    start, sound = file.read_bytes().find(value), file.read_bytes()
    assert start >= 0
    for place in range(len(value)):
        file.write_bytes(sound)
        flip(file, start + place)
        sentence = refusal(DataError, prepare, data(first.fingerprint), target, store)
        assert str(path) in sentence
    file.write_bytes(sound)
    assert prepare(data(first.fingerprint), target, store)[1]


def test_other_data_are_named_with_both_fingerprints_and_not_stored(
    table: Prepare, store: Store, refused: Callable[..., str]
) -> None:
    first, _ = table(FRAME)
    other, _ = table({**FRAME, "x": [1.0, 2.0, 3.0, 5.0]})
    kept = {path.name for path in (store.root / "data").iterdir()}
    for columns, found in (({**FRAME, "x": [1.0, 2.0, 3.0, 6.0]}, ""), (FRAME, first.fingerprint)):
        sentence = refused(columns, fingerprint=other.fingerprint)
        assert "have changed or are damaged" in sentence
        assert f"is {found}" in sentence
        assert f"not {other.fingerprint}" in sentence
        assert {path.name for path in (store.root / "data").iterdir()} == kept


@pytest.mark.parametrize("text", ["", "abc", "G" * 32, "a" * 33])
def test_a_fingerprint_is_32_digits(text: str) -> None:
    with pytest.raises(ValidationError, match="fingerprint"):
        Data(source=Component(name="csv"), fingerprint=text)


# -------------------------------------------------------------------------------------------------------- of every file

BAD: dict[str, tuple[dict[str, Any], dict[str, Target], str]] = {
    "a missing label": ({"y": ["u", "v", None, "v"]}, {}, "target column 'y', row 2: the value is missing"),
    "a label out of range": (
        {"y": ["u", "v", "w", "v"]},
        {"y": Target(kind="classification", classes=["u", "v"])},
        "target column 'y', row 2: 'w' is not among the classes u, v",
    ),
    "a number out of range": (
        {"y": [0, 1, 7, 1]},
        {"y": Target(kind="classification", classes=[0, 1, 2])},
        "target column 'y', row 2: 7 is not among the classes 0, 1, 2",
    ),
    "a missing value": ({"y": [1.5, 2.5, np.nan, 1.0]}, {"y": VALUES}, "target column 'y', row 2: the value is missing"),
    "an infinite value": (
        {"y": [1.5, 2.5, -np.inf, 1.0]},
        {"y": VALUES},
        "target column 'y', row 2: -inf is not",
    ),
    "an infinite input": ({"x": [1.5, 2.5, np.inf, 1.0]}, {}, "column 'x', row 2: inf is not finite"),
    "a missing input": ({"x": [1.5, 2.5, np.nan, 1.0]}, {}, "column 'x', row 2: the value is missing"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("csv", "parquet", "npz") for name in BAD if (kind, name) != ("npz", "a missing label")],
)  # an array of words has no missing ones
def test_a_bad_row_is_named_whatever_the_file(
    store: Store, tmp_path: Path, refusal: Callable[..., str], kind: str, name: str
) -> None:
    columns, targets, words = BAD[name]
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": ["u", "v", "u", "v"], **columns})
    path = str(tmp_path / f"data.{kind}")
    if kind == "npz":
        np.savez(path, **{column: np.array(frame[column].tolist()) for column in frame})
    else:
        getattr(frame, f"to_{kind}")(path, index=False)
    data = Data(source=Component(name=kind, settings={"path": path}), missing="refuse")
    sentence = refusal(DataError, prepare, data, targets or {"y": CLASSES}, store)
    assert f"data.{kind}: {words}" in sentence


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, "x 4, y 3"),
        ({"p": np.zeros((4, 2, 2)), "y": np.zeros(5)}, "p 4, y 5"),
        ({"p": np.zeros((4, 2, 2, 2, 2)), "y": np.zeros(4)}, "5 axes"),
        ({"p": np.full((4, 2, 2), np.nan), "y": [0, 1, 0, 1]}, "picture 0 holds the value nan"),
        ({"p": np.full((4, 2, 2), -np.inf), "y": [0, 1, 0, 1]}, "picture 0 holds the value -inf"),
    ],
)
def test_arrays_of_a_wrong_shape_or_value_are_named(
    pictures: Prepare, refusal: Callable[..., str], arrays: dict[str, Any], words: str
) -> None:
    sentence = refusal(DataError, pictures, **arrays)
    assert "pictures.npz" in sentence
    assert words in sentence


@pytest.mark.parametrize(("column", "value", "words"), [("y", None, "'y', row 1"), ("y", np.inf, "'y', row 1")])
def test_a_bad_row_of_a_table_of_pictures_is_named(
    store: Store, tmp_path: Path, refusal: Callable[..., str], column: str, value: Any, words: str
) -> None:
    folder = write_pictures(tmp_path)
    frame = pd.DataFrame({"file": [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.bmp"))]})
    frame[column] = [1.0, value, 2.0, 3.0]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    settings = {"path": str(folder), "table": str(tmp_path / "rows.csv")}
    data = Data(source=Component(name="image_folder", settings=settings))
    sentence = refusal(DataError, prepare, data, {"y": VALUES}, store)
    assert "rows.csv" in sentence
    assert words in sentence


@pytest.mark.parametrize(("column", "value"), [("x", 2.5), ("x", None), ("c", "d"), ("c", None), ("y", "u")])
def test_one_changed_value_changes_the_fingerprint(table: Prepare, column: str, value: Any) -> None:
    before, _ = table(FRAME)
    changed = {name: list(values) for name, values in FRAME.items()}
    changed[column][1] = value
    after, reused = table(changed)
    assert not reused
    assert after.fingerprint != before.fingerprint


def test_a_changed_id_or_split_value_changes_the_fingerprint(table: Prepare) -> None:
    prints = set()
    for ids, groups in (("abcd", "ppqq"), ("abce", "ppqq"), ("abcd", "ppqr")):
        columns = {**FRAME, "i": list(ids), "g": list(groups)}
        prints.add(table(columns, id="i", split=Split(rule="group", column="g"))[0].fingerprint)
    assert len(prints) == 3


def test_the_order_of_rows_changes_the_fingerprint(table: Prepare) -> None:
    before, _ = table(FRAME)
    after, _ = table({name: values[::-1] for name, values in FRAME.items()})
    assert after.fingerprint != before.fingerprint
    assert plain(after.content) == plain(before.content)[::-1]


# -------------------------------------------------------------------------------------------------------- content hash

SCHEMA = Schema(numeric=["a", "b"], categorical={"c": ["x", "y"], "d": ["x", "y"]}, targets={})
CELLS = st.sampled_from([0.0, -0.0, 1.0, float("nan"), 1e-45])
ROWS = st.tuples(CELLS, CELLS, st.sampled_from([None, "x", "y", "z"]), st.sampled_from([None, "x", "y", "z"]))


def frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["a", "b", "c", "d"])
    return table.astype({"a": float, "b": float, "c": object, "d": object})


def hashes(rows: list[tuple[Any, ...]], schema: Schema = SCHEMA) -> list[int]:
    return plain(content_hash(schema, schema.encode(frame(rows))))


def meaning(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a row says: -0.0 is 0, a NaN is a NaN, and a category outside the vocabulary is unknown."""
    numbers = ["nan" if value != value else value + 0.0 for value in row[:2]]
    return (*numbers, *("unknown" if word == "z" else word for word in row[2:]))


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_rows_have_one_hash_exactly_if_they_say_the_same(rows: list[tuple[Any, ...]]) -> None:
    of = hashes(rows)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (of[i] == of[j]) is (meaning(a) == meaning(b))


@given(st.lists(ROWS, min_size=1, max_size=5), st.lists(ROWS, max_size=5))
def test_a_rows_hash_does_not_depend_on_other_rows(rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> None:
    assert hashes(rows + others)[: len(rows)] == hashes(rows)


@given(st.lists(ROWS.filter(lambda row: "z" not in row), min_size=1, max_size=5))
def test_a_rows_hash_does_not_depend_on_new_words(rows: list[tuple[Any, ...]]) -> None:
    wider = SCHEMA.model_copy(update={"categorical": {"c": ["a", "x", "xx", "y", "z"], "d": ["w", "x", "y"]}})
    assert hashes(rows, wider) == hashes(rows)


def test_every_nan_is_the_same_and_the_inputs_stay_as_they_are() -> None:
    schema = Schema(numeric=["a"], targets={})
    bits = np.array([0x7FF8 << 48, (0x7FF8 << 48) + 1, 0xFFF8 << 48, (0x7FF0 << 48) + 1], np.uint64)
    array = bits.view(np.float64)[:, None].copy()
    assert len(set(plain(content_hash(schema, {"numeric": array})))) == 1
    assert (array.view(np.uint64)[:, 0] == bits).all()


def test_columns_are_not_mixed_up() -> None:
    assert len(set(hashes([(1.0, 0.0, "x", "y"), (0.0, 1.0, "x", "y"), (1.0, 0.0, "y", "x")]))) == 3


def test_a_word_cannot_pass_for_a_missing_or_unknown_one() -> None:
    schema = Schema(categorical={"c": ["missing", "unknown", "=x", "x"]}, targets={})
    rows = pd.DataFrame({"c": ["missing", "unknown", "=x", "x", None, "never"]})
    assert len(set(plain(content_hash(schema, schema.encode(rows))))) == 6


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pictures_are_told_apart_by_any_pixel(dtype: str) -> None:
    schema = Schema(image=(2, 3, 3), image_dtype=dtype, targets={})
    pictures = np.zeros((20, 2, 3, 3))
    pictures.reshape(20, 18)[np.arange(18), np.arange(18)] = 1
    of = plain(content_hash(schema, schema.encode(pictures)))
    assert len(set(of)) == 19
    assert of[18] == of[19]


@pytest.mark.parametrize("hashed", [1, 7, 10**9])
@given(st.lists(ROWS, min_size=1, max_size=12))
def test_rows_are_hashed_a_few_at_a_time_with_one_outcome(hashed: int, rows: list[tuple[Any, ...]]) -> None:
    """The oracle hashes the bytes of each row by itself, as the first data sets were hashed."""
    inputs = SCHEMA.encode(frame(rows))
    numbers = inputs["numeric"] + 0.0  # -0.0 becomes 0.0

    def digest(raw: bytes) -> bytes:
        return blake2b(raw, digest_size=8).digest()

    words = {UNKNOWN: "unknown", MISSING: "missing", FIRST: "=x", FIRST + 1: "=y"}
    expected = [
        digest(b"".join(digest(words[c].encode()) for c in codes) + np.where(np.isnan(row), np.nan, row).tobytes())
        for codes, row in zip(inputs["categorical"].tolist(), numbers, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuseline.data.dataset, "HASHED", hashed)
        assert content_hash(SCHEMA, inputs).tobytes() == b"".join(expected)


def test_no_rows_have_no_hashes() -> None:
    assert content_hash(SCHEMA, SCHEMA.encode(frame([]))).shape == (0,)


def test_a_stored_data_set_has_the_hashes_of_its_inputs(table: Prepare) -> None:
    dataset, _ = table(FRAME)
    assert plain(content_hash(dataset.schema, dataset.inputs)) == plain(dataset.content)
