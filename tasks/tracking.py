"""Tell MLflow what a run is, what its members and fusions did, and how it ended.

What draws pictures is imported where it draws: a run in which everything is reused finds them in the store, and torch stays out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from fuseline.planned import Planned
from fuseline.recipe import dump_recipe
from fuseline.report.environment import environment
from fuseline.report.summary import flat_metrics, winner
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.tracking.runs import ORIGIN, RECIPE, Tracker
from fuseline.tracking.settings import Settings, load_settings
from tasks.records import FailedMember, MemberRecord, PlanRecord, RunRecord, StageRecord


def tracker_of(plan: Planned) -> Tracker:
    return open_tracker(plan.recipe.name)


def open_tracker(recipe: str) -> Tracker:
    """MLflow for the runs of a recipe, opened once."""
    return _tracker(load_settings(), recipe)


@cache
def _tracker(settings: Settings, experiment: str) -> Tracker:
    return Tracker(settings, experiment)


@task(name="track the run", cache_policy=NO_CACHE, persist_result=False)
def start_run(record: PlanRecord) -> RunRecord:
    """Continue this recipe's unfinished run or start a new one, and log its recipe and data."""
    plan = Planned.open(record.folder)
    tracker, recipe = tracker_of(plan), plan.recipe
    tags = {RECIPE: recipe.name, "mlflow.note.content": recipe.description}
    run_id = tracker.start(recipe.name, "train", plan.key, tags=tags)
    tracker.log(run_id, params=recipe.model_dump(mode="json"))
    tracker.dataset(run_id, recipe.name, plan.fingerprint, plan.origin, plan.schema)
    return RunRecord(run_id, recipe.name)


@task(name="track the plan", cache_policy=NO_CACHE, persist_result=False)
def track_plan(record: PlanRecord, run: RunRecord) -> None:
    """The run's recipe, split, partition with its pictures, training units and environment, as files."""
    plan = Planned.open(record.folder)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "recipe.yaml").write_text(dump_recipe(plan.recipe), encoding="utf-8")
        (folder / "environment.txt").write_text(environment(), encoding="utf-8")
        kept = [record.folder / name for name in ("statistics.json", "split.parquet", "partition.parquet")]
        for file in [*kept, *_partition_pictures(record).glob("*.png")]:
            (folder / file.name).write_bytes(file.read_bytes())
        tracker_of(plan).files(run.run_id, folder, "plan")


@task(name="track a member", task_run_name="track {member.name}", cache_policy=NO_CACHE, persist_result=False)
def track_member(record: PlanRecord, run: RunRecord, member: MemberRecord | FailedMember) -> str:
    """A member's child run: its settings and learning curves, where it was trained if it is reused, why if it failed."""
    plan = Planned.open(record.folder)
    tracker, replicas = tracker_of(plan), plan.members[member.name]
    key = content_key(replicas=[replica.key for replica in replicas])
    origin = tracker.origin("member", key) if member.status == "reused" else None
    tags = {"fuseline.status": member.status, "fuseline.pace": plan.why[member.name]}
    run_id = tracker.start(member.name, "member", key, run.run_id, tags)
    params = {**replicas[0].spec, "replicas": len(replicas), "seed": replicas[0].seed}
    if isinstance(member, FailedMember):
        tracker.log(run_id, params, tags={"fuseline.reason": member.reason})
        tracker.finish(run_id, "FAILED")
        return run_id
    training = [read_json(folder / "training.json") for folder in member.folders]
    points = []
    for number, its in enumerate(training, start=1):
        prefix = f"replica_{number}/" if len(training) > 1 else ""
        for epoch in its["curve"]:
            for name, part in (("loss", "loss"), ("rate", "rate"), ("holdout_loss", "holdout")):
                if epoch[part] is not None:
                    points.append((f"{prefix}{name}", epoch[part], epoch["at"], epoch["epoch"]))
    metrics = {"seconds": sum(its["seconds"] for its in training), "parameters": training[0]["parameters"]}
    tracker.log(run_id, params, metrics, points, {ORIGIN: origin} if origin not in (None, run_id) else {})
    tracker.finish(run_id)
    return run_id


@task(name="track scores", cache_policy=NO_CACHE, persist_result=False)
def track_scores(record: PlanRecord, report: StageRecord, members: Mapping[str, str]) -> None:
    """The members' test metrics; ``members`` holds their child runs by name."""
    tracker, numbers = tracker_of(Planned.open(record.folder)), read_json(report.folder / "report.json")
    for name, run_id in members.items():
        tracker.log(run_id, metrics=flat_metrics(numbers, "members", name))


