"""Raw rows in, a table of answers out.

For each target the columns are ``TARGET`` (the class, the value, or the middle quantile), ``TARGET_proba_CLASS`` per class,
``TARGET_qLEVEL`` per quantile, ``TARGET_uncertainty`` (total) and ``TARGET_epistemic``. A multilabel target has a column
``TARGET_LABEL`` of true and false for each label in the place of ``TARGET``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fuseline.data.schema import Arrays, Schema, TargetSchema, rows_of
from fuseline.models.network import batches
from fuseline.models.preprocessing import Batch
from fuseline.package.ensemble import Answer, Ensemble


def predict(ensemble: Ensemble, rows: pd.DataFrame | NDArray[Any], batch: int, threads: int = 1) -> pd.DataFrame:
    """What an ensemble says of raw rows: a table with the input's columns, or an array of pictures.

    Raises:
        DataError: names the column or the row that is wrong.
    """
    answers = answer(ensemble, ensemble.schema.encode(rows), batch, threads)
    return table(ensemble.schema, answers, rows.index if isinstance(rows, pd.DataFrame) else None)


def answer(ensemble: Ensemble, arrays: Arrays, batch: int, threads: int = 1) -> dict[str, Answer]:
    """What an ensemble says of encoded rows, at most ``batch`` of them at once.

    Threads have rows of their own: what a few rows take is too short to be divided, and nobody waits for the others at each
    layer. Only few pictures are divided within.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    count = rows_of(arrays)
    busy = min(threads, count // max(1, batch // 8))
    before = torch.get_num_threads()
    torch.set_num_threads(threads if busy <= 1 and not ensemble.members.stacked else 1)
    try:
        if busy <= 1:
            parts = [_say(ensemble, part) for part in batches(tensors, batch) or [tensors]]
        else:
            with ThreadPoolExecutor(busy) as pool:
                parts = list(pool.map(partial(_say, ensemble), batches(tensors, min(batch, ceil(count / busy)))))
    finally:
        torch.set_num_threads(before)
    if len(parts) == 1:
        return parts[0]
    return {target: Answer(*map(torch.cat, zip(*(part[target] for part in parts), strict=True))) for target in parts[0]}


@torch.inference_mode()
def _say(ensemble: Ensemble, part: Batch) -> dict[str, Answer]:
    said: dict[str, Answer] = ensemble(part)
    return said


def table(schema: Schema, answers: dict[str, Answer], index: pd.Index[Any] | None = None) -> pd.DataFrame:
    """Answers as a table."""
    return pd.DataFrame(columns(schema, answers), index=index, copy=False)


def columns(schema: Schema, answers: dict[str, Answer]) -> dict[str, Any]:
    """The table's columns by name."""
    named: dict[str, Any] = {}
    for target, answer in answers.items():
        task = schema.targets[target]
        values, total, epistemic = (part.numpy() for part in answer)
        parts = [*_said(task, values), *(np.ascontiguousarray(values.T) if task.width > 1 else ()), total, epistemic]
        named |= {column: part for (column, _), part in zip(task.answers(target), parts, strict=True)}
    return named


def _said(task: TargetSchema, values: NDArray[np.float64]) -> list[Any]:
    """The answer itself: one column, or one for each label."""
    if task.exclusive:
        return [pd.Series(task.classes).array.take(values.argmax(1))]
    if task.kind == "multilabel":
        return list(np.ascontiguousarray(values.T) > 0.5)
    return [values[:, task.middle if task.levels else 0]]
