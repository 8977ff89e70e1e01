"""Rows as they are read from a source, before an ensemble encodes them."""

from __future__ import annotations

from dataclasses import dataclass, field
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


def of_table(frame: pd.DataFrame, numbers: NDArray[np.int64], wanted: Wanted, bad: Bad) -> Part:
    """A part of a table."""
    return Part(frame, numbers, ids_of(frame, wanted), bad, others_of(frame, wanted))


def others_of(frame: pd.DataFrame, wanted: Wanted) -> pd.DataFrame:
    """The further columns that are wanted, as far as they are there."""
    return frame[[name for name in wanted.others if name in frame.columns]]


def ids_of(frame: pd.DataFrame, wanted: Wanted) -> NDArray[Any] | None:
    """The ids of some rows, where they have any."""
    return None if wanted.id is None or wanted.id not in frame.columns else frame[wanted.id].to_numpy()
