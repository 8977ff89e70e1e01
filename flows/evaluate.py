"""A registered version on new rows: is it as good as it was, and do the rows look as they did?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import flow

from flows.signals import heeded_still
from flows.stages import Stages
from fuseline.store import read_json
from tasks.assessment import assess, fetch_version, finish_assessment, give_alarm, start_assessment
from tasks.tracking import delivered, fail_run


@flow(name="evaluate", flow_run_name="evaluate {model}", persist_result=False)
def evaluate(model: str, data: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Judge a version on new rows, with or without targets, against its own test report; returns the report.

    Args:
        model: ``NAME@ALIAS`` or ``NAME/VERSION``.
        data: a file or folder of rows.
        overrides: changes of its recipe, as ``evaluation.drift.level=0.05``.
    """
    stages = Stages()
    with tempfile.TemporaryDirectory(prefix="fuseline-") as folder, heeded_still():  # 0700: a model is nobody else's business
        with stages("fetch"):
            version = fetch_version(model, Path(folder), overrides or [])
        with stages("track"):
            run = start_assessment(version, data)
        try:
            with stages("assess"):
                made = assess(version, data)
            report = read_json(made.folder / "report.json")
            result = {"model": version.name, "version": version.version, "data": str(data), **report}
            with stages("alarm"):
                result["events"] = give_alarm(version, data, report)
            with stages("track"):
                finish_assessment(run, made, report, result)
        except BaseException as error:
            fail_run(run, error)
            raise
    with stages("track"):
        told = delivered(run)
    return {**result, "run_id": told.run_id, "tracking": "waiting" if told.waiting else "delivered", "timing": stages.seconds}
