"""Check a recipe against its data and divide the rows."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from fuseline.recipe import Recipe
from tasks.records import PlanRecord

_prepared: dict[str, PlanRecord] = {}


def keep(recipe: Recipe, made: tuple[Any, ...]) -> PlanRecord:
    """The record of a plan that was made ahead, kept for the task that will ask for it in this process."""
    record = _prepared[recipe.model_dump_json()] = PlanRecord(*made)
    return record


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_run(recipe: Recipe) -> PlanRecord:
    """The plan's record; see :func:`fuseline.plan.make_plan`."""
    return _prepared.pop(recipe.model_dump_json(), None) or PlanRecord(*apart("fuseline.stages:plan", recipe))
