"""Raw rows in, a table of answers out.

For each target the columns are ``TARGET`` (the class or the value), for a classification ``TARGET_proba_CLASS`` per class,
``TARGET_uncertainty`` (total) and ``TARGET_epistemic``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fuseline.data.schema import Schema, rows_of
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
        return pd.DataFrame(columns=ensemble.schema.answers, index=index)
    table = pd.concat(parts, ignore_index=True)
    return table if index is None else table.set_index(index)


def _table(schema: Schema, answers: dict[str, Answer]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for target, answer in answers.items():
        classes = schema.targets[target].classes
        values, total, epistemic = (part.numpy() for part in answer)
        columns[target] = np.array(classes)[values.argmax(1)] if classes else values[:, 0]
        columns |= {f"{target}_proba_{label}": values[:, c] for c, label in enumerate(classes)}
        columns[f"{target}_uncertainty"] = total
        columns[f"{target}_epistemic"] = epistemic
    return pd.DataFrame(columns)
