"""Assemble what all members say of all rows."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.bank import BankedMember, build_bank
from fuseline.plan import Plan
from fuseline.store import Store
from tasks.records import MemberRecord, PlanRecord, StageRecord


@task(name="bank", cache_policy=NO_CACHE, persist_result=False)
def bank_members(record: PlanRecord, members: list[MemberRecord]) -> StageRecord:
    """The bank's folder; see :func:`fuseline.bank.build_bank`."""
    plan = Plan.open(record.folder)
    banked = [BankedMember(m.name, list(m.keys), list(m.folders), [job.share for job in plan.members[m.name]]) for m in members]
    bank, reused = build_bank(Store(), plan.dataset, plan.split, banked)
    return StageRecord(bank.folder, reused)
