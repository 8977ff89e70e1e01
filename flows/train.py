"""The main job: from a recipe to a registered version."""

from __future__ import annotations

from typing import Any

from prefect import allow_failure, flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.signals import heeded_still
from flows.stages import Stages
from fuseline.disk import NoRoomError
from fuseline.errors import MemberFailed, TrainingError
from fuseline.recipe import Recipe
from fuseline.report import summary
from fuseline.store import home, locked, read_json
from tasks.bank import bank_members
from tasks.evaluation import judge
from tasks.fusion import fuse
from tasks.lineage import remember_run
from tasks.members import stop, train_member
from tasks.package import package, register_version, unmet_floors
from tasks.plan import plan_run
from tasks.promotion import promote_trained
from tasks.records import FailedMember, MemberRecord, PlanRecord
from tasks.tracking import delivered, fail_run, finish_run, start_run, track_fusions, track_member, track_plan, track_scores

SUPERVISORS: Any = ThreadPoolTaskRunner(max_workers=64)
"""Threads that each watch over one worker process; how many processes run side by side, the recipe says."""

PATIENCE = 20.0
"""Seconds that workers have to save their checkpoints when a run is ended."""


@flow(name="train", flow_run_name="{recipe.name}", task_runner=SUPERVISORS, persist_result=False)
def train(recipe: Recipe, add_version: bool = True) -> dict[str, Any]:
    """Divide the data, train every member, fuse, judge, package and register; returns the run's summary, with the keys of its
    plan and report."""
    stages = Stages()
    with stages("plan"):
        plan = plan_run(recipe)
    with heeded_still(), locked(home() / "locks" / f"run-{plan.key}.lock", stages.waiting):
        try:
            with stages("track"):
                run = start_run(plan)
            futures = submitted(plan)
            with stages("track"):  # while the members are being trained
                track_plan(plan, run)
            results, children = [], {}
            for member, future in futures.items():
                with stages("train"):
                    results.append(outcome(future, member))
                with stages("track"):
                    children[member] = track_member(plan, run, results[-1])
            members = enough(results, recipe.training.quorum(len(results)))
            with stages("bank"):
                bank = bank_members(plan, members)
            with stages("fuse"):
                fused = [fuse(plan, bank, target) for target in plan.targets]
            with stages("evaluate"):
                report = judge(plan, bank, fused)
            with stages("package"):
                packaged = package(plan, bank, fused)
            with stages("register"):
                unmet = unmet_floors(plan, report)
                if add_version:
                    register_version(plan, run, report, packaged, unmet)
            with stages("track"):
                track_scores(run, report, children)
                track_fusions(plan, run, report)
            with stages("promote"):
                promotion = promote_trained(plan, run, add_version)
            with stages("track"):
                result = summary.assemble(recipe.name, results, read_json(report.folder / "report.json"))
                result |= {"promotion": promotion.state, "promotion_reason": promotion.why}
                result |= {"plan": plan.key, "report": report.folder.name}
                if len(members) == len(results):  # those that failed are tried again
                    remember_run(recipe, plan, members, bank, fused, report, packaged, unmet)
                made = [bank, *fused, report, packaged]
                finish_run(plan, run, members, report, made, {**result, "timing": stages.seconds})
        except BaseException as error:
            stop(plan, PATIENCE)
            fail_run(plan, error)
            raise
    with stages("track"):
        told = delivered(run)
    known = summary.tracked(result, told.run_id, told.registered, bool(told.waiting), told.refused)
    return {**known, "timing": stages.seconds}


def submitted(plan: PlanRecord) -> dict[str, Any]:
    """Submit every member's task; one that follows another waits until that one has ended, however it ended."""
    futures: dict[str, Any] = {}
    for member in plan.members:
        follows = [allow_failure(futures[plan.after[member]])] if member in plan.after else []
        futures[member] = train_member.submit(plan, member=member, wait_for=follows, return_state=False)
    return futures


def outcome(future: Any, member: str) -> MemberRecord | FailedMember:
    """What a member's task ended with; a member that could not be trained does not keep its siblings from finishing.

    Raises:
        NoRoomError: the disk is full, which is no member's fault.
    """
    try:
        done: MemberRecord = future.result()
    except MemberFailed as error:
        if error.kind == "no room":
            raise NoRoomError(error.reason) from None
        return FailedMember(member, error.reason, error.kind, error.attempts, error.curves)
    return done


def enough(results: list[MemberRecord | FailedMember], least: int) -> list[MemberRecord]:
    """The members that are trained; those that have failed don't keep so many of them from becoming an ensemble.

    Raises:
        TrainingError: there are fewer; lists those that have failed.
    """
    failed = [f"member {result.name!r}: {result.reason}" for result in results if isinstance(result, FailedMember)]
    members = [result for result in results if isinstance(result, MemberRecord)]
    if len(members) < least:
        text = f"{len(members)} of {len(results)} members are trained, and {least} are needed (training.min_members)"
        raise TrainingError(f"{text}: {'; '.join(failed)}")
    return members
