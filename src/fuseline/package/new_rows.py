"""New rows to judge an ensemble by: its inputs and, as far as they are there, its targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fuseline.data.schema import Schema
from fuseline.package.readers import Part, Wanted, parts
from fuseline.recipe import Recipe


def new_rows(data: Path, schema: Schema, recipe: Recipe) -> Iterator[Part]:
    """The rows of a Parquet, CSV or npz file, or of a folder of pictures, with the columns of the recipe's targets.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    columns = {column: name for name in recipe.targets for column in recipe.columns(name)}
    pictures = recipe.data.source.settings if recipe.data.source.name == "image_folder" else {}
    wanted = Wanted(schema, recipe.data.id, resize=pictures.get("size") is not None, others=tuple(columns))
    for part in parts(data, wanted):
        read = {its: _labels(part.others[its], schema.targets[columns[its]].classes) for its in part.others.columns}
        yield replace(part, others=part.others.assign(**read))


def _labels(column: pd.Series[Any], classes: list[Any]) -> pd.Series[Any]:
    """A column of words, as a CSV file has it, with the classes that are no words themselves; what is none stays a word.

    >>> _labels(pd.Series(["1", "1.0", "b", None]), [0, 1]).tolist()
    [1, 1, 'b', None]
    """
    if not classes or isinstance(classes[0], str) or pd.api.types.infer_dtype(column, skipna=True) != "string":
        return column
    known = {str(label).lower(): label for label in classes}
    return column.astype(object).map(lambda word: known.get(_whole(word.strip().lower()), word), na_action="ignore")


def _whole(word: str) -> str:
    """A whole number without the ``.0`` that missing values gave its column."""
    start, dot, rest = word.partition(".")
    return start if dot and not rest.strip("0") else word
