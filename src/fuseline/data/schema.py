"""What a data set's columns are: enough to turn raw rows into a batch, in training and in a packaged ensemble alike.

Shapes: N rows, P numeric columns, Q categorical columns, (C, H, W) a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fuseline.component import Part
from fuseline.errors import DataError
from fuseline.terms import EXCLUSIVE, Kind

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Codes of a category that the data never had, of a missing one, and of the first known one."""

Arrays = dict[str, NDArray[Any]]


class TargetSchema(Part):
    """A target's kind and what its prediction's C entries are.

    Attributes:
        classes: the global class list in its order; the labels of a multilabel target.
        levels: the levels of a quantile target, ascending.
    """

    kind: Kind
    classes: list[str | int | bool] = []
    levels: list[float] = []

    @property
    def width(self) -> int:
        """C: how many numbers a prediction of one row has."""
        return len(self.classes) or len(self.levels) or 1

    @property
    def exclusive(self) -> bool:
        """Whether a prediction is one distribution over classes."""
        return self.kind in EXCLUSIVE

    @property
    def middle(self) -> int:
        """The position of the level nearest to the median."""
        return min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - 0.5))

    def answers(self, name: str) -> list[tuple[str, type]]:
        """The columns of a packaged ensemble's answer for a target of this name, in order, and what they hold."""
        said: list[tuple[str, type]] = [(name, type(self.classes[0]) if self.classes else float)]
        if self.kind == "multilabel":
            said = [(f"{name}_{label}", bool) for label in self.classes]
        numbers = [f"{name}_proba_{label}" for label in self.classes] + [f"{name}_q{level!r}" for level in self.levels]
        return [*said, *((column, float) for column in [*numbers, f"{name}_uncertainty", f"{name}_epistemic"])]

    def known(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows have a target (N,): of a multilabel one, at least one label."""
        if self.exclusive:
            return np.asarray(values) >= 0
        known = ~np.isnan(values)
        return np.asarray(known.any(1) if known.ndim == 2 else known)


class Schema(Part):
    """The inputs (a table of numeric and categorical columns, or pictures) and the targets."""

    numeric: list[str] = []
    categorical: dict[str, list[str]] = {}
    image: tuple[int, int, int] | None = None
    image_dtype: str = "uint8"
    targets: dict[str, TargetSchema]

    def encode(self, rows: pd.DataFrame | NDArray[Any], where: str = "the rows", first: int = 0) -> Arrays:
        """Raw rows to arrays: ``numeric`` (N, P) float64 with NaN for missing, ``categorical`` (N, Q) codes, or ``image``.

        Args:
            where: what messages call the rows.
            first: the number of the first row, in messages about one.

        Raises:
            DataError: a column is missing, twice there or of the wrong type, a picture has another shape, a value is infinite.
        """
        if self.image is not None:
            return {"image": self._pictures(rows, where)}
        if not isinstance(rows, pd.DataFrame):
            raise DataError(f"{where}: expected a table with the columns {', '.join(self.columns)}.")
        for name in self.columns:
            if name not in rows.columns:
                raise DataError(f"{where}: the input column {name!r} is missing.")
        if not rows.columns.is_unique:
            self._refuse_twice(rows, where)
        arrays: Arrays = {}
        if self.numeric:
            arrays["numeric"] = _numbers(rows, self.numeric, where, first)
        if self.categorical:
            codes = [_codes(rows[name], tuple(vocabulary)) for name, vocabulary in self.categorical.items()]
            arrays["categorical"] = np.stack(codes, axis=1)
        return arrays

    def decode(self, arrays: Arrays) -> pd.DataFrame | NDArray[Any]:
        """Arrays back to raw rows: a table with missing values where codes say so, or the pictures as they are."""
        if self.image is not None:
            return arrays["image"]
        columns: dict[str, Any] = {name: arrays["numeric"][:, j] for j, name in enumerate(self.numeric)}
        for j, (name, vocabulary) in enumerate(self.categorical.items()):
            words = np.array([None, None, *vocabulary], object)
            columns[name] = words[arrays["categorical"][:, j]]
        return pd.DataFrame(columns)

    @property
    def answers(self) -> list[str]:
        """The columns of a packaged ensemble's answer, in order."""
        return [column for name, its in self.targets.items() for column, _ in its.answers(name)]

    @property
    def columns(self) -> list[str]:
        return [*self.numeric, *self.categorical]

    def _refuse_twice(self, rows: pd.DataFrame, where: str) -> None:
        for name in self.columns:
            if (rows.columns == name).sum() > 1:
                raise DataError(f"{where}: the input column {name!r} is there twice; leave out one.")

    def _pictures(self, rows: Any, where: str) -> NDArray[Any]:
        assert self.image is not None
        array = np.asarray(rows)
        if array.ndim == 3 and self.image[0] == 1:
            array = array[:, None]
        if array.ndim != 4 or array.shape[1:] != self.image:
            raise DataError(f"{where}: expected pictures of shape (N, {', '.join(map(str, self.image))}), not {array.shape}.")
        if array.dtype.kind not in "biuf":
            raise DataError(f"{where}: pictures hold numbers, not {array.dtype}.")
        if array.dtype == self.image_dtype == "uint8":  # nothing to check or to copy: the pictures may be larger than the memory
            return array if array.flags.writeable else array.copy()  # torch wants to own what it is given
        with np.errstate(over="ignore", invalid="ignore"):
            stored = array.astype(self.image_dtype)
        fits = np.isfinite(stored) if self.image_dtype == "float32" else stored == array
        if not fits.all():
            row, *place = np.argwhere(~fits)[0].tolist()
            value = array[(row, *place)]
            raise DataError(
                f"{where}: picture {row} holds the value {value}, which is no finite {self.image_dtype}; mend that row."
            )
        return stored


def plain(value: Any) -> Any:
    """A value of NumPy's as Python's own.

    >>> plain(np.float64("inf")), plain("word")
    (inf, 'word')
    """
    return value.item() if isinstance(value, np.generic) else value


def as_words(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column as words, missing values kept; whole numbers lose a ``.0`` that a missing value gave them."""

    def word(value: Any) -> str:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return column.astype(object).map(word, na_action="ignore")


def _codes(column: pd.Series[Any], vocabulary: tuple[str, ...]) -> NDArray[np.int64]:
    """The codes (N,) of a column; values that stand for the same word are looked at once, where that can be told cheaply."""
    if _of_one_type(column):
        places, distinct = pd.factorize(column)  # missing values have no place: −1, which is the last of the codes
        return np.append(_codes_of(pd.Series(distinct), vocabulary), MISSING)[places]
    return _codes_of(column, vocabulary)


def _of_one_type(column: pd.Series[Any]) -> bool:
    """Whether equal values are the same word: in a column of any objects 1 equals True."""
    return column.dtype != object or pd.api.types.infer_dtype(column, skipna=True) == "string"


def _codes_of(column: pd.Series[Any], vocabulary: tuple[str, ...]) -> NDArray[np.int64]:
    code, words = _code(vocabulary), as_words(column)
    return np.array(
        [MISSING if missing else code.get(word, UNKNOWN) for word, missing in zip(words, words.isna(), strict=True)], np.int64
    )


@lru_cache(256)
def _code(vocabulary: tuple[str, ...]) -> dict[str, int]:
    return {value: FIRST + i for i, value in enumerate(vocabulary)}


def _numbers(rows: pd.DataFrame, names: list[str], where: str, first: int) -> NDArray[np.float64]:
    """Columns of numbers (N, P); plain ones are read all at once."""
    chosen = rows if list(rows.columns) == names else rows[names]
    if not all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in chosen.dtypes):
        return np.stack([_number(rows[name], where, first) for name in names], axis=1)
    values = np.ascontiguousarray(chosen.to_numpy(np.float64))
    infinite = np.isinf(values)
    if infinite.any():
        _number(chosen.iloc[:, int(infinite.any(0).argmax())], where, first)
    return values if values.flags.writeable else values.copy()  # torch wants to own what it is given


def _number(column: pd.Series[Any], where: str, first: int) -> NDArray[np.float64]:
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    lost = np.isnan(values) & column.notna().to_numpy()
    if lost.any():
        row = int(lost.argmax())
        raise DataError(f"{where}: column {column.name!r}, row {first + row}: {plain(column.iloc[row])!r} is not a number.")
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise DataError(
            f"{where}: column {column.name!r}, row {first + row}: {values[row]} is not finite; mend it or leave it empty."
        )
    return values


def rows_of(arrays: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(arrays.values())))
