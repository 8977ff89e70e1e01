"""One recipe that has gone through every stage by the tasks' own functions, without Prefect and without worker processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fuseline.recipe import Recipe
from fuseline.store import Store
from fuseline.training.messages import Job
from fuseline.training.queue import DeviceQueue
from fuseline.training.replica import train_into
from fuseline.training.supervise import Done
from tasks import artifacts
from tasks import members as member_tasks
from tasks.bank import bank_members
from tasks.evaluation import judge
from tasks.fusion import fuse
from tasks.members import train_member
from tasks.package import package
from tasks.plan import plan_run
from tasks.records import MemberRecord, PlanRecord, RunRecord, StageRecord
from tasks.tracking import start_run, track_plan

SHAPE = {"architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "batch_size": 16}
TREE: dict[str, Any] = {
    "name": "iris",
    "data": {"source": {"sklearn": {"name": "iris"}}, "split": {"rule": "stratified"}},
    "targets": {"iris": {"kind": "classification", "column": "target"}},
    "partition": {"kfold": {"folds": 2}},
    "members": [{"name": "plain", "early_stopping": None, **SHAPE}, {"name": "held", **SHAPE}],
    "fusion": {"rules": ["mean", "stacking"]},
    "evaluation": {"resamples": 100},
    "training": {"device": "cpu", "processes": 1},
    "registry": {"name": "flowers", "floors": {"iris": {"accuracy": 0.0}}},
}


class InProcess:
    """Stands in for the worker processes: trains in this one, and remembers what it was asked for."""

    def __init__(self, devices: DeviceQueue, warn: Callable[[str], None] = print) -> None:
        self.devices, self.warn, self.asked, self.patience = devices, warn, [], None

    def started(self, job: Job) -> bool:
        return False

    def train(self, asked: Job, member: str, report: Callable[..., None]) -> Done:
        self.asked.append(member)
        job = asked.whole()
        there = [train_into(Store(job.store), job.data, replica, lambda epoch: None) for replica in job.members[member]]
        return Done(there.count(False), 1)

    def stop(self, patience: float) -> None:
        self.patience = patience


@dataclass(frozen=True)
class Gone:
    """The records that the stages handed on."""

    home: Path
    plan: PlanRecord
    workers: InProcess
    members: list[MemberRecord]
    bank: StageRecord
    fused: list[StageRecord]
    report: StageRecord
    package: StageRecord
    run: RunRecord


@pytest.fixture(scope="session")
def in_process() -> type[InProcess]:
    return InProcess


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Gone:
    home = tmp_path_factory.mktemp("tasks") / "home"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
        patch.setenv("FUSELINE_HOME", str(home))
        patch.chdir(home.parent)
        patch.setattr(member_tasks, "Workers", InProcess)
        patch.setattr(artifacts, "create_progress_artifact", lambda **_: None)
        patch.setattr(artifacts, "update_progress_artifact", lambda *_, **__: None)
        torch.set_num_threads(1)
        plan = plan_run.fn(Recipe.model_validate(TREE))
        members = [train_member.fn(plan, name) for name in plan.members]
        workers = member_tasks._workers.pop(plan.key)
        bank = bank_members.fn(plan, members)
        fused = [fuse.fn(plan, bank, target) for target in plan.targets]
        report = judge.fn(plan, bank, fused)
        run = start_run.fn(plan)
        track_plan.fn(plan, run)
        return Gone(home, plan, workers, members, bank, fused, report, package.fn(plan, bank, fused), run)


@pytest.fixture(autouse=True)
def _at_home(stages: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSELINE_HOME", str(stages.home))
    monkeypatch.chdir(stages.home.parent)
