"""Data sources: what each reads, and one sentence for what can't be read."""

from __future__ import annotations

import gc
import inspect
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from sklearn import datasets

from fuseline.component import Component, complete
from fuseline.data.files import from_csv, from_npz, from_parquet
from fuseline.data.sources import CONTENTS, SOURCES, from_sklearn, origin_key
from fuseline.errors import DataError, RecipeError, UserError

READERS: dict[str, Callable[..., Any]] = {"npz": from_npz, "parquet": from_parquet, "csv": from_csv}


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., str]:
    """Write arrays into an npz file."""

    def write(**arrays: Any) -> str:
        np.savez(tmp_path / "a.npz", **arrays)
        return str(tmp_path / "a.npz")

    return write


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[str], str]:
    """Write text into a CSV file."""

    def write(text: str) -> str:
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        return str(tmp_path / "a.csv")

    return write


# -------------------------------------------------------------------------------------------------------------- sklearn

SHAPES = {
    "breast_cancer": (569, 30, {"target"}),
    "diabetes": (442, 10, {"target"}),
    "digits": (1797, 64, {"target"}),
    "iris": (150, 4, {"target"}),
    "linnerud": (20, 3, {"Weight", "Waist", "Pulse"}),
    "wine": (178, 13, {"target"}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_bundled_set_comes_with_its_columns(name: str) -> None:
    raw = from_sklearn(name=name, images=False)
    rows, features, targets = SHAPES[name]
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    assert raw.frame.shape == (rows, features + len(targets))
    assert targets <= set(raw.frame.columns)
    assert_frame_equal(raw.frame[bunch.feature_names], bunch.data)
    assert raw.image is None
    assert name in raw.origin


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "wine"])
def test_classes_are_named(name: str) -> None:
    bunch = getattr(datasets, f"load_{name}")()
    assert from_sklearn(name=name).frame["target"].tolist() == [str(bunch.target_names[code]) for code in bunch.target]


def test_digits_come_as_pictures() -> None:
    raw = from_sklearn(name="digits")
    assert raw.image is not None
    assert raw.image.shape == (1797, 1, 8, 8)
    assert (raw.image[:, 0] == datasets.load_digits().images).all()
    assert raw.frame.columns.tolist() == ["target"]


def test_a_set_that_is_not_bundled_is_refused(refusal: Callable[..., str]) -> None:
    component = Component(name="sklearn", settings={"name": "mnist"})
    assert "'digits'" in refusal(RecipeError, complete, component, SOURCES, "data.source")


# ------------------------------------------------------------------------------------------------------------------ npz


def test_arrays_of_one_and_two_axes_are_columns(npz: Callable[..., str]) -> None:
    x, y, word = np.arange(6.0).reshape(3, 2), np.array([1, 0, 1]), np.array(["a", "b", "c"])
    raw = from_npz(path=npz(x=x, y=y, word=word))
    assert raw.frame.columns.tolist() == ["x_0", "x_1", "y", "word"]
    assert (raw.frame[["x_0", "x_1"]].to_numpy() == x).all()
    assert raw.frame["y"].tolist() == [1, 0, 1]
    assert raw.frame["word"].tolist() == ["a", "b", "c"]
    assert raw.image is None


def test_an_array_of_three_axes_is_grey_pictures(npz: Callable[..., str]) -> None:
    pictures = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    raw = from_npz(path=npz(pictures=pictures, y=np.arange(2)))
    assert raw.image is not None
    assert raw.image.shape == (2, 1, 3, 4)
    assert (raw.image[:, 0] == pictures).all()
    assert raw.frame.columns.tolist() == ["y"]


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((2, 5, 6, 3), "auto", (2, 3, 5, 6)),
        ((2, 5, 6, 1), "auto", (2, 1, 5, 6)),
        ((2, 5, 6, 4), "auto", (2, 4, 5, 6)),
        ((2, 3, 5, 6), "auto", (2, 3, 5, 6)),
        ((2, 3, 5, 3), "first", (2, 3, 5, 3)),
        ((2, 5, 6, 2), "last", (2, 2, 5, 6)),
    ],
)
def test_the_channel_axis_comes_first(
    npz: Callable[..., str], shape: tuple[int, ...], layout: Any, expected: tuple[int, ...]
) -> None:
    pictures = np.random.default_rng(0).random(shape)
    raw = from_npz(path=npz(p=pictures, y=np.arange(2)), layout=layout)
    assert raw.image is not None
    assert raw.image.shape == expected
    assert (raw.image == (pictures if shape == expected else pictures.transpose(0, 3, 1, 2))).all()


