"""Say what a run is, what its members and fusions did, and how it ended.

All of it goes to the run's spool, which is on this machine; MLflow is told in the background, by
:mod:`fuseline.tracking.deliver`. So nothing waits for MLflow but the end of a run, and that not for long.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from fuseline.apart import apart
from fuseline.errors import FuselineError
from fuseline.planned import Planned
from fuseline.recipe import dump_recipe
from fuseline.report.environment import environment
from fuseline.report.summary import ENDS, flat_metrics, winner
from fuseline.store import Store, code_version, content_key, read_json
from fuseline.tracking import leftovers, tags
from fuseline.tracking.deliver import PATIENCE, Told, deliverer, without_secrets
from fuseline.tracking.records import Data, Start, Status, now
from fuseline.tracking.spool import held_of, opened
from fuseline.tracking.spool import start_run as start_spool
from tasks.artifacts import unhindered
from tasks.records import Curve, FailedMember, MemberRecord, PlanRecord, RunRecord, StageRecord

logger = logging.getLogger(__name__)


def open_tracker(recipe: str) -> None:
    """See :func:`fuseline.tracking.leftovers.begin`."""
    leftovers.begin(recipe)


@task(name="track the run", cache_policy=NO_CACHE, persist_result=False)
def start_run(record: PlanRecord) -> RunRecord:
    """Continue this recipe's unfinished run or start a new one, with its recipe and data."""
    plan = Planned.open(record.folder)
    recipe = plan.recipe
    spool = start_spool(plan.key, recipe.name, {tags.RECIPE: recipe.name, "mlflow.note.content": recipe.description})
    data = Data(name=recipe.name, digest=plan.fingerprint, origin=plan.origin, schema_=plan.schema)
    spool.tell(spool.run, label="recipe", params=recipe.model_dump(mode="json"), data=data)
    deliverer().watch(spool)
    return RunRecord(spool.run, recipe.name)


def begin_run(kind: str, key: str, recipe: str, about: str, params: Mapping[str, Any], **said: str) -> RunRecord:
    """Continue the unfinished run of a kind that is about the same, or start one, in the experiment of a recipe."""
    spool = start_spool(key, recipe, {tags.RECIPE: recipe, **said}, kind=kind, name=f"{kind} {about}")
    spool.tell(spool.run, label="what", params=params)
    deliverer().watch(spool)
    return RunRecord(spool.run, recipe)


@task(name="track the plan", cache_policy=NO_CACHE, persist_result=False)
def track_plan(record: PlanRecord, run: RunRecord) -> None:
    """The run's recipe, split, partition with its pictures, training units and environment, as files."""
    plan, spool = Planned.open(record.folder), opened(run.run_id)
    if spool.has_told(run.run_id, "plan"):
        return
    kept = [record.folder / name for name in ("statistics.json", "split.parquet", "partition.parquet")]
    files: dict[str, Path | str] = {"recipe.yaml": dump_recipe(plan.recipe), "environment.txt": environment()}
    files |= {file.name: file for file in [*kept, *_partition_pictures(record).glob("*.png")]}
    spool.tell(run.run_id, label="plan", files=[spool.keep("plan", files, "plan")])


@task(name="track a member", task_run_name="track {member.name}", cache_policy=NO_CACHE, persist_result=False)
def track_member(record: PlanRecord, run: RunRecord, member: MemberRecord | FailedMember) -> str:
    """A member's child run: its settings and learning curves, where it was trained if it is reused, why if it failed."""
    plan, spool = Planned.open(record.folder), opened(run.run_id)
    replicas = plan.members[member.name]
    key = content_key(replicas=[replica.key for replica in replicas])
    child, attempts = spool.child("member", key), str(member.attempts)
    said = {tags.STATUS: member.status, "fuseline.pace": plan.why[member.name], tags.ATTEMPT: attempts, tags.ATTEMPTS: attempts}
    params = {**replicas[0].spec, "replicas": len(replicas), "seed": replicas[0].seed}
    if isinstance(member, FailedMember):
        said |= {tags.REASON: member.reason, tags.FAILURE: member.kind}
        begun = Start(name=member.name, kind="member", key=key, parent=run.run_id)
        spool.tell(child, start=begun, tags=said, params=params, points=_curves(member.curves), end="FAILED")
        return child
    training = [read_json(folder / "training.json") for folder in member.folders]
    epochs = [epoch["at"] for its in training for epoch in its["curve"]]
    began, ended = (min(epochs), max(epochs)) if member.trained else (None, now())
    spool.tell(
        child,
        at=ended,
        label="trained",
        start=Start(name=member.name, kind="member", key=key, parent=run.run_id, at=began),
        tags=said,
        params=params,
        metrics={"seconds": sum(its["seconds"] for its in training), "parameters": training[0]["parameters"]},
        points=_curves([its["curve"] for its in training]),
        origin=key if member.status == "reused" else None,
        end="FINISHED",
    )
    return child


