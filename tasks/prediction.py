"""Predict with a registered version: fetch and verify it, answer the rows in a process of its own, and say so in a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from fuseline.store import content_key
from fuseline.tracking import tags
from fuseline.tracking.deliver import deliverer, without_secrets
from fuseline.tracking.spool import opened
from fuseline.tracking.spool import start_run as start_spool
from tasks.records import RunRecord

if TYPE_CHECKING:  # one loads MLflow and the other torch, which this process needs later or not at all
    from fuseline.package.batch import Predicted
    from fuseline.tracking.versions import Fetched


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
    key = content_key(**said)
    spool = start_spool(key, recipe, {tags.RECIPE: recipe, tags.VERSION: named}, kind="predict", name=f"predict {named}")
    params = {name: without_secrets(text) for name, text in said.items()}
    spool.tell(spool.run, label="what", params={**params, "package": version.package.name})
    deliverer().watch(spool)
    return RunRecord(spool.run, recipe)


@task(name="predict", cache_policy=NO_CACHE, persist_result=False)
def predict_rows(version: Fetched, data: str, out: str, rejects: str) -> Predicted:
    """See :func:`fuseline.package.batch.predict_file`."""
    recipe = version.provenance["recipe"]["data"]
    source = recipe["source"]
    pictures = source.get("image_folder") if isinstance(source, dict) else None
    resize = pictures is not None and pictures.get("size") is not None
    places = (version.package, Path(data), Path(out).absolute(), Path(rejects).absolute())
    done: Predicted = apart("fuseline.stages:predict", *places, recipe["id"], resize)
    return done


@task(name="track the result", cache_policy=NO_CACHE, persist_result=False)
def finish_prediction(run: RunRecord, done: Predicted, seconds: float) -> None:
    """The run ends as finished, with its counts."""
    counts = {"rows": done.rows, "rejected": done.rejected, "parts": done.parts, "parts_reused": done.reused, "seconds": seconds}
    opened(run.run_id).tell(run.run_id, metrics=counts, end="FINISHED")