def test_one_of_several_pictures_is_named(npz: Callable[..., str], refusal: Callable[..., str]) -> None:
    path = npz(a=np.zeros((2, 3, 3)), b=np.ones((2, 3, 3)), y=np.arange(2))
    raw = from_npz(path=path, image="b")
    assert raw.image is not None
    assert raw.image.all()
    assert "a, b" in refusal(DataError, from_npz, path=path)
    assert "'c'" in refusal(DataError, from_npz, path=path, image="c")
    assert "'y'" in refusal(DataError, from_npz, path=path, image="y")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.array([{}, None], object)}, "pickle"),
        ({"a": np.array(["x", 1], object), "y": np.arange(2)}, "pickle"),
        ({"a": np.arange(3), "b": np.arange(4)}, "a 3, b 4"),
        ({"a": np.arange(3), "b": np.array(1)}, "b"),
        ({"a": np.zeros((2, 1, 1, 1, 1))}, "5 axes"),
        ({}, "a.npz"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    npz: Callable[..., str], refusal: Callable[..., str], arrays: dict[str, Any], words: str
) -> None:
    assert words in refusal(DataError, from_npz, path=npz(**arrays))


def test_columns_of_one_name_are_refused(npz: Callable[..., str], refusal: Callable[..., str]) -> None:
    path = npz(x=np.zeros((3, 2)), x_1=np.ones(3), y=np.arange(3))
    assert "'x_1'" in refusal(DataError, from_npz, path=path)


def test_a_single_array_is_no_npz(tmp_path: Path, refusal: Callable[..., str]) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert "a.npy" in refusal(DataError, from_npz, path=str(tmp_path / "a.npy"))


def test_a_flipped_byte_in_a_compressed_archive_is_refused_in_one_sentence(tmp_path: Path, refusal: Callable[..., str]) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=np.arange(1000))
    with zipfile.ZipFile(file) as archive:
        size = archive.infolist()[0].compress_size
    sound = file.read_bytes()
    for position in range(60, 30 + size, 97):
        broken = bytearray(sound)
        broken[position] ^= 0x55
        file.write_bytes(broken)
        assert "a.npz" in refusal(DataError, from_npz, path=str(file))


# -------------------------------------------------------------------------------------------------------------- parquet


