"""Rows to predict, from a Parquet or CSV file, an npz archive or a folder of pictures: some at a time, numbered from 0.

A source is divided into parts of so many rows, always the same ones, so that what was done of it before can be passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fuseline.data.decoding import open_picture, pixels
from fuseline.data.files import from_npz
from fuseline.data.pictures import EXTENSIONS, pictures_in
from fuseline.data.schema import Schema
from fuseline.errors import DataError, first_line
from fuseline.package.stream import ROWS, frame_of, opened

BYTES = 1 << 28
"""So many bytes of pictures are read at a time."""

BLOCK = 1 << 24
"""So many bytes of a CSV file."""

Bad = dict[int, str]
"""Rows that can't be read, by their numbers, and why."""


@dataclass(frozen=True)
class Part:
    """Some rows of a source: what could be read of them, their numbers and ids, and those that could not be read.

    Attributes:
        rows: a table, or pictures (N, C, H, W).
        numbers: (N,) counted from 0 over the whole source.
        ids: (N,), where the source has them.
        others: those of the wanted further columns that the source has.
    """

    rows: pd.DataFrame | NDArray[Any]
    numbers: NDArray[np.int64]
    ids: NDArray[Any] | None
    bad: Bad
    others: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Wanted:
    """What is to be read: the inputs of a schema, the column of ids, whether pictures are brought to the schema's size, and
    further columns, as far as they are there. Pictures in folders by their class have a column ``class``."""

    schema: Schema
    id: str | None = None
    resize: bool = False
    others: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows are a part."""
        image = self.schema.image
        return ROWS if image is None else max(1, min(ROWS, BYTES // (prod(image) * np.dtype(self.schema.image_dtype).itemsize)))


def parts(source: Path, wanted: Wanted, done: int = 0) -> Iterator[Part]:
    """The parts of a source, but for the first ``done`` of them.

    Raises:
        DataError: it is not there, is of no known kind, or is not what the ensemble reads.
    """
    return READERS[_kind(source, wanted.schema)](source, wanted, done)


def id_column(source: Path, wanted: Wanted) -> str | None:
    """The column of ids that a source has: of a folder, its pictures' names.

    Raises:
        DataError: as for :func:`parts`.
    """
    kind = _kind(source, wanted.schema)
    if kind == "folder":
        return "file"
    if kind == ".parquet":
        with opened(source) as table:
            names = table.schema_arrow.names
    elif kind == ".csv":
        names = list(_header(source))
    else:
        names = list(from_npz(path=str(source)).frame.columns)
    return wanted.id if wanted.id in names else None


def _kind(source: Path, schema: Schema) -> str:
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.")
    kind = "folder" if source.is_dir() else source.suffix.lower()
    if kind not in READERS:
        raise DataError(f"{source}: rows are read from a .parquet, .csv or .npz file, or from a folder of pictures.")
    if kind in (".parquet", ".csv") and schema.image is not None:
        raise DataError(
            f"{source}: this ensemble reads pictures, and a {kind} file holds a table; give a folder or an .npz file."
        )
    if kind == "folder" and (schema.image is None or schema.image_dtype != "uint8"):
        raise DataError(f"{source}: this ensemble does not read picture files; give its inputs in a .parquet, .csv or .npz file.")
    return kind


def identity(source: Path) -> list[Any]:
    """What a source is known by, short of reading it: each file's path, size and time of change."""
    files = list(pictures_in(source)) if source.is_dir() else [source]
    return [(str(file.absolute()), (its := file.stat()).st_size, its.st_mtime_ns) for file in files]


def _parquet(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    with opened(source) as table:
        there = table.schema_arrow.names
        named = [name for name in [*wanted.schema.columns, wanted.id, *wanted.others] if name in there]
        first = 0
        batches = table.iter_batches(wanted.rows, columns=list(dict.fromkeys(named)), use_threads=False)
        for k in count():
            try:
                batch = next(batches, None)
            except (ValueError, OSError) as error:
                raise DataError(f"{source}: not readable as Parquet, from row {first} on: {first_line(error)}.") from None
            if batch is None:
                return
            if k >= done:
                yield _table(frame_of(batch), np.arange(first, first + len(batch)), wanted, {})
            first += len(batch)


def _csv(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    """By blocks of bytes; lines with too few or too many fields are bad. Words become numbers where the ensemble wants them."""
    bad: Bad = {}

    def skip(line: Any) -> str:
        bad[line.number - 2] = f"the line has {line.actual_columns} fields, and the header has {line.expected_columns}"
        return "skip"  # and the header is line 1

    try:
        names = _header(source)
        reader = pc.open_csv(
            source,
            pc.ReadOptions(use_threads=False, block_size=BLOCK),
            pc.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            pc.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]),
        )
        first, k = 0, 0
        for k, block in enumerate(reader, start=1):
            numbers = _between(first, len(block), bad)
            here = {row: why for row, why in bad.items() if first <= row < (numbers[-1] + 1 if len(numbers) else first)}
            first = int(numbers[-1]) + 1 if len(numbers) else first
            if k > done:
                yield _table(_plain(pa.table(block).to_pandas(), wanted.schema), numbers, wanted, here)
        left = {row: why for row, why in bad.items() if row >= first}
        if left and k >= done:
            yield _table(pd.DataFrame(columns=names, dtype=object), np.arange(0), wanted, left)
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise DataError(f"{source}: not readable as CSV: {first_line(error)}.") from None


