"""Judge a registered version on new rows, say so, and give alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import ValidationError

from fuseline.apart import apart
from fuseline.component import explain
from fuseline.errors import PackageError
from fuseline.package.trust import MANIFEST
from fuseline.recipe import Recipe, overridden
from fuseline.report.summary import ENDS
from fuseline.store import content_key, sha256_of
from fuseline.tracking import tags
from fuseline.tracking.reports import tested
from fuseline.tracking.settings import load_settings
from fuseline.tracking.spool import opened
from fuseline.tracking.versions import fetch
from tasks.artifacts import unhindered
from tasks.records import RunRecord, StageRecord
from tasks.tracking import begin_run

DRIFT, REGRESSION = "fuseline.drift", "fuseline.regression"
"""The events that an automation may turn into a message or a training run; the resource is ``fuseline.model.NAME``."""


@dataclass(frozen=True)
class VersionRecord:
    """A registered version that was fetched and verified: its package, the sha256 of its manifest, its recipe, and what the run
    that registered it said of the test rows."""

    name: str
    version: int
    package: Path
    manifest: str
    recipe: Recipe
    tested: Mapping[str, Mapping[str, Any]]

    @property
    def reference(self) -> str:
        return f"{self.name}/{self.version}"


@task(name="fetch the version", cache_policy=NO_CACHE, persist_result=False)
def fetch_version(model: str, folder: Path, overrides: Sequence[str]) -> VersionRecord:
    """Bring a version here and verify it; see :func:`fuseline.tracking.versions.fetch`. ``overrides`` change its recipe."""
    settings = load_settings()
    fetched = fetch(settings, model, folder)
    try:
        recipe = Recipe.model_validate(fetched.provenance["recipe"])
    except ValidationError as error:
        raise PackageError(f"{model}: its recipe can't be read by this release: {explain(error)}") from None
    manifest, known = sha256_of(fetched.model / MANIFEST), tested(settings, fetched.run_id)
    return VersionRecord(fetched.name, fetched.version, fetched.package, manifest, overridden(recipe, overrides), known)


@task(name="track the evaluation", cache_policy=NO_CACHE, persist_result=False)
def start_assessment(version: VersionRecord, data: Path) -> RunRecord:
    """Begin a run of the kind ``evaluate``, in the experiment of the version's recipe."""
    key = content_key(kind="evaluate", version=version.reference, data=str(data.absolute()))
    said = {"model": version.reference, "data": str(data), "evaluation": version.recipe.evaluation.model_dump(mode="json")}
    return begin_run("evaluate", key, version.recipe.name, version.reference, said, **{tags.VERSION: version.reference})


@task(name="assess", cache_policy=NO_CACHE, persist_result=False)
def assess(version: VersionRecord, data: Path) -> StageRecord:
    """The folder of the new rows' report; see :func:`fuseline.package.assess.assess`."""
    its = (version.package, version.manifest, version.recipe, data.absolute(), version.tested)
    return StageRecord(*apart("fuseline.stages:assess", *its))


@task(name="give alarm", cache_policy=NO_CACHE, persist_result=False)
def give_alarm(version: VersionRecord, data: Path, report: Mapping[str, Any]) -> list[str]:
    """Emit an event for a large drift and one for a regression; their names. A moderate drift stands in the report alone."""
    resource = {
        "prefect.resource.id": f"fuseline.model.{version.name}",
        "prefect.resource.name": version.name,
        "fuseline.version": version.reference,
    }
    drift, found = report["drift"], {}
    if drift["size"] == "large":
        what = [f"{test['part']}: {test['name']}" for test in drift["tests"] if test["size"] == "large"]
        found[DRIFT] = {"what": what[:100], "parts": drift["parts"]}
    if report["alarm"]:
        found[REGRESSION] = {"what": report["alarm"]}
    for event, payload in found.items():
        emit_event(event, resource=resource, payload={**payload, "data": str(data), "rows": report["rows"]})
    return list(found)


@task(name="track the report", cache_policy=NO_CACHE, persist_result=False)
def finish_assessment(run: RunRecord, made: StageRecord, report: Mapping[str, Any], summary: dict[str, Any]) -> None:
    """The run's metrics, report and pictures; the run ends as finished."""
    spool = opened(run.run_id)
    metrics: dict[str, float] = {"rows": report["rows"], "rows_fitted_on": report["fitted"]["rows"]}
    for target, part in report["targets"].items():
        for name, score in part["metrics"].items():
            for what in ("now", "change"):
                its = score[what] or {}
                metrics |= {f"{what}/{target}/{name}{s}": its[p] for p, s in ENDS if its.get(p) is not None}
    tests = report["drift"]["tests"]
    for part in report["drift"]["parts"]:
        own = [test for test in tests if test["part"] == part]
        metrics[f"drift/{part}/psi"] = max((test["psi"] for test in own), default=0.0)
        metrics[f"drift/{part}/drifted"] = sum(test["size"] != "stable" for test in own)
    rows = [{name: test[name] for name in ("part", "name", "test", "q", "psi", "size")} for test in tests[:100]]
    with unhindered("the drift"):
        create_table_artifact(rows, key="drift", description=f"{run.recipe}: drift from the test rows")
    pictures: dict[str, Path | str] = {file.name: file for file in made.folder.glob("*.png")}
    spool.tell(
        run.run_id,
        metrics=metrics,
        tags={"fuseline.drift": report["drift"]["size"], "fuseline.worse": ", ".join(report["worse"])[:4000]},
        files=[
            spool.keep("report", {"report.json": made.folder / "report.json"}),
            spool.keep("pictures", pictures, "pictures"),
        ],
        summary=summary,
        end="FINISHED",
    )
