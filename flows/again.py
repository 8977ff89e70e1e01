"""The main job where a finished run has made all of it already: a run of its own, with the same results."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.signals import heeded_still
from flows.stages import Stages
from fuseline.lineage import Lineage
from fuseline.recipe import Recipe
from fuseline.report import summary
from fuseline.store import home, locked, read_json
from tasks.lineage import find_member, find_plan, find_stage
from tasks.package import register_version
from tasks.promotion import promote_trained
from tasks.tracking import delivered, fail_run, finish_run, start_run, track_fusions, track_member, track_plan, track_scores


@flow(name="train", flow_run_name="{recipe.name}", persist_result=False)
def train_again(recipe: Recipe, lineage: Lineage, add_version: bool = True) -> dict[str, Any]:
    """Find every stage in the store, register and track; nothing is computed, and torch is not loaded. Returns the run's summary
    as :func:`flows.train.train` does."""
    stages = Stages()
    with stages("plan"):
        plan = find_plan(lineage)
    with heeded_still(), locked(home() / "locks" / f"run-{plan.key}.lock", stages.waiting):
        try:
            with stages("track"):
                run = start_run(plan)
            with stages("train"):
                members = [find_member(lineage, member).result() for member in plan.members]
            with stages("track"):
                track_plan(plan, run)
                children = {member.name: track_member(plan, run, member) for member in members}
            with stages("bank"):
                bank = find_stage("bank", lineage.bank).result()
            with stages("fuse"):
                fused = [find_stage("fusion", key).result() for key in lineage.fused.values()]
            with stages("evaluate"):
                report = find_stage("report", lineage.report).result()
            with stages("package"):
                packaged = find_stage("package", lineage.package).result()
            if add_version:
                with stages("register"):
                    register_version(plan, run, report, packaged, lineage.unmet)
            with stages("track"):
                track_scores(run, report, children)
                track_fusions(plan, run, report)
            with stages("promote"):
                promotion = promote_trained(plan, run, add_version)
            with stages("track"):
                result = summary.assemble(recipe.name, members, read_json(report.folder / "report.json"))
                result |= {"promotion": promotion.state, "promotion_reason": promotion.why}
                result |= {"plan": plan.key, "report": report.folder.name}
                made = [bank, *fused, report, packaged]
                finish_run(plan, run, members, report, made, {**result, "timing": stages.seconds})
        except BaseException as error:
            fail_run(plan, error)
            raise
    with stages("track"):
        told = delivered(run)
    known = summary.tracked(result, told.run_id, told.registered, bool(told.waiting), told.refused)
    return {**known, "timing": stages.seconds}
