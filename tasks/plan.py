"""Check a recipe against its data and divide the rows."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.plan import make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store
from tasks.records import PlanRecord


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_run(recipe: Recipe) -> PlanRecord:
    """The plan's record; see :func:`fuseline.plan.make_plan`."""
    plan, folder = make_plan(recipe, Store())
    rules = {target: plan.fuse_spec(target).rules for target in recipe.targets}
    return PlanRecord(plan.key, folder, tuple(plan.members), tuple(recipe.targets), plan.after, rules)
