"""Predict with a registered version: fetch and verify it, answer the rows in a process of its own, and say so in a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from fuseline.package.predicted import Predicted
from fuseline.store import content_key
from fuseline.tracking import tags
from fuseline.tracking.deliver import without_secrets
from fuseline.tracking.spool import opened
from tasks.records import RunRecord
from tasks.tracking import begin_run

if TYPE_CHECKING:
    from fuseline.tracking.versions import Fetched  # loads MLflow


@task(name="fetch and verify", cache_policy=NO_CACHE, persist_result=False)
def fetch_version(model: str, folder: Path) -> Fetched:
    """See :func:`fuseline.tracking.versions.fetch`."""
    from fuseline.tracking.settings import load_settings
    from fuseline.tracking.versions import fetch

    return fetch(load_settings(), model, folder)


@task(name="track the prediction", cache_policy=NO_CACHE, persist_result=False)
def start_prediction(version: Fetched, data: str, out: str, rejects: str) -> RunRecord:
    """Continue the unfinished run that predicts the same into the same file, or start one, in the experiment of the recipe."""
    recipe = version.provenance["recipe"]["name"]
    named = f"{version.name}/{version.version}"
    said = {"model": named, "data": data, "out": out, "rejects": rejects}
    params = {name: without_secrets(text) for name, text in said.items()} | {"package": version.package.name}
    return begin_run("predict", content_key(**said), recipe, named, params, **{tags.VERSION: named})


@task(name="predict", cache_policy=NO_CACHE, persist_result=False)
def predict_rows(version: Fetched, data: str, out: str, rejects: str) -> Predicted:
    """See :func:`fuseline.package.batch.predict_file`."""
    id_, resize = reading(version.provenance["recipe"]["data"])
    places = (version.package, *(Path(place).absolute() for place in (data, out, rejects)))  # of this process
    done: Predicted = apart("fuseline.stages:predict", *places, id_, resize)
    return done


def reading(data: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The column of ids, and whether pictures are brought to one size, by what a recipe says of its data.

    >>> reading({"id": "name", "source": {"image_folder": {"path": "pictures", "size": 32}}})
    ('name', True)
    >>> reading({"id": None, "source": "sklearn"})
    (None, False)
    """
    source = data["source"]
    pictures = source.get("image_folder") if isinstance(source, dict) else None
    return data["id"], pictures is not None and pictures.get("size") is not None


@task(name="track the result", cache_policy=NO_CACHE, persist_result=False)
def finish_prediction(run: RunRecord, done: Predicted, seconds: float) -> None:
    """The run ends as finished, with its counts."""
    counts = {"rows": done.rows, "rejected": done.rejected, "parts": done.parts, "parts_reused": done.reused, "seconds": seconds}
    opened(run.run_id).tell(run.run_id, metrics=counts, end="FINISHED")
