"""Rows to predict, from a Parquet or CSV file, an npz archive or a folder of pictures: some at a time, numbered from 0.

A source is divided into parts of so many rows, always the same ones, so that what was done of it before can be passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fuseline.data.decoding import open_picture, pixels
from fuseline.data.files import from_npz
from fuseline.data.pictures import EXTENSIONS, pictures_in
from fuseline.data.schema import Schema
from fuseline.errors import DataError, first_line
from fuseline.package import lines
from fuseline.package.rows import Bad, Part, Wanted, ids_of, of_table, others_of
from fuseline.package.stream import frame_of, opened


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
        names = list(lines.header(source))
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
                yield of_table(frame_of(batch), np.arange(first, first + len(batch)), wanted, {})
            first += len(batch)


def _npz(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    """As a data set's npz is read: whole, and refused where it does not fit into memory."""
    raw = from_npz(path=str(source))
    rows = len(raw.frame) if raw.image is None else len(raw.image)
    if wanted.schema.image is not None and raw.image is None:
        raise DataError(f"{source}: this ensemble reads pictures, and there is no array of them.")
    for first in range(done * wanted.rows, rows, wanted.rows):
        frame, numbers = raw.frame.iloc[first : first + wanted.rows], np.arange(first, min(rows, first + wanted.rows))
        if raw.image is None or wanted.schema.image is None:
            yield of_table(frame, numbers, wanted, {})
        else:
            yield Part(raw.image[first : first + wanted.rows], numbers, ids_of(frame, wanted), {}, others_of(frame, wanted))


def _folder(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    """All picture files, in the order of their names; those that can't be decoded are bad."""
    assert wanted.schema.image is not None
    files = list(pictures_in(source))
    if not files:
        raise DataError(f"{source}: there are no pictures ({', '.join(sorted(EXTENSIONS))}).")
    channels, height, width = wanted.schema.image
    for first in range(done * wanted.rows, len(files), wanted.rows):
        some, bad = files[first : first + wanted.rows], Bad()
        images = np.empty((len(some), channels, height, width), np.uint8)
        kept: list[int] = []
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
        yield Part(images[: len(kept)], np.array(kept, np.int64), names, bad, others_of(classes, wanted))


READERS: dict[str, Callable[[Path, Wanted, int], Iterator[Part]]] = {
    ".parquet": _parquet,
    ".csv": lines.from_csv,
    ".npz": _npz,
    "folder": _folder,
}
