"""Compare, fit and calibrate the fusion rules of one target."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from tasks.records import PlanRecord, StageRecord


@task(name="fuse", task_run_name="fuse {target}", cache_policy=NO_CACHE, persist_result=False)
def fuse(record: PlanRecord, bank: StageRecord, target: str) -> StageRecord:
    """The folder of a target's fitted candidates; see :func:`fuseline.fusion.fuse.fuse_target`."""
    return StageRecord(*apart("fuseline.stages:fuse", record.folder, bank.folder, target))
