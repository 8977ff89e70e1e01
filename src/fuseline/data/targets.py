"""Target columns to numbers, checked.

Shapes: N rows, C classes or labels. Codes (N,) int64 with −1 for an unknown class; values (N,) float64, or 0 and 1 per label
(N, C) float32, with NaN for unknown ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fuseline.data.schema import TargetSchema, plain
from fuseline.errors import DataError
from fuseline.recipe import Target


def encode(frame: pd.DataFrame, target: Target, where: str) -> tuple[TargetSchema, NDArray[Any]]:
    """A target's schema and its numbers.

    Args:
        frame: the target's column, or the columns of a multilabel target (N, C).
        where: what the rows come from, for messages.

    Raises:
        DataError: names the column and the row that is wrong.
    """
    if target.missing == "refuse":
        for name in frame.columns:
            if (missing := frame[name].isna().to_numpy()).any():
                text = f"{where}: target column {name!r}, row {int(missing.argmax())}: the value is missing"
                raise DataError(f"{text}; mend it, or set the target's 'missing: mask' to learn from the other rows.")
    for name in frame.columns:
        if frame[name].isna().to_numpy().all():
            raise DataError(f"{where}: target column {name!r} has no value at all; nothing can be learnt.")
    if target.kind == "multilabel":
        labels = [_binary(frame[name], where) for name in frame.columns]
        return TargetSchema(kind="multilabel", classes=[str(name) for name in frame.columns]), np.stack(labels, 1)
    column = frame.iloc[:, 0]
    if target.kind in ("regression", "quantile"):
        levels = list(target.levels) if target.kind == "quantile" else []
        return TargetSchema(kind=target.kind, levels=levels), _values(column, where)
    return _classes(column, target, where)


def encode_new(frame: pd.DataFrame, schema: TargetSchema, where: str, first: int = 0) -> NDArray[Any]:
    """The numbers of further rows of a target whose schema is known already; what is missing is −1 or NaN.

    Args:
        frame: the target's column, or the columns of a multilabel target (N, C).
        first: the number of the first row, in messages.

    Raises:
        DataError: names the column and the row that is wrong.
    """
    if schema.kind == "multilabel":
        return np.stack([_binary(frame[name], where, first) for name in frame.columns], 1)
    column = frame.iloc[:, 0]
    if schema.kind in ("regression", "quantile"):
        return _values(column, where, first)
    name = f"{where}: target column {column.name!r}"
    return _codes(_labels(column, name, first), list(schema.classes), name, first)


def _values(column: pd.Series[Any], where: str, first: int = 0) -> NDArray[np.float64]:
    numbers = pd.to_numeric(column, errors="coerce")
    if column.dtype.kind in "mM" or numbers.dtype.kind == "c":
        raise DataError(f"{where}: target column {column.name!r} holds {column.dtype} and no plain numbers; turn it into some.")
    values = numbers.to_numpy(np.float64, na_value=np.nan)
    if (bad := ~np.isfinite(values) & column.notna().to_numpy()).any():
        row = int(bad.argmax())
        text = f"{where}: target column {column.name!r}, row {first + row}"
        raise DataError(f"{text}: {plain(column.iloc[row])!r} is not a finite number.")
    return values


def _binary(column: pd.Series[Any], where: str, first: int = 0) -> NDArray[np.float32]:
    values = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float32, na_value=np.nan)
    if (bad := ~np.isin(values, (0, 1)) & column.notna().to_numpy()).any():
        row = int(bad.argmax())
        text = f"{where}: target column {column.name!r}, row {first + row}"
        raise DataError(f"{text}: {plain(column.iloc[row])!r} is neither 0 nor 1.")
    return values


def _classes(column: pd.Series[Any], target: Target, where: str) -> tuple[TargetSchema, NDArray[np.int64]]:
    name = f"{where}: target column {column.name!r}"
    labels = _labels(column, name)
    there = {label for label in labels if label is not None}
    if len(kinds := {type(label) for label in labels if label is not None}) > 1:
        listed = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{name} mixes labels of the kinds {listed}; give all the same kind.")
    if target.kind == "ordinal" and target.classes is None and str in kinds:
        raise DataError(f"{name} holds words, which have no order by themselves; list them in order in the target's 'classes'.")
    if target.classes is not None and kinds - {type(label) for label in target.classes}:
        listed, first = ", ".join(map(repr, target.classes)), next(label for label in labels if label is not None)
        raise DataError(f"{name} holds labels like {first!r}, which are of another kind than the classes {listed}.")
    classes = target.classes or sorted(there)
    if len(classes) < 2:
        raise DataError(f"{name} has one class only ({classes[0]!r}); nothing can be learnt.")
    return TargetSchema(kind=target.kind, classes=classes), _codes(labels, classes, name)


def _labels(column: pd.Series[Any], name: str, first: int = 0) -> list[Any]:
    """A column's labels, None where one is missing."""
    known = column.notna().to_numpy()
    labels = [_label(value) if there else None for value, there in zip(column.tolist(), known, strict=True)]
    for row, label in enumerate(labels):
        if isinstance(label, float):
            raise DataError(f"{name}, row {first + row}: {label} is a value; is its kind regression?")
    return labels


def _codes(labels: list[Any], classes: list[Any], name: str, first: int = 0) -> NDArray[np.int64]:
    code = {label: i for i, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label is not None and label not in code:
            listed = ", ".join(map(str, classes))
            raise DataError(f"{name}, row {first + row}: {label!r} is not among the classes {listed}.")
    return np.array([-1 if label is None else code[label] for label in labels], np.int64)


def _label(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, bool | int | float) else str(value)
