"""Past runs, read from MLflow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run, ViewType

from fuseline.tracking.client import connected, missing_database
from fuseline.tracking.settings import Settings
from fuseline.tracking.tags import KIND, RECIPE


def past_runs(settings: Settings, recipe: str | None, most: int) -> list[dict[str, Any]]:
    """Finished training runs, newest first: when, which recipe, what became of how many members, per target the chosen rule and
    its metrics."""
    if missing_database(settings) is not None:
        return []
    client = connected(settings)
    experiments = [e.experiment_id for e in client.search_experiments()]
    text = f"tags.`{KIND}` = 'train' and attributes.status = 'FINISHED'"
    if recipe is not None:
        recipe = recipe.replace("'", "")
        text += f" and tags.`{RECIPE}` = '{recipe}'"
    runs = client.search_runs(experiments, text, ViewType.ACTIVE_ONLY, most, ["attributes.start_time DESC"])
    return [_line(run) for run in runs]


def _line(run: Run) -> dict[str, Any]:
    metrics = run.data.metrics
    targets: dict[str, Any] = {}
    for name, value in sorted(metrics.items()):
        kind, _, rest = name.partition("/")
        target, _, metric = rest.partition("/")
        if kind == "test" and not metric.endswith(("_low", "_high")):
            score = {"value": value, "low": metrics.get(f"{name}_low"), "high": metrics.get(f"{name}_high")}
            rule = run.data.tags.get(f"fuseline.best.{target}", "")
            targets.setdefault(target, {"rule": rule, "metrics": {}})["metrics"][metric] = score
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return {
        "run_id": run.info.run_id,
        "recipe": run.data.tags.get(RECIPE, ""),
        "started": started.strftime("%Y-%m-%d %H:%M"),
        "version": run.data.tags.get("fuseline.version", ""),
        "members": {status: int(metrics.get(f"members_{status}", 0)) for status in ("trained", "reused", "failed")},
        "targets": targets,
    }
