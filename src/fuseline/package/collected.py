"""What is kept of new rows in files while they are read part by part: hashes, targets, and what an ensemble says of them.

Shapes: N rows, C classes, labels, quantiles or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from fuseline.data.dataset import content_hash
from fuseline.data.schema import Arrays, Schema, TargetSchema
from fuseline.data.targets import encode_new
from fuseline.errors import DataError
from fuseline.package.ensemble import Answer
from fuseline.package.readers import Part
from fuseline.recipe import Recipe

FITTED = "fitted.npy"
"""The sorted hashes of the rows that an ensemble was fitted on, where its package has them."""

NAMED = 20
"""So many of the rows that it was fitted on are named."""


class Grown:
    """An array (N,), or (N, C) with a width, that grows at its end and lies in a file."""

    def __init__(self, file: Path, dtype: DTypeLike, width: int = 0) -> None:
        self.file, self.dtype, self.width, self.rows = file, np.dtype(dtype), width, 0
        file.touch()

    def add(self, values: NDArray[Any]) -> None:
        with self.file.open("ab") as opened:
            opened.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self.rows += len(values)

    def read(self) -> NDArray[Any]:
        """All of it, mapped."""
        shape = (self.rows, self.width) if self.width else (self.rows,)
        return np.memmap(self.file, self.dtype, "r", shape=shape) if self.rows else np.empty(shape, self.dtype)


class Collected:
    """The rows that an ensemble is judged by, and those that were left out because it was fitted on them.

    Attributes:
        content: the hashes of the rows' inputs (N,).
        said, total: per target what is said (N, C), and the total uncertainty (N,).
        targets: of those that the rows have, as :func:`fuseline.data.targets.encode_new` gives them.
        is_known: whether the package says which rows it was fitted on.
        left_out: how many rows these are here.
        named: the first of them, by their ids if there are any, else by their number.
        unread: how many rows could not be read, and ``why`` the first of them couldn't.
    """

    def __init__(self, package: Path, recipe: Recipe, schema: Schema, where: str, folder: Path) -> None:
        self.recipe, self.schema, self.where, self.folder = recipe, schema, where, folder
        self.is_known = (package / FITTED).is_file()
        self._fitted = np.load(package / FITTED, mmap_mode="r") if self.is_known else np.empty(0, np.uint64)
        self.content = Grown(folder / "content", np.uint64)
        places = {name: folder / f"{number}" for number, name in enumerate(schema.targets)}
        tasks = schema.targets.items()
        self.said = {name: Grown(places[name].with_suffix(".said"), np.float64, its.width) for name, its in tasks}
        self.total = {name: Grown(places[name].with_suffix(".total"), np.float64) for name, _ in tasks}
        self.targets: dict[str, Grown] = {}
        self._places = places
        self._columns: dict[str, list[str]] | None = None
        self.left_out = 0
        self.named: list[Any] = []
        self.unread = 0
        self.why: list[str] = []

    @property
    def rows(self) -> int:
        """N."""
        return self.content.rows

    def fresh(self, arrays: Arrays, part: Part) -> Arrays | None:
        """Those of a part's encoded rows that the ensemble was not fitted on, None if it was on all; their targets are kept.

        Raises:
            DataError: names the row and the column that is wrong.
        """
        self.unread += len(part.bad)
        self.why += [f"row {row}: {why}" for row, why in part.bad.items()][: NAMED - len(self.why)]
        content = content_hash(self.schema, arrays)
        fresh = ~among(content, self._fitted)
        self._leave_out(part, np.flatnonzero(~fresh))
        for name, columns in self._labels(part.others).items():
            its = encode_new(part.others[columns], self.schema.targets[name], self.where, first_of(part))
            self.targets[name].add(its[fresh])
        self.content.add(content[fresh])
        if fresh.all():
            return arrays
        return {name: array[fresh] for name, array in arrays.items()} if fresh.any() else None

    def add(self, answers: Mapping[str, Answer]) -> None:
        """What the ensemble says of the fresh rows."""
        for name, (values, total, _) in answers.items():
            self.said[name].add(values.numpy())
            self.total[name].add(total.numpy())

    def labelled(self) -> list[str]:
        """The targets that at least one row has."""
        return [name for name, its in self.targets.items() if self.schema.targets[name].known(its.read()).any()]

    def _labels(self, table: pd.DataFrame) -> dict[str, list[str]]:
        """The columns of each target that the rows have: told by the first of them."""
        if self._columns is None:
            self._columns = _labelled(self.recipe, table, self.where)
            for name in self._columns:
                self.targets[name] = Grown(self._places[name].with_suffix(".target"), *_kept_as(self.schema.targets[name]))
        return self._columns

    def _leave_out(self, part: Part, rows: NDArray[np.int64]) -> None:
        self.left_out += len(rows)
        some = rows[: NAMED - len(self.named)]
        self.named += part.numbers[some].tolist() if part.ids is None else [str(id_) for id_ in part.ids[some]]


def first_of(part: Part) -> int:
    """The number of a part's first row, for messages."""
    return int(part.numbers[0]) if len(part.numbers) else 0


def among(content: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which hashes (N,) are among some that are sorted.

    >>> among(np.array([1, 2, 9], np.uint64), np.array([2, 5], np.uint64)).tolist()
    [False, True, False]
    """
    if not len(known):
        return np.zeros(len(content), bool)
    place = np.minimum(np.searchsorted(known, content), len(known) - 1)
    return np.asarray(known[place] == content)


def _labelled(recipe: Recipe, table: pd.DataFrame, where: str) -> dict[str, list[str]]:
    """The columns of each target that the rows have; of one with several, all or none."""
    found = {}
    for name in recipe.targets:
        columns = recipe.columns(name)
        there = [column for column in columns if column in table.columns]
        if there and len(there) < len(columns):
            lost = next(column for column in columns if column not in there)
            raise DataError(f"{where}: of the target {name!r} the column {lost!r} is missing; give all of its columns, or none.")
        if there:
            found[name] = columns
    return found


def _kept_as(schema: TargetSchema) -> tuple[Any, int]:
    """The type and width of a target's numbers."""
    if schema.exclusive:
        return np.int64, 0
    return (np.float32, schema.width) if schema.kind == "multilabel" else (np.float64, 0)