def _curves(curves: Sequence[Curve]) -> list[tuple[str, float, int, int]]:
    """The points of each replica's learning curves, with the worker's own time stamps."""
    points = []
    for number, curve in enumerate(curves, start=1):
        prefix = f"replica_{number}/" if len(curves) > 1 else ""
        for epoch in curve:
            for name, part in (("loss", "loss"), ("rate", "rate"), ("holdout_loss", "holdout")):
                if epoch[part] is not None:
                    points.append((f"{prefix}{name}", epoch[part], epoch["at"], epoch["epoch"]))
    return points


@task(name="track scores", cache_policy=NO_CACHE, persist_result=False)
def track_scores(run: RunRecord, report: StageRecord, members: Mapping[str, str]) -> None:
    """The members' test metrics; ``members`` holds their child runs by name."""
    spool, numbers = opened(run.run_id), read_json(report.folder / "report.json")
    for name, child in members.items():
        if metrics := flat_metrics(numbers, "members", name):
            spool.tell(child, label=f"scores of {report.folder.name}", metrics=metrics)


@task(name="track fusions", cache_policy=NO_CACHE, persist_result=False)
def track_fusions(record: PlanRecord, run: RunRecord, report: StageRecord) -> None:
    """One child run per fusion rule, with its cross-fitted losses and its test metrics."""
    spool, numbers = opened(run.run_id), read_json(report.folder / "report.json")
    rules: dict[str, dict[str, Any]] = {}
    for target in record.targets:
        for rule in record.rules[target]:
            rules.setdefault(rule.name, {})[target] = rule.settings
    for name, settings in rules.items():
        key = content_key(report=report.folder.name, rule=name, settings=settings)
        metrics = flat_metrics(numbers, "candidates", name)
        for target, part in numbers["targets"].items():
            if name in part["comparison"]["rules"]:
                metrics |= {f"cross_fit/{target}/{k}": v for k, v in part["comparison"]["rules"][name].items()}
        spool.tell(
            spool.child("fusion", key),
            label="fused",
            start=Start(name=f"fusion {name}", kind="fusion", key=key, parent=run.run_id),
            tags={"fuseline.chosen_for": ", ".join(t for t, p in numbers["targets"].items() if p["chosen"] == name)},
            params={"rule": name, "settings": settings},
            metrics=metrics,
            end="FINISHED",
        )


@task(name="track the report", cache_policy=NO_CACHE, persist_result=False)
def finish_run(
    record: PlanRecord,
    run: RunRecord,
    members: Sequence[MemberRecord],
    report: StageRecord,
    made: Sequence[StageRecord],
    summary: dict[str, Any],
) -> None:
    """The parent's test metrics, report and pictures, and the entries that it is made of: ``made`` are those of its stages. The
    run ends as finished."""
    spool, numbers = opened(run.run_id), read_json(report.folder / "report.json")
    metrics: dict[str, float] = {}
    for target in record.targets:
        won = winner(numbers, target)
        flat = flat_metrics(numbers, "candidates", won["name"])
        metrics |= {name: value for name, value in flat.items() if name.startswith(f"test/{target}/")}
        metrics |= {f"gain/{target}/{n}{s}": g[p] for n, g in won["gain"].items() for p, s in ENDS}
        metrics |= {f"uncertainty/{target}/{n}": v for n, v in numbers["targets"][target]["uncertainty"].items()}
        metrics |= {f"diversity/{target}/{n}": v for n, v in numbers["targets"][target]["diversity"]["mean"].items()}
    metrics |= {f"seconds/{stage}": s for stage, s in summary["timing"].items()}
    metrics |= {f"members_{status}": summary[status] for status in ("trained", "reused", "failed")}
    pictures, shares = _pictures(members, report), _partition_pictures(record)
    drawn: dict[str, Path | str] = {file.name: file for file in pictures.glob("*.png")}
    data = Planned.open(record.folder).data
    folders = [*(stage.folder for stage in made), report.folder, pictures, shares]
    entries = dict.fromkeys([("plan", record.key), ("data", data), *((folder.parent.name, folder.name) for folder in folders)])
    with unhindered("the leaderboard"):
        create_table_artifact(_leaderboard(summary), key="leaderboard", description=f"{run.recipe}: scores on the test rows")
    spool.tell(
        run.run_id,
        metrics=metrics,
        tags={**{f"fuseline.best.{t}": rule for t, rule in summary["best"].items()}, **tags.entry_tags(list(entries))},
        files=[
            spool.keep("report", {"report.json": report.folder / "report.json"}),
            spool.keep("pictures", drawn, "pictures"),
        ],
        summary=summary,
        end="FINISHED",
    )


