"""What a data set's columns are: enough to turn raw rows into a batch, in training and in a packaged ensemble alike.

Shapes: N rows, P numeric columns, Q categorical columns, (C, H, W) a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fuseline.component import Part
from fuseline.errors import DataError
from fuseline.terms import Kind

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Codes of a category that the data never had, of a missing one, and of the first known one."""

Arrays = dict[str, NDArray[Any]]


class TargetSchema(Part):
    """A target's kind and, for a classification, the global class list in its order."""

    kind: Kind
    classes: list[str | int | bool] = []

    @property
    def width(self) -> int:
        """C: how many numbers a prediction of one row has."""
        return len(self.classes) or 1


class Schema(Part):
    """The inputs (a table of numeric and categorical columns, or pictures) and the targets."""

    numeric: list[str] = []
    categorical: dict[str, list[str]] = {}
    image: tuple[int, int, int] | None = None
    image_dtype: str = "uint8"
    targets: dict[str, TargetSchema]

    def encode(self, rows: pd.DataFrame | NDArray[Any], where: str = "the rows") -> Arrays:
        """Raw rows to arrays: ``numeric`` (N, P) float64 with NaN for missing, ``categorical`` (N, Q) codes, or ``image``.

        Raises:
            DataError: a column is missing or of the wrong type, a picture has the wrong shape or a value is infinite.
        """
        if self.image is not None:
            return {"image": self._pictures(rows, where)}
        if not isinstance(rows, pd.DataFrame):
            raise DataError(f"{where}: expected a table with the columns {', '.join(self.columns)}.")
        for name in self.columns:
            if name not in rows.columns:
                raise DataError(f"{where}: the input column {name!r} is missing.")
        arrays: Arrays = {}
        if self.numeric:
            arrays["numeric"] = np.stack([_number(rows[name], where) for name in self.numeric], axis=1)
        if self.categorical:
            codes = [self._codes(rows[name], vocabulary) for name, vocabulary in self.categorical.items()]
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
        return [
            name
            for target, its in self.targets.items()
            for name in [target, *(f"{target}_proba_{c}" for c in its.classes), f"{target}_uncertainty", f"{target}_epistemic"]
        ]

    @property
    def columns(self) -> list[str]:
        return [*self.numeric, *self.categorical]

    def _codes(self, column: pd.Series[Any], vocabulary: list[str]) -> NDArray[np.int64]:
        code = {value: FIRST + i for i, value in enumerate(vocabulary)}
        words = as_words(column)
        codes = words.map(code).fillna(UNKNOWN).to_numpy(np.int64)
        return np.where(words.isna(), MISSING, codes)

    def _pictures(self, rows: Any, where: str) -> NDArray[Any]:
        assert self.image is not None
        array = np.asarray(rows)
        if array.ndim == 3 and self.image[0] == 1:
            array = array[:, None]
        if array.ndim != 4 or array.shape[1:] != self.image:
            raise DataError(f"{where}: expected pictures of shape (N, {', '.join(map(str, self.image))}), not {array.shape}.")
        if array.dtype.kind not in "biuf":
            raise DataError(f"{where}: pictures hold numbers, not {array.dtype}.")
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


def as_words(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column as words, missing values kept; whole numbers lose a ``.0`` that a missing value gave them."""

    def word(value: Any) -> str:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return column.astype(object).map(word, na_action="ignore")


def _number(column: pd.Series[Any], where: str) -> NDArray[np.float64]:
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    lost = np.isnan(values) & column.notna().to_numpy()
    if lost.any():
        row = int(lost.argmax())
        raise DataError(f"{where}: column {column.name!r}, row {row}: {column.iloc[row]!r} is not a number.")
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise DataError(f"{where}: column {column.name!r}, row {row}: {values[row]} is not finite; mend it or leave it empty.")
    return values


def rows_of(arrays: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(arrays.values())))
