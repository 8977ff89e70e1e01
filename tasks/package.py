"""Package the fused ensemble and register it.

What packaging needs is imported where it is needed: a package that stands there is registered without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.planned import Planned
from fuseline.report.summary import below_floor, finite, winner
from fuseline.store import Store, read_json
from fuseline.tracking.registry import Registered, register
from tasks.records import PlanRecord, RunRecord, StageRecord
from tasks.tracking import tracker_of


@task(name="package", cache_policy=NO_CACHE, persist_result=False)
def package(record: PlanRecord, bank: StageRecord, fused: list[StageRecord]) -> StageRecord:
    """The package's folder; see :func:`fuseline.package.build.build_package`."""
    from fuseline.bank import Bank
    from fuseline.fusion.fuse import FusedTarget
    from fuseline.package.build import build_package
    from fuseline.plan import Plan

    plan = Plan.open(record.folder)
    folder, reused = build_package(Store(), plan, Bank.open(bank.folder), [FusedTarget.open(part.folder) for part in fused])
    return StageRecord(folder, reused)


@task(name="register", cache_policy=NO_CACHE, persist_result=False)
def register_version(
    record: PlanRecord, run: RunRecord, report: StageRecord, packaged: StageRecord, unmet: Sequence[str] | None = None
) -> Registered:
    """A version in the registry; see :func:`fuseline.tracking.registry.register`. ``unmet`` are the floors that it does not
    clear, where that is known."""
    plan = Planned.open(record.folder)
    numbers = finite(read_json(report.folder / "report.json"))
    tags = {
        f"test.{target}.{name}": f"{score['value']:.6g}"
        for target in record.targets
        for name, score in winner(numbers, target)["metrics"].items()
        if score["value"] is not None
    }
    if unmet is None:
        unmet = below_floor(numbers, plan.recipe.registry.floors)
    tags |= {"recipe": run.recipe, "floors": "; ".join(unmet) or "cleared"}
    name = plan.recipe.registered_name
    return register(tracker_of(plan), run.run_id, name, packaged.folder, plan.schema, partial(_example, record), tags, not unmet)


def _example(record: PlanRecord) -> pd.DataFrame | NDArray[Any]:
    """A few raw rows of the data."""
    from fuseline.plan import Plan

    return Plan.open(record.folder).example()
