"""Rows as they are read from a source, before an ensemble encodes them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fuseline.data.schema import Schema
from fuseline.package.stream import ROWS

BYTES = 1 << 28
"""So many bytes of pictures are read at a time."""

Bad = dict[int, str]
"""Rows that can't be read, by their numbers, and why."""


@dataclass(frozen=True)
class Part:
    """Some rows of a source: what could be read of them, their numbers and ids, and those that could not be read.

    Attributes:
        rows: a table, or pictures (N, C, H, W).
        numbers: (N,) counted from 0 over the whole source.
        ids: (N,), where the source has them.
    """

    rows: pd.DataFrame | NDArray[Any]
    numbers: NDArray[np.int64]
    ids: NDArray[Any] | None
    bad: Bad


@dataclass(frozen=True)
class Wanted:
    """What is to be read: the inputs of a schema, the column of ids, and whether pictures are brought to the schema's size."""

    schema: Schema
    id: str | None = None
    resize: bool = False

    @property
    def rows(self) -> int:
        """How many rows are a part."""
        image = self.schema.image
        return ROWS if image is None else max(1, min(ROWS, BYTES // (prod(image) * np.dtype(self.schema.image_dtype).itemsize)))


def of_table(frame: pd.DataFrame, numbers: NDArray[np.int64], wanted: Wanted, bad: Bad) -> Part:
    """A part of a table."""
    return Part(frame, numbers, ids_of(frame, wanted), bad)


def ids_of(frame: pd.DataFrame, wanted: Wanted) -> NDArray[Any] | None:
    """The ids of some rows, where they have any."""
    return frame[wanted.id].to_numpy() if wanted.id in frame.columns else None