@task(name="track fusions", cache_policy=NO_CACHE, persist_result=False)
def track_fusions(record: PlanRecord, run: RunRecord, report: StageRecord) -> None:
    """One child run per fusion rule, with its cross-fitted losses and its test metrics."""
    tracker, numbers = tracker_of(Planned.open(record.folder)), read_json(report.folder / "report.json")
    rules: dict[str, dict[str, Any]] = {}
    for target in record.targets:
        for rule in record.rules[target]:
            rules.setdefault(rule.name, {})[target] = rule.settings
    for name, settings in rules.items():
        key = content_key(report=report.folder.name, rule=name, settings=settings)
        tags = {"fuseline.chosen_for": ", ".join(t for t, p in numbers["targets"].items() if p["chosen"] == name)}
        run_id = tracker.start(f"fusion {name}", "fusion", key, run.run_id, tags)
        metrics = flat_metrics(numbers, "candidates", name)
        for target, part in numbers["targets"].items():
            if name in part["comparison"]["rules"]:
                metrics |= {f"cross_fit/{target}/{k}": v for k, v in part["comparison"]["rules"][name].items()}
        tracker.log(run_id, {"rule": name, "settings": settings}, metrics)
        tracker.finish(run_id)


@task(name="track the report", cache_policy=NO_CACHE, persist_result=False)
def finish_run(
    record: PlanRecord, run: RunRecord, members: Sequence[MemberRecord], report: StageRecord, summary: dict[str, Any]
) -> None:
    """The parent's test metrics, report and pictures; the run ends as finished."""
    tracker, numbers = tracker_of(Planned.open(record.folder)), read_json(report.folder / "report.json")
    metrics: dict[str, float] = {}
    for target in record.targets:
        won = winner(numbers, target)
        flat = flat_metrics(numbers, "candidates", won["name"])
        metrics |= {name: value for name, value in flat.items() if name.startswith(f"test/{target}/")}
        metrics |= {f"gain/{target}/{n}{s}": g[p] for n, g in won["gain"].items() for p, s in _PARTS}
        metrics |= {f"uncertainty/{target}/{n}": v for n, v in numbers["targets"][target]["uncertainty"].items()}
        metrics |= {f"diversity/{target}/{n}": v for n, v in numbers["targets"][target]["diversity"]["mean"].items()}
    metrics |= {f"seconds/{stage}": s for stage, s in summary["timing"].items()}
    metrics |= {"members_trained": summary["trained"], "members_reused": summary["reused"]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_json(folder / "report.json", numbers)
        write_json(folder / "summary.json", summary)
        tracker.files(run.run_id, folder)
    tracker.files(run.run_id, _pictures(members, report), "pictures")
    registered = summary["registered"]
    tags = {"fuseline.version": f"{registered['name']}/{registered['version']}"}
    tags |= {f"fuseline.best.{target}": rule for target, rule in summary["best"].items()}
    tracker.log(run.run_id, metrics=metrics, tags=tags)
    tracker.finish(run.run_id)
    rows = [
        {"target": target, "rule": c["rule"], **{n: s["value"] for n, s in c["metrics"][target].items()}}
        for c in summary["candidates"]
        for target in c["metrics"]
    ]
    create_table_artifact(rows, key="leaderboard", description=f"{run.recipe}: fusion rules on the test rows")
    if tracker.client.tracking_uri.startswith("http"):
        create_link_artifact(
            f"{tracker.client.tracking_uri}/#/experiments/{tracker.experiment}/runs/{run.run_id}", key="mlflow-run"
        )


def _pictures(members: Sequence[MemberRecord], report: StageRecord) -> Path:
    """The pictures of a report, drawn once and kept in the store."""
    key = content_key(report=report.folder.name, members=[m.keys for m in members], code=code_version("report"))

    def build(folder: Path) -> None:
        from fuseline.report.plots import draw_all
        from fuseline.training.replica import curve

        curves = {m.name: [curve(place) for place in m.folders] for m in members}
        draw_all(read_json(report.folder / "report.json"), curves, folder)

    return Store().make("pictures", key, build)[0]


def _partition_pictures(record: PlanRecord) -> Path:
    """The pictures of who sees what, drawn once and kept in the store."""
    key = content_key(plan=record.key, code=code_version("report"))

    def build(folder: Path) -> None:
        from fuseline.plan import Plan
        from fuseline.report.plots import draw_partition

        plan = Plan.open(record.folder)
        shares = {name: [job.share for job in jobs] for name, jobs in plan.members.items()}
        draw_partition(read_json(record.folder / "statistics.json"), shares, plan.dataset.schema, folder)

    return Store().make("pictures", key, build)[0]


def fail_run(record: PlanRecord, run: RunRecord, reason: str, status: str = "FAILED") -> None:
    """The parent run ends as failed or killed, and says why."""
    tracker = tracker_of(Planned.open(record.folder))
    tracker.log(run.run_id, tags={"fuseline.reason": reason})
    tracker.finish(run.run_id, status)


_PARTS = (("value", ""), ("low", "_low"), ("high", "_high"))
