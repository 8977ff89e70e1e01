"""A registered version on new rows: a private, verified copy of it, answers in a Parquet file, rejected rows in another."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from prefect import flow

from flows.signals import heeded_still
from tasks.prediction import fetch_version, finish_prediction, predict_rows, start_prediction
from tasks.tracking import delivered, fail_run


@flow(name="predict", flow_run_name="{model}", persist_result=False)
def predict(model: str, data: str, out: str, rejects: str = "") -> dict[str, Any]:
    """Predict; returns what was done as a summary.

    Args:
        model: ``NAME@ALIAS`` or ``NAME/VERSION``.
        data: a Parquet, CSV or npz file, or a folder of pictures.
        out: the Parquet file of the answers.
        rejects: the Parquet or CSV file of the rows that can't be answered; beside the answers, if none is named.
    """
    rejects = rejects or str(Path(out).with_suffix(".rejects.parquet"))
    started = time.perf_counter()
    with heeded_still(), tempfile.TemporaryDirectory(prefix="fuseline-") as folder:  # its owner alone may read it
        version = fetch_version(model, Path(folder))
        run = start_prediction(version, data, out, rejects)
        try:
            done = predict_rows(version, data, out, rejects)
            seconds = round(time.perf_counter() - started, 3)
            finish_prediction(run, done, seconds)
        except BaseException as error:
            fail_run(run, error)
            raise
    told = delivered(run)
    return {
        "model": version.name,
        "version": version.version,
        "data": data,
        "out": out,
        "rejects": rejects if done.rejected else None,
        "rows": done.rows,
        "rejected": done.rejected,
        "parts": done.parts,
        "parts_reused": done.reused,
        "seconds": seconds,
        "run_id": told.run_id,
        "tracking": "waiting" if told.waiting else "delivered",
    }
