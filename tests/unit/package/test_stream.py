"""A Parquet file in, a Parquet file out: what comes out is what the rows at once would have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fuseline.errors import DataError
from fuseline.package import stream
from fuseline.package.predict import predict
from fuseline.package.stream import predict_parquet


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "ROWS", 7)


@pytest.fixture(scope="module")
def made(ensemble_of: Callable[..., Any]) -> Any:
    return ensemble_of()


@pytest.fixture
def package(made: Any, tmp_path: Path) -> Path:
    return made.save(tmp_path / "package")


@pytest.mark.parametrize("group", [3, 20, 1000])
def test_the_answers_are_those_of_all_rows_at_once(
    made: Any, package: Path, raw: pd.DataFrame, tmp_path: Path, group: int
) -> None:
    source, target = tmp_path / "rows.parquet", tmp_path / "answers.parquet"
    raw.assign(other="?")[["other", "color", "y", "x"]].to_parquet(source, row_group_size=group)
    assert predict_parquet(package, source, target) == len(raw)
    found, expected = pd.read_parquet(target), predict(made.ensemble, raw, 16).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, atol=1e-6, rtol=1e-6)
    assert {file.name for file in tmp_path.iterdir()} == {"package", "rows.parquet", "answers.parquet"}


def test_no_rows_have_no_answers_and_the_same_columns(made: Any, package: Path, raw: pd.DataFrame, tmp_path: Path) -> None:
    source, target = tmp_path / "rows.parquet", tmp_path / "answers.parquet"
    raw.iloc[:0].to_parquet(source)
    assert predict_parquet(package, source, target) == 0
    found = pd.read_parquet(target)
    assert list(found.columns) == made.description.schema_.answers
    assert len(found) == 0


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["red", None, "blue", "green"] * 5).dictionary_encode(),
        pa.array(["red", None, "blue", "green"] * 5, pa.large_string()),
    ],
    ids=["dictionary", "large"],
)
def test_words_may_be_stored_in_any_way(made: Any, package: Path, tmp_path: Path, column: Any) -> None:
    rows = pd.DataFrame({"x": [1, 2, 3, 4] * 5, "y": [0.5, -1, 2, 8] * 5, "color": ["red", None, "blue", "green"] * 5})
    decimals = pa.array([Decimal("0.50"), Decimal("-1.00"), Decimal("2.00"), Decimal("8.00")] * 5)
    pq.write_table(pa.table({"x": pa.array(rows["x"], pa.int8()), "y": decimals, "color": column}), tmp_path / "rows.parquet")
    predict_parquet(package, tmp_path / "rows.parquet", tmp_path / "answers.parquet")
    found = pd.read_parquet(tmp_path / "answers.parquet")
    pd.testing.assert_frame_equal(found, predict(made.ensemble, rows, 16), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda rows: rows.drop(columns="y"), ["rows.parquet", "'y'", "missing"]),
        (lambda rows: rows.assign(x=[*rows["x"][:30], np.inf, *rows["x"][31:]]), ["rows.parquet", "'x'", "row 30:", "finite"]),
        (lambda rows: rows.assign(y=["1"] * 49 + ["two"]), ["rows.parquet", "'y'", "row 49:", "'two'"]),
    ],
    ids=["no column", "infinite", "a word"],
)
def test_what_is_wrong_is_named_and_nothing_is_left(
    package: Path, raw: pd.DataFrame, tmp_path: Path, refusal: Callable[..., str], change: Callable[..., Any], named: list[str]
) -> None:
    change(raw).to_parquet(tmp_path / "rows.parquet", row_group_size=11)
    target = tmp_path / "answers.parquet"
    target.write_text("what was there")
    sentence = refusal(DataError, predict_parquet, package, tmp_path / "rows.parquet", target)
    assert all(part in sentence for part in named), sentence
    assert target.read_text() == "what was there"
    assert {file.name for file in tmp_path.iterdir()} == {"package", "rows.parquet", "answers.parquet"}


def test_files_that_do_not_fit_are_named(
    package: Path, ensemble_of: Callable[..., Any], raw: pd.DataFrame, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    source, text = tmp_path / "rows.parquet", tmp_path / "rows.csv"
    raw.to_parquet(source)
    raw.to_csv(text)
    pictures = ensemble_of(pictures=True).save(tmp_path / "pictures")

    def said(package: Path, source: Path, target: Path) -> str:
        return refusal(DataError, predict_parquet, package, source, target)

    assert "none.parquet: there is no such file" in said(package, tmp_path / "none.parquet", tmp_path / "a.parquet")
    assert "rows.csv: not readable as Parquet" in said(package, text, tmp_path / "a.parquet")
    assert "none/a.parquet: the answers can't be written" in said(package, source, tmp_path / "none" / "a.parquet")
    assert "rows.parquet: the answers would take the place of the rows" in said(package, source, source)
    assert "pictures" in said(pictures, source, tmp_path / "a.parquet")


def test_a_damaged_file_is_named_with_the_row(
    package: Path, raw: pd.DataFrame, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    source = tmp_path / "rows.parquet"
    raw.to_parquet(source, row_group_size=25, compression="gzip")
    chunk = pq.read_metadata(source).row_group(1).column(0)
    content = bytearray(source.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = b"\xff" * 40
    source.write_bytes(content)
    sentence = refusal(DataError, predict_parquet, package, source, tmp_path / "answers.parquet")
    assert "rows.parquet: not readable as Parquet, from row" in sentence


def test_reading_computing_and_writing_go_on_at_once_and_nobody_runs_ahead() -> None:
    """Part 1 is written while part 2 is computed and part 3 is read: each waits for the other two to be there."""
    meeting = threading.Barrier(3, timeout=60)
    read, computed, written = [], [], []

    def parts() -> Iterator[Any]:
        for number in (1, 2, 3):
            assert number - len(written) <= 3
            if number == 3:
                meeting.wait()
            read.append(number)
            yield {"number": number}

    def compute(part: Any) -> Any:
        if part["number"] == 2:
            meeting.wait()
        computed.append(part["number"])
        return part["number"]

    def write(answers: Any) -> None:
        if answers == 1:
            meeting.wait()
        written.append(answers)

    stream.stream(parts(), compute, write)
    assert read == computed == written == [1, 2, 3]


@pytest.mark.parametrize("place", ["read", "compute", "write"])
def test_an_error_anywhere_ends_the_whole(place: str) -> None:
    def fail(stage: str, number: int) -> int:
        if stage == place and number == 5:
            raise RuntimeError(stage)
        return number

    parts: Iterator[Any] = (fail("read", number) for number in range(100))
    written: list[int] = []
    with pytest.raises(RuntimeError, match=place):
        stream.stream(parts, lambda part: fail("compute", part), lambda part: written.append(fail("write", part)))
    assert written == [0, 1, 2, 3, 4]


def test_the_threads_are_as_they_were(package: Path, raw: pd.DataFrame, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    raw.to_parquet(tmp_path / "rows.parquet")
    predict_parquet(package, tmp_path / "rows.parquet", tmp_path / "answers.parquet")
    assert torch.get_num_threads() == before
