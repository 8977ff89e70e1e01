"""Check the candidates of a sweep, compare those that were trained, and say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from fuseline.errors import RecipeError, UserError
from fuseline.recipe import Recipe
from fuseline.report.summary import ENDS
from fuseline.store import Store, content_key
from fuseline.tracking import tags
from fuseline.tracking.spool import opened
from tasks.artifacts import unhindered
from tasks.plan import keep
from tasks.records import RunRecord, StageRecord
from tasks.tracking import begin_run

Summary = dict[str, Any]


@task(name="check all recipes", cache_policy=NO_CACHE, persist_result=False)
def check_all(candidates: Mapping[str, Recipe]) -> None:
    """Plan every candidate, so that none is trained if one of them can't be.

    Raises:
        RecipeError: lists those that can't be, each with its reason.
    """
    wrong = []
    for label, recipe in candidates.items():
        try:
            keep(recipe, apart("fuseline.stages:plan", recipe))
        except UserError as error:
            wrong.append(f"{label}: {error}")
    if wrong:
        told = " ".join(wrong)
        raise RecipeError(f"{len(wrong)} of {len(candidates)} candidates can't be trained, so that none is. {told}")


@task(name="track the sweep", cache_policy=NO_CACHE, persist_result=False)
def start_sweep(candidates: Mapping[str, Recipe]) -> RunRecord:
    """Begin a run of the kind ``sweep``, in the experiment of the first recipe."""
    name = next(iter(candidates.values())).name
    key = content_key(kind="sweep", candidates=candidates)
    labels = {f"{number:03}": label for number, label in enumerate(candidates, 1)}
    return begin_run("sweep", key, name, name, {"candidate": labels})


@task(name="compare", cache_policy=NO_CACHE, persist_result=False)
def compare(done: Mapping[str, Summary]) -> StageRecord:
    """The leaderboards of all that were trained, with their pictures; see :func:`fuseline.report.candidates.leaderboards`."""
    store = Store()
    ran = [(label, store.path("plan", its["plan"]), store.path("report", its["report"])) for label, its in done.items()]
    return StageRecord(*apart("fuseline.stages:compare", ran))


@task(name="track the leaderboard", cache_policy=NO_CACHE, persist_result=False)
def finish_sweep(run: RunRecord, boards: StageRecord | None, summary: Summary) -> None:
    """The sweep's leaderboards with pictures, and the runs that it is made of; the run ends as finished."""
    spool = opened(run.run_id)
    metrics: dict[str, float] = {name: summary[name] for name in ("trained", "reused")}
    metrics |= {"candidates": len(summary["candidates"]), "failed": len(summary["failed"])}
    for board in summary["leaderboards"][:1]:
        best = board["candidates"][0]
        metrics |= {f"cross_fit/{target}/loss": loss for target, loss in best["loss"].items() if loss is not None}
        metrics |= {
            f"test/{target}/{name}{end}": score[part]
            for target, its in best["metrics"].items()
            for name, score in its.items()
            for part, end in ENDS
            if score[part] is not None
        }
        rows = [{"label": its["label"], **_flat(its)} for its in board["candidates"]]
        with unhindered("the leaderboard"):
            create_table_artifact(rows, key="sweep", description=f"{run.recipe}: by cross-fitted loss")
    runs = [its["run_id"] for its in summary["candidates"] if its["run_id"]]
    folder = None if boards is None else boards.folder
    pictures: dict[str, Path | str] = {} if folder is None else {file.name: file for file in folder.glob("*.png")}
    files = [spool.keep("pictures", pictures, "pictures")] if pictures else []
    spool.tell(
        run.run_id,
        metrics=metrics,
        tags={"fuseline.chosen": summary["chosen"] or "", "fuseline.runs": " ".join(runs)[: tags.LONGEST]},
        files=files,
        summary=summary,
        end="FINISHED",
    )


def _flat(candidate: Summary) -> dict[str, Any]:
    losses = {f"{target}: loss": loss for target, loss in candidate["loss"].items()}
    scores = {f"{t}: {name}": score["value"] for t, its in candidate["metrics"].items() for name, score in its.items()}
    return losses | scores
