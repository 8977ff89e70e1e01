"""Answers as the columns of a file: those of :mod:`fuseline.package.predict`, and per target the conformal set or interval.

The first column holds the ids, or ``row``, the rows' numbers from 0. A target of classes has ``TARGET_set`` too, the list of
classes that hold the true one with the coverage that the recipe asks for, and one of values ``TARGET_low`` and ``TARGET_high``;
where there were no calibration rows, and for several labels, there are none of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fuseline.data.schema import as_words
from fuseline.evaluation.conformal import classes_in, interval
from fuseline.package.ensemble import Answer
from fuseline.package.files import Description
from fuseline.package.predict import columns
from fuseline.package.stream import TYPES, answer_fields


class Answers:
    """Tables of answers, all with the same columns."""

    def __init__(self, description: Description, id_: str | None) -> None:
        self.schema = description.schema_
        self.rules = {name: its.conformal for name, its in description.targets.items() if its.conformal is not None}
        self.id = id_
        self.key = id_ or "row"
        while self.key in self.schema.answers:  # of a target that is called so
            self.key += "_"

    def table(self, said: dict[str, Answer], numbers: NDArray[np.int64], ids: NDArray[Any] | None) -> pa.Table:
        """Answers to some rows, by their numbers or ids; ids are words."""
        named = columns(self.schema, said)
        made: dict[str, pa.Array] = {self.key: self._key(numbers, ids)}
        made |= {name: pa.array(named[name], kind) for name, kind in answer_fields(self.schema)}
        for target in self.rules:
            made |= dict(self._conformal(target, said[target]))
        return pa.table(made)

    def empty(self) -> pa.Table:
        """No answers, but all columns."""
        fields = [(self.key, pa.string() if self.id else pa.int64()), *answer_fields(self.schema)]
        for target, rule in self.rules.items():
            if rule.score == "probability":
                fields.append((f"{target}_set", pa.list_(self._kind(target))))
            else:
                fields += [(f"{target}_{end}", pa.float64()) for end in ("low", "high")]
        return pa.schema(fields).empty_table()

    def _key(self, numbers: NDArray[np.int64], ids: NDArray[Any] | None) -> pa.Array:
        if self.id is None:
            return pa.array(numbers)
        assert ids is not None
        return pa.array(as_words(pd.Series(ids)), pa.string(), from_pandas=True)

    def _kind(self, target: str) -> pa.DataType:
        return TYPES[type(self.schema.targets[target].classes[0])]

    def _conformal(self, target: str, said: Answer) -> Iterator[tuple[str, pa.Array]]:
        rule, values, total = self.rules[target], *(part.numpy() for part in said[:2])
        if rule.score == "probability":
            inside = classes_in(rule, values)
            classes = np.nonzero(inside)[1]
            offsets = np.append(0, inside.sum(1).cumsum()).astype(np.int32)
            known = pa.array(self.schema.targets[target].classes, self._kind(target))
            yield f"{target}_set", pa.ListArray.from_arrays(offsets, known.take(pa.array(classes)))
            return
        low, high = interval(rule, values, total)
        yield f"{target}_low", pa.array(low)
        yield f"{target}_high", pa.array(high)
