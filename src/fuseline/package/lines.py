"""Rows of a CSV file, by blocks of bytes: lines with too few or too many fields are told apart from the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fuseline.data.schema import Schema
from fuseline.errors import DataError, first_line
from fuseline.package.rows import Bad, Part, Wanted, of_table

BLOCK = 1 << 24
"""So many bytes of a CSV file."""


def from_csv(source: Path, wanted: Wanted, done: int) -> Iterator[Part]:
    """Every field is read as a word; what an ensemble wants as numbers becomes numbers when it is encoded."""
    bad: Bad = {}

    def skip(line: Any) -> str:
        bad[line.number - 2] = f"the line has {line.actual_columns} fields, and the header has {line.expected_columns}"
        return "skip"  # and the header is line 1

    try:
        names = header(source)
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
                yield of_table(_plain(pa.table(block).to_pandas(), wanted.schema), numbers, wanted, here)
        left = {row: why for row, why in bad.items() if row >= first}
        if left and k >= done:
            yield of_table(pd.DataFrame(columns=names, dtype=object), np.arange(0), wanted, left)
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise DataError(f"{source}: not readable as CSV: {first_line(error)}.") from None


def header(source: Path) -> pd.Index[str]:
    """The names of a CSV file's columns."""
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