def _leaderboard(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per target and member or fusion rule; failed members say why in the place of scores."""
    every = [(m["name"], m["status"], m["metrics"]) for m in summary["members"] if m["status"] != "failed"]
    every += [(c["rule"], "fusion", c["metrics"]) for c in summary["candidates"]]
    rows = [
        {"target": target, "name": name, "status": status, **{metric: score["value"] for metric, score in scores.items()}}
        for name, status, targets in every
        for target, scores in targets.items()
    ]
    failed = [m for m in summary["members"] if m["status"] == "failed"]
    return [*rows, *({"target": "", "name": m["name"], "status": f"failed: {m['reason']}"} for m in failed)]


def fail_run(record: PlanRecord | RunRecord, error: BaseException) -> None:
    """A run, known by its plan if need be, ends as failed or, if it was interrupted, as killed, and says why, if it has begun and
    not ended before; MLflow is told."""
    status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"
    spool = held_of(record.key) if isinstance(record, PlanRecord) else opened(record.run_id)
    if spool is None:
        return
    try:
        if spool.is_going:
            spool.tell(spool.run, tags={tags.REASON: str(error) or type(error).__name__}, end=status)
    except (OSError, FuselineError) as ours:  # what ended the run shall be seen, not this
        logger.warning("the end of the run could not be recorded: %s", ours)
    delivered(RunRecord(spool.run, spool.owner.recipe))


def registered(run: RunRecord, patience: float = PATIENCE) -> int | None:
    """The version that a run has registered, when MLflow knows all that the run has told so far, or has been away for so many
    seconds."""
    folder, its = opened(run.run_id).folder, deliverer()
    its.wait([folder], patience)
    version = its.told(folder).registered
    return None if version is None else version.version


def delivered(run: RunRecord, patience: float = PATIENCE) -> Told:
    """Wait until MLflow knows all of a run that has ended, or has been away for so many seconds; let go of it then."""
    spool, its = opened(run.run_id), deliverer()
    its.wait([spool.folder], patience)
    told = its.told(spool.folder)
    spool.close()
    its.wake()
    address = its.settings.server.mlflow_tracking_uri
    if spool.ends.get(run.run_id) == "FINISHED" and told.run_id is not None and address.startswith("http"):
        page = f"{without_secrets(address).rstrip('/')}/#/experiments/{told.experiment}/runs/{told.run_id}"
        with unhindered("the way to MLflow"):
            create_link_artifact(page, key="mlflow-run")
    return told


def _pictures(members: Sequence[MemberRecord], report: StageRecord) -> Path:
    """The pictures of a report, drawn once and kept in the store."""
    key = content_key(report=report.folder.name, members=[m.keys for m in members], code=code_version("report"))

    def build(folder: Path) -> None:
        apart("fuseline.stages:draw_report", report.folder, {m.name: m.folders for m in members}, folder)

    return Store().make("pictures", key, build)[0]


def _partition_pictures(record: PlanRecord) -> Path:
    """The pictures of who sees what, drawn once and kept in the store."""
    key = content_key(plan=record.key, code=code_version("report"))
    return Store().make("pictures", key, lambda folder: apart("fuseline.stages:draw_shares", record.folder, folder))[0]
