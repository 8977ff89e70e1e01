"""Assemble what all members say of all rows."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from tasks.records import MemberRecord, PlanRecord, StageRecord


@task(name="bank", cache_policy=NO_CACHE, persist_result=False)
def bank_members(record: PlanRecord, members: list[MemberRecord]) -> StageRecord:
    """The bank's folder; see :func:`fuseline.bank.build_bank`."""
    return StageRecord(*apart("fuseline.stages:bank", record.folder, [(m.name, m.keys, m.folders) for m in members]))
