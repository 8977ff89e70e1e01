"""New rows from a file, some at a time, with all of their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fuseline.data import pictures
from fuseline.data.files import Raw, from_csv, from_npz
from fuseline.data.schema import Schema
from fuseline.errors import DataError
from fuseline.package.collected import Rows
from fuseline.package.stream import ROWS, frames, opened
from fuseline.store import sha256_of


def content_of(data: Path) -> str:
    """The hash of what lies in a file, or of a folder's pictures.

    Raises:
        DataError: there is no such file.
    """
    if not data.exists():
        raise DataError(f"{data}: there is no such file or folder.")
    return sha256_of(data) if data.is_file() else pictures.content({"path": str(data)})


def new_rows(data: Path, schema: Schema) -> Iterator[Rows]:
    """The rows of a Parquet, CSV or npz file, or of a folder of pictures.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    if data.suffix.lower() == ".parquet" and schema.image is None:
        first = 0
        with opened(data) as rows:
            for table in frames(rows, data):
                yield Rows(table, table, first)
                first += len(table)
        return
    raw = _raw(data, schema)
    for first in range(0, len(raw.frame), ROWS):
        part = slice(first, first + ROWS)
        table = raw.frame.iloc[part]
        if (raw.image is None) != (schema.image is None):
            raise DataError(f"{data}: expected {'pictures' if schema.image else 'a table'} to judge this ensemble by.")
        yield Rows(table if raw.image is None else raw.image[part], table, first)


def _raw(data: Path, schema: Schema) -> Raw:
    if data.is_dir():
        if schema.image is None:
            raise DataError(f"{data}: this ensemble reads a table, and a folder holds pictures; give a file.")
        channels, height, width = schema.image
        return pictures.image_folder(path=str(data), size=(height, width), channels=1 if channels == 1 else 3)
    readers: dict[str, Callable[..., Raw]] = {".csv": from_csv, ".npz": from_npz}
    if data.suffix.lower() not in readers:
        raise DataError(f"{data}: not known by its ending; give a .parquet, .csv or .npz file, or a folder of pictures.")
    return readers[data.suffix.lower()](path=str(data))