def _header(source: Path) -> pd.Index[str]:
    try:
        return pd.read_csv(source, nrows=0, index_col=False, encoding="utf-8-sig").columns
    except ValueError as error:
        raise DataError(f"{source}: not readable as CSV: {first_line(error)}.") from None


def _between(first: int, rows: int, bad: Bad) -> NDArray[np.int64]:
    """The numbers of so many good rows, from ``first`` on."""
    numbers = np.arange(first, first + rows + len(bad))
    return numbers[~np.isin(numbers, list(bad))][:rows]


def _plain(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Words as the training rows' reader understood them: a column of whole numbers has lost its leading zeros there."""
    changes = {}
    for name, vocabulary in schema.categorical.items():
        if name in frame.columns:
            known = set(vocabulary)
            words = {word: _word(word, known) for word in frame[name].dropna().unique()}
            changes[name] = frame[name].map(words, na_action="ignore")
    return frame.assign(**changes)


def _word(word: str, known: set[str]) -> str:
    """
    >>> _word("007", {"7", "8"}), _word("true", {"True"}), _word("red", {"blue"})
    ('7', 'True', 'red')
    """
    if word in known:
        return word
    if word.capitalize() in known and word.capitalize() in ("True", "False"):
        return word.capitalize()
    try:
        number = float(word)
    except ValueError:
        return word
    return str(int(number)) if number.is_integer() else str(number)


def _npz(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    """As a data set's npz is read: whole, and refused where it does not fit into memory."""
    raw = from_npz(path=str(source))
    rows = len(raw.frame) if raw.image is None else len(raw.image)
    if wanted.schema.image is not None and raw.image is None:
        raise DataError(f"{source}: this ensemble reads pictures, and there is no array of them.")
    for first in range(done * wanted.rows, rows, wanted.rows):
        frame, numbers = raw.frame.iloc[first : first + wanted.rows], np.arange(first, min(rows, first + wanted.rows))
        if raw.image is None or wanted.schema.image is None:
            yield _table(frame, numbers, wanted, {})
        else:
            yield Part(raw.image[first : first + wanted.rows], numbers, _ids(frame, wanted), {}, _others(frame, wanted))


def _folder(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    """All picture files, in the order of their names; those that can't be decoded are bad."""
    assert wanted.schema.image is not None
    files = list(pictures_in(source))
    if not files:
        raise DataError(f"{source}: there are no pictures ({', '.join(sorted(EXTENSIONS))}).")
    channels, height, width = wanted.schema.image
    for first in range(done * wanted.rows, len(files), wanted.rows):
        some, bad = files[first : first + wanted.rows], Bad()
        images, kept = np.empty((len(some), channels, height, width), np.uint8), []
        for number, file in enumerate(some, start=first):
            try:
                its = pixels(open_picture(file), (height, width) if wanted.resize else None, channels)
            except Exception as error:  # a damaged file fails in as many ways as there are places for the damage
                bad[number] = f"{file}: not readable as a picture ({first_line(error)})"
                continue
            if its.shape != wanted.schema.image:
                bad[number] = f"{file}: {its.shape[1]}×{its.shape[2]} pixels, and the ensemble reads {height}×{width}"
                continue
            images[len(kept)] = its
            kept.append(number)
        names = np.array([files[number].relative_to(source).as_posix() for number in kept], dtype=object)
        classes = pd.DataFrame({"class": [name.partition("/")[0] for name in names]})
        yield Part(images[: len(kept)], np.array(kept, np.int64), names, bad, _others(classes, wanted))


def _table(frame: pd.DataFrame, numbers: NDArray[np.int64], wanted: Wanted, bad: Bad) -> Part:
    return Part(frame, numbers, _ids(frame, wanted), bad, _others(frame, wanted))


def _others(frame: pd.DataFrame, wanted: Wanted) -> pd.DataFrame:
    return frame[[name for name in wanted.others if name in frame.columns]]


def _ids(frame: pd.DataFrame, wanted: Wanted) -> NDArray[Any] | None:
    return frame[wanted.id].to_numpy() if wanted.id in frame.columns else None


READERS: dict[str, Callable[[Path, Wanted, int], Iterator[Part]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".npz": _npz,
    "folder": _folder,
}
