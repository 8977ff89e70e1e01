"""The main job where a finished run has made all of it already: a run of its own, with the same results."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.stages import Stages
from fuseline.lineage import Lineage
from fuseline.recipe import Recipe
from fuseline.report import summary
from fuseline.store import home, locked, read_json
from tasks.lineage import find_member, find_plan, find_stage
from tasks.package import register_version
from tasks.tracking import fail_run, finish_run, start_run, track_fusions, track_member, track_plan, track_scores


@flow(name="train", flow_run_name="{recipe.name}", persist_result=False)
def train_again(recipe: Recipe, lineage: Lineage) -> dict[str, Any]:
    """Find every stage in the store, register and track; nothing is computed, and torch is not loaded. Returns the run's summary
    as :func:`flows.train.train` does."""
    stages = Stages()
    with stages("plan"):
        plan = find_plan(lineage)
    with locked(home() / "locks" / f"run-{plan.key}.lock", stages.waiting):
        with stages("track"):
            run = start_run(plan)
        try:
            with stages("train"):
                members = [find_member(lineage, member).result() for member in plan.members]
            with stages("track"):
                track_plan(plan, run)
                children = {member.name: track_member(plan, run, member) for member in members}
            with stages("bank"):
                find_stage("bank", lineage.bank)
            with stages("fuse"):
                for key in lineage.fused.values():
                    find_stage("fusion", key)
            with stages("evaluate"):
                report = find_stage("report", lineage.report).result()
            with stages("package"):
                packaged = find_stage("package", lineage.package).result()
            with stages("register"):
                version = register_version(plan, run, report, packaged, lineage.unmet)
            with stages("track"):
                track_scores(plan, report, children)
                track_fusions(plan, run, report)
                result = summary.assemble(run.run_id, recipe.name, members, read_json(report.folder / "report.json"), version)
                finish_run(plan, run, members, report, {**result, "timing": stages.seconds})
        except BaseException as error:
            fail_run(plan, run, str(error) or type(error).__name__, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
    return {**result, "timing": stages.seconds}
