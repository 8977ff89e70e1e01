"""Raw rows in, a table of answers out.

For each target the columns are ``TARGET`` (the class, the value, or the middle quantile), ``TARGET_proba_CLASS`` per class,
``TARGET_qLEVEL`` per quantile, ``TARGET_uncertainty`` (total) and ``TARGET_epistemic``. A multilabel target has a column
``TARGET_LABEL`` of true and false for each label in the place of ``TARGET``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fuseline.data.schema import Schema, TargetSchema, rows_of
from fuseline.package.ensemble import Answer, Ensemble


@torch.inference_mode()
def predict(ensemble: Ensemble, rows: pd.DataFrame | NDArray[Any], batch: int) -> pd.DataFrame:
    """What an ensemble says of raw rows: a table with the input's columns, or an array of pictures.

    Raises:
        DataError: names the column or the row that is wrong.
    """
    arrays = ensemble.schema.encode(rows)
    count = rows_of(arrays)
    parts = []
    for start in range(0, count, batch):
        part = {name: torch.from_numpy(np.ascontiguousarray(a[start : start + batch])) for name, a in arrays.items()}
        parts.append(_table(ensemble.schema, ensemble(part)))
    index = rows.index if isinstance(rows, pd.DataFrame) else None
    if not parts:
        types = [pair for name, task in ensemble.schema.targets.items() for pair in task.answers(name)]
        return pd.DataFrame({column: pd.Series([], dtype=kind) for column, kind in types}, index=index)
    table = pd.concat(parts, ignore_index=True)
    return table if index is None else table.set_index(index)


def _table(schema: Schema, answers: dict[str, Answer]) -> pd.DataFrame:
    columns: dict[str, NDArray[Any]] = {}
    for target, answer in answers.items():
        task = schema.targets[target]
        values, total, epistemic = (part.numpy() for part in answer)
        parts = [*_said(task, values), *(values.T if task.width > 1 else ()), total, epistemic]
        columns |= {column: part for (column, _), part in zip(task.answers(target), parts, strict=True)}
    return pd.DataFrame(columns)


def _said(task: TargetSchema, values: NDArray[np.float64]) -> list[NDArray[Any]]:
    """The answer itself: one column, or one for each label."""
    if task.exclusive:
        return [np.array(task.classes)[values.argmax(1)]]
    if task.kind == "multilabel":
        return list(values.T > 0.5)
    return [values[:, task.middle if task.levels else 0]]