def test_parquet_keeps_values_missing_ones_and_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": [1.5, None, -0.0],
            "i": [1, 2, 3],
            "word": ["a", None, "c"],
            "flag": [True, False, True],
            "kind": pd.Categorical(["x", "y", "x"]),
            "when": pd.to_datetime(["2024-01-01", "2024-06-01", None]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    raw = from_parquet(path=str(tmp_path / "a.parquet"))
    assert_frame_equal(raw.frame, frame)
    assert raw.origin == str(tmp_path / "a.parquet")


def test_the_names_of_columns_are_words(tmp_path: Path) -> None:
    pd.DataFrame(np.zeros((2, 2))).to_parquet(tmp_path / "a.parquet")
    assert from_parquet(path=str(tmp_path / "a.parquet")).frame.columns.tolist() == ["0", "1"]


# ------------------------------------------------------------------------------------------------------------------ csv


def test_csv_keeps_missing_values_and_categories(csv: Callable[[str], str]) -> None:
    frame = from_csv(path=csv("n,i,word\n1.5,1,a\n,2,\n-2e3,3,no\n")).frame
    assert_frame_equal(frame, pd.DataFrame({"n": [1.5, None, -2000.0], "i": [1, 2, 3], "word": ["a", None, "no"]}))


def test_csv_takes_another_separator_and_quotes(csv: Callable[[str], str]) -> None:
    frame = from_csv(path=csv('a;b\n1;"x;y"\n'), separator=";").frame
    assert frame.to_dict("list") == {"a": [1], "b": ["x;y"]}


@pytest.mark.parametrize("word", ["NA", "None"])
def test_only_an_empty_field_of_a_csv_is_missing(csv: Callable[[str], str], word: str) -> None:
    assert from_csv(path=csv(f"country,y\n{word},1\n,2\n")).frame["country"].isna().tolist() == [False, True]


@pytest.mark.parametrize("text", ["", "\n", "a,b\n1,2\n1,2,3\n", 'a,b\n"open,2\n'])
def test_a_broken_csv_is_refused(csv: Callable[[str], str], refusal: Callable[..., str], text: str) -> None:
    assert "a.csv" in refusal(DataError, from_csv, path=csv(text))


def test_rows_that_are_all_longer_than_the_header_are_not_shifted(csv: Callable[[str], str], refusal: Callable[..., str]) -> None:
    assert "a.csv" in refusal(DataError, from_csv, path=csv("a,b\n1,2,3\n4,5,6\n"))


@pytest.mark.parametrize("separator", ["", "\n", ";;"])
def test_a_separator_is_one_character(csv: Callable[[str], str], refusal: Callable[..., str], separator: str) -> None:
    path = csv("a;b\n1;2\n")

    def read() -> None:
        component = complete(Component(name="csv", settings={"path": path, "separator": separator}), SOURCES, "data.source")
        SOURCES["csv"](**component.settings)

    refusal(UserError, read)  # by the check of the settings or by the reader


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_or_a_folder_is_named(tmp_path: Path, refusal: Callable[..., str], kind: str) -> None:
    for path in (tmp_path / "none", tmp_path):
        assert str(path) in refusal(DataError, READERS[kind], path=str(path))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an open file: the next test is about that
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", b"PAR1junkPAR1", b"\xff\xfe\x00\x01" * 50])
@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, refusal: Callable[..., str], kind: str, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert str(tmp_path / "a") in refusal(DataError, READERS[kind], path=str(tmp_path / "a"))


def test_an_archive_that_can_not_be_read_is_not_left_open(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04junk")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refusal(DataError, from_npz, path=str(tmp_path / "a.npz"))
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_csv_that_is_not_utf8_is_named(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff,2\n")
    assert "a.csv" in refusal(DataError, from_csv, path=str(tmp_path / "a.csv"))


def test_the_origin_follows_settings_and_the_files_content(csv: Callable[[str], str], tmp_path: Path) -> None:
    path = csv("a,b\n1,2\n")
    source = Component(name="csv", settings={"path": path, "separator": ","})
    before = origin_key(source)
    assert origin_key(source) == before
    assert origin_key(Component(name="csv", settings={"path": path, "separator": ";"})) != before
    shutil.copy(path, tmp_path / "copy.csv")
    csv("a,b\n1,3\n")
    assert origin_key(source) != before
    shutil.copy(tmp_path / "copy.csv", path)
    assert origin_key(source) == before


def test_the_origin_of_a_bundled_set_follows_its_name() -> None:
    iris, wine = (Component(name="sklearn", settings={"name": name}) for name in ("iris", "wine"))
    assert origin_key(iris) != origin_key(wine)


def test_the_origin_of_a_missing_file_is_refused(refusal: Callable[..., str]) -> None:
    assert "/none.csv" in refusal(DataError, origin_key, Component(name="csv", settings={"path": "/none.csv"}))


def test_every_source_is_known_by_a_file_or_says_by_what() -> None:
    by_file = {name for name in SOURCES if "path" in inspect.signature(SOURCES[name]).parameters}
    assert set(CONTENTS) <= set(SOURCES)
    assert set(SOURCES) - set(CONTENTS) <= by_file
