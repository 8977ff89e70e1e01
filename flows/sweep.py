"""Many recipes, or a grid over one: every member and bank that is the same is made once, and one leaderboard shows them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow, get_run_logger

from flows.again import train_again
from flows.signals import heeded_still
from flows.stages import Stages
from flows.train import train
from fuseline.grid import candidates as expanded
from fuseline.lineage import recall
from fuseline.recipe import Recipe
from fuseline.store import Store, read_json
from tasks.sweep import check_all, compare, finish_sweep, start_sweep
from tasks.tracking import delivered, fail_run


@flow(name="sweep", flow_run_name="sweep {recipes[0].name}", persist_result=False)
def sweep(recipes: list[Recipe], grid: dict[str, list[Any]] | None = None, add_version: bool = True) -> dict[str, Any]:
    """Train every candidate, one after the other, compare them, and register the one that is chosen; returns the leaderboard.

    All candidates are checked before any is trained; one that fails later is listed with its reason. Candidates are told apart
    by the cross-fitted loss of their fusions, never by their test rows: see :mod:`fuseline.report.candidates`. Of several sets of
    candidates that can't be compared nothing is registered.

    Args:
        recipes: at least one.
        grid: for each path into a recipe the values to be tried: ``{"members.0.epochs": [10, 30]}``.
        add_version: whether the chosen one becomes a version in the registry.
    """
    stages, wanted = Stages(), expanded(recipes, grid or {})
    with stages("check"):
        check_all(wanted)
    with heeded_still():
        run = start_sweep(wanted)
        try:
            with stages("train"):
                done, failed = _trained(wanted)
            with stages("compare"):
                boards = compare(done) if done else None
            tables = [] if boards is None else read_json(boards.folder / "leaderboards.json")
            result = _summary(wanted, done, failed, tables)
            if add_version and result["chosen"] is not None:
                with stages("register"):
                    result["registered"] = _registered(wanted[result["chosen"]])
            finish_sweep(run, boards, {**result, "timing": stages.seconds})
        except BaseException as error:
            fail_run(run, error)
            raise
    told = delivered(run)
    return {**result, "run_id": told.run_id, "tracking": "waiting" if told.waiting else "delivered", "timing": stages.seconds}


def _trained(wanted: Mapping[str, Recipe]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The summaries of the candidates that were trained, and why the others were not."""
    done, failed = {}, {}
    for label, recipe in wanted.items():
        try:
            lineage = recall(recipe, Store())
            done[label] = train(recipe, False) if lineage is None else train_again(recipe, lineage, False)
        except Exception as error:  # whatever it is, the others are not to blame
            failed[label] = str(error) or type(error).__name__
            get_run_logger().warning("%s: %s", label, failed[label])
    return done, failed


def _summary(
    wanted: Mapping[str, Recipe],
    done: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    boards: list[dict[str, Any]],
) -> dict[str, Any]:
    names = ("run_id", "trained", "reused")
    return {
        "recipe": next(iter(wanted.values())).name,
        "candidates": [{"label": label, **{name: its[name] for name in names}} for label, its in done.items()],
        "failed": [{"label": label, "reason": reason} for label, reason in failed.items()],
        "trained": sum(its["trained"] for its in done.values()),
        "reused": sum(its["reused"] for its in done.values()),
        "leaderboards": boards,
        "chosen": boards[0]["chosen"] if len(boards) == 1 else None,
        "registered": None,
    }


def _registered(recipe: Recipe) -> dict[str, Any] | None:
    """The chosen candidate once more, now with a version: a run of its own, in which all is reused. None if a member of it had
    failed: what would be tried again might become another ensemble than the one that was chosen."""
    lineage = recall(recipe, Store())
    if lineage is None:
        get_run_logger().warning("the chosen candidate is without a member that failed, and is not registered by itself")
        return None
    version: dict[str, Any] | None = train_again(recipe, lineage)["registered"]
    return version
