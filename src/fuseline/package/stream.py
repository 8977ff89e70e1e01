"""A Parquet file of raw rows in, a Parquet file of answers out, in memory that does not grow with the number of rows.

Reading, computing and writing go on at once, each in a thread of its own, one part of the rows apart from each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from fuseline.data.schema import Arrays, Schema
from fuseline.errors import DataError, first_line
from fuseline.package.ensemble import Answer
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import answer, columns

Rows, Said = TypeVar("Rows"), TypeVar("Said")

ROWS = 1 << 16
"""So many rows are read, computed and written at a time."""

BUFFER = 1 << 18
"""So many bytes of each column are read ahead; without a limit a whole row group would be."""


def predict_parquet(package: Path, source: Path, target: Path) -> int:
    """Write to ``target`` what a packaged ensemble says of each row of ``source``, in the same order, and return their number.

    The columns are those of :func:`fuseline.package.predict.predict`. ``target`` is there when all of it is.

    Raises:
        DataError: a file can't be read or written, or the file, the row (from 0, in the whole file) and the column that is wrong.
    """
    description = load_description(package)
    ensemble = load_ensemble(package)
    if ensemble.schema.image is not None:
        raise DataError(f"{source}: this ensemble reads pictures, and a Parquet file holds a table; predict from an array.")
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target}: the answers would take the place of the rows; name another file for them.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with opened(source) as rows, _Writer(ensemble.schema, unfinished) as writer:
            stream(
                _parts(rows, ensemble.schema, source),
                partial(answer, ensemble, batch=description.batch, threads=description.threads),
                writer.write,
            )
        os.replace(unfinished, target)
    except OSError as error:
        raise DataError(f"{target}: the answers can't be written ({first_line(error)}).") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return writer.count


def stream(parts: Iterator[Rows], compute: Callable[[Rows], Said], write: Callable[[Said], None]) -> None:
    """While one part is computed, the next one is read and the one before is written; nobody runs further ahead."""
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        coming = reading.submit(next, parts, None)
        written: Future[None] | None = None
        while (part := coming.result()) is not None:
            coming = reading.submit(next, parts, None)
            answers = compute(part)
            if written is not None:
                written.result()
            written = writing.submit(write, answers)
        if written is not None:
            written.result()


def opened(source: Path) -> pq.ParquetFile:
    """A Parquet file, of which no more is read at once than is asked for.

    Raises:
        DataError: it is not there, or no Parquet file.
    """
    try:
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=BUFFER)
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file.") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{source}: not readable as Parquet: {first_line(error)}.") from None


def _parts(rows: pq.ParquetFile, schema: Schema, source: Path) -> Iterator[Arrays]:
    """A file's rows, encoded, some at a time."""
    there = [name for name in schema.columns if name in rows.schema_arrow.names]
    schema.encode(rows.schema_arrow.empty_table().select(there).to_pandas(), str(source))  # says what is missing
    parts = rows.iter_batches(ROWS, columns=schema.columns, use_threads=False)
    first = 0
    while True:
        try:
            part = next(parts, None)
        except (ValueError, OSError) as error:
            raise DataError(f"{source}: not readable as Parquet, from row {first} on: {first_line(error)}.") from None
        if part is None:
            return
        yield schema.encode(frame_of(part), str(source), first)
        first += len(part)


def frame_of(part: pa.RecordBatch | pa.Table) -> pd.DataFrame:
    """As the rows of a data set are read: decimal numbers are numbers."""
    plain = [column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column for column in part.columns]
    frame: pd.DataFrame = pa.table(plain, names=part.schema.names).to_pandas()
    return frame


def answer_fields(schema: Schema) -> list[tuple[str, pa.DataType]]:
    """The columns of an answer."""
    return [(name, TYPES[kind]) for target, task in schema.targets.items() for name, kind in task.answers(target)]


def parquet_writer(target: Path, fields: pa.Schema) -> pq.ParquetWriter:
    words = [field.name for field in fields if field.type == pa.string()]  # numbers rarely repeat
    return pq.ParquetWriter(target, fields, use_dictionary=words or False)


class _Writer:
    """Answers to the columns of a Parquet file."""

    def __init__(self, schema: Schema, target: Path) -> None:
        self.schema, self.count = schema, 0
        self.fields = pa.schema(answer_fields(schema))
        self.file = parquet_writer(target, self.fields)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, answers: dict[str, Answer]) -> None:
        said = columns(self.schema, answers)
        part = pa.table([pa.array(said[field.name], field.type) for field in self.fields], schema=self.fields)
        self.file.write_table(part)
        self.count += len(part)


TYPES: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
