"""Score members and fusions on the test rows, once, after every choice."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.bank import Bank
from fuseline.evaluation.report import evaluate
from fuseline.fusion.fuse import FusedTarget
from fuseline.plan import Plan
from fuseline.store import Store
from tasks.records import PlanRecord, StageRecord


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False)
def judge(record: PlanRecord, bank: StageRecord, fused: list[StageRecord]) -> StageRecord:
    """The report's folder; see :func:`fuseline.evaluation.report.evaluate`."""
    plan = Plan.open(record.folder)
    settings = plan.recipe.evaluation
    _, folder, reused = evaluate(
        Store(),
        Bank.open(bank.folder),
        plan.dataset,
        plan.split,
        plan.units,
        [FusedTarget.open(part.folder) for part in fused],
        {target: plan.metric_names(target) for target in record.targets},
        settings.resamples,
        settings.level,
        plan.recipe.seed,
    )
    return StageRecord(folder, reused)
