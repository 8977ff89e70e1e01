"""What an MLflow knows, as plain data."""

from __future__ import annotations

from typing import Any


def everything(client: Any) -> dict[str, Any]:
    """All that MLflow knows, by the names of the runs, so that two databases can be compared."""
    runs: dict[str, Any] = {}
    experiments = [its.experiment_id for its in client.search_experiments()]
    for run in client.search_runs(experiments):
        name = f"{run.data.tags['fuseline.kind']} {run.info.run_name}"
        assert name not in runs, f"two runs {name}"
        own = {k: v for k, v in run.data.tags.items() if k not in ("fuseline.id", "fuseline.owner", "mlflow.parentRunId")}
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        runs[name] = {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "tags": own,
            "params": run.data.params,
            "points": {key: sorted((p.step, p.value, p.timestamp) for p in its) for key, its in points.items()},
            "inputs": [its.dataset.digest for its in run.inputs.dataset_inputs],
            "files": sorted(file_paths(client, run.info.run_id)),
        }
    return runs


def file_paths(client: Any, run_id: str, path: str | None = None) -> set[str]:
    found = set()
    for file in client.list_artifacts(run_id, path):
        found |= file_paths(client, run_id, file.path) if file.is_dir else {file.path}
    return found
