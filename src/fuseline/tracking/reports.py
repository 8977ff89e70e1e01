"""What the run that registered a version said of its test rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from fuseline.report.summary import winner
from fuseline.store import read_json
from fuseline.tracking.client import connected
from fuseline.tracking.settings import Settings

REPORT = "report.json"


def tested(settings: Settings, run_id: str) -> dict[str, dict[str, Any]]:
    """Per target the metrics of the fusion that was chosen, ``{name: {value, low, high}}``; empty if the run is gone, or has no
    report."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = read_json(Path(connected(settings).download_artifacts(run_id, REPORT, folder)))
        except (MlflowException, OSError, ValueError):
            return {}
    return {target: winner(report, target)["metrics"] for target in report["targets"]}
