"""Find again what a finished run has made, and remember what this one did."""

from __future__ import annotations

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from fuseline.lineage import Lineage, remember
from fuseline.planned import Planned
from fuseline.recipe import Recipe
from fuseline.store import Store
from tasks.records import MemberRecord, PlanRecord, StageRecord


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def find_plan(lineage: Lineage) -> PlanRecord:
    """The record of a plan that stands in the store."""
    plan = Planned.open(Store().path("plan", lineage.plan))
    return PlanRecord(plan.key, plan.folder, tuple(plan.members), tuple(plan.recipe.targets), plan.after, lineage.rules)


@task(name="train member", task_run_name="train {member}", cache_policy=NO_CACHE, persist_result=False)
def find_member(lineage: Lineage, member: str) -> State[MemberRecord]:
    """The record of a member whose replicas stand in the store; ends as ``Reused``."""
    keys = tuple(lineage.members[member])
    return Completed(name="Reused", data=MemberRecord(member, keys, tuple(Store().path("replica", key) for key in keys), 0))


@task(name="find a stage", task_run_name="{kind}", cache_policy=NO_CACHE, persist_result=False)
def find_stage(kind: str, key: str) -> State[StageRecord]:
    """The record of a stage's result that stands in the store; ends as ``Reused``."""
    return Completed(name="Reused", data=StageRecord(Store().path(kind, key), True))


@task(name="remember", cache_policy=NO_CACHE, persist_result=False)
def remember_run(
    recipe: Recipe,
    plan: PlanRecord,
    members: list[MemberRecord],
    bank: StageRecord,
    fused: list[StageRecord],
    report: StageRecord,
    packaged: StageRecord,
    unmet: list[str],
) -> None:
    """Keep what this run is made of; see :func:`fuseline.lineage.recall`."""
    lineage = Lineage(
        plan=plan.key,
        data=Planned.open(plan.folder).data,
        members={member.name: list(member.keys) for member in members},
        rules={target: list(rules) for target, rules in plan.rules.items()},
        bank=bank.folder.name,
        fused={target: stage.folder.name for target, stage in zip(plan.targets, fused, strict=True)},
        report=report.folder.name,
        package=packaged.folder.name,
        unmet=unmet,
    )
    remember(recipe, Store(), lineage)
