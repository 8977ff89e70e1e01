"""Compare, fit and calibrate the fusion rules of one target."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.bank import Bank
from fuseline.fusion.fuse import fuse_target
from fuseline.plan import Plan
from fuseline.store import Store
from tasks.records import PlanRecord, StageRecord


@task(name="fuse", task_run_name="fuse {target}", cache_policy=NO_CACHE, persist_result=False)
def fuse(record: PlanRecord, bank: StageRecord, target: str) -> StageRecord:
    """The folder of a target's fitted candidates; see :func:`fuseline.fusion.fuse.fuse_target`."""
    plan, store = Plan.open(record.folder), Store()
    spec = plan.fuse_spec(target)
    fused, reused = fuse_target(store, Bank.open(bank.folder), plan.dataset, plan.split, spec, plan.units)
    return StageRecord(store.path("fusion", fused.key), reused)
