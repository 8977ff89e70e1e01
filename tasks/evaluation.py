"""Score members and fusions on the test rows, once, after every choice."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from tasks.records import PlanRecord, StageRecord


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False)
def judge(record: PlanRecord, bank: StageRecord, fused: list[StageRecord]) -> StageRecord:
    """The report's folder; see :func:`fuseline.evaluation.report.evaluate`."""
    return StageRecord(*apart("fuseline.stages:judge", record.folder, bank.folder, [part.folder for part in fused]))
