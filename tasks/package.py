"""Package the fused ensemble and have it registered."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from fuseline.planned import Planned
from fuseline.report.summary import finite, winner
from fuseline.store import read_json
from fuseline.tracking.records import Version
from fuseline.tracking.spool import opened
from fuseline.tracking.tags import PLAN
from tasks.records import PlanRecord, RunRecord, StageRecord


@task(name="package", cache_policy=NO_CACHE, persist_result=False)
def package(record: PlanRecord, bank: StageRecord, fused: list[StageRecord]) -> StageRecord:
    """The package's folder; see :func:`fuseline.package.build.build_package`."""
    return StageRecord(*apart("fuseline.stages:package", record.folder, bank.folder, [part.folder for part in fused]))


def unmet_floors(record: PlanRecord, report: StageRecord) -> list[str]:
    """The floors of the recipe that the report does not clear."""
    floors = Planned.open(record.folder).recipe.registry.floors
    return list(apart("fuseline.stages:unmet", report.folder, floors))


@task(name="register", cache_policy=NO_CACHE, persist_result=False)
def register_version(
    record: PlanRecord, run: RunRecord, report: StageRecord, packaged: StageRecord, unmet: Sequence[str]
) -> None:
    """Ask for a version in the registry; see :func:`fuseline.tracking.registry.register`."""
    plan = Planned.open(record.folder)
    numbers = finite(read_json(report.folder / "report.json"))
    tags = {
        f"test.{target}.{name}": f"{score['value']:.6g}"
        for target in record.targets
        for name, score in winner(numbers, target)["metrics"].items()
        if score["value"] is not None
    }
    tags |= {"recipe": run.recipe, "floors": "; ".join(unmet) or "cleared", PLAN: record.key}
    version = Version(
        name=plan.recipe.registered_name,
        package=str(packaged.folder),
        plan=str(record.folder),
        tags=tags,
    )
    opened(run.run_id).tell(run.run_id, label=f"register {packaged.folder.name}", version=version)
