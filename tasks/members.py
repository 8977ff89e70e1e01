"""Train one member in a process of its own; a finished one is reused."""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

import torch
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from fuseline.plan import Plan
from fuseline.store import Store
from fuseline.training.replica import KIND
from fuseline.training.worker import Progress, Workers
from tasks.progress import tell
from tasks.records import MemberRecord, PlanRecord

_workers: dict[str, Workers] = {}
"""The worker processes of each run in this process, by the key of its plan."""


@task(name="train member", task_run_name="train {member}", cache_policy=NO_CACHE, persist_result=False)
def train_member(record: PlanRecord, member: str) -> Any:
    """Train the member's replicas that the store lacks, with a progress artifact; ends as ``Reused`` if it lacks none."""
    plan, store = Plan.open(record.folder), Store()
    jobs = plan.members[member]
    keys = tuple(job.key(plan.dataset) for job in jobs)
    missing = any(store.find(KIND, key) is None for key in keys)
    trained = 0
    if missing:
        workers = _workers.setdefault(record.key, Workers(_processes(plan)))
        trained = workers.train(plan.job(member, store), _Reporter(member))
    done = MemberRecord(member, keys, tuple(store.path(KIND, key) for key in keys), trained)
    return done if trained else Completed(name="Reused", data=done)


def stop(record: PlanRecord) -> None:
    """Stop the run's worker processes, and forget them."""
    workers = _workers.pop(record.key, None)
    if workers is not None:
        workers.stop()


def _processes(plan: Plan) -> int:
    """So many as the recipe says; else one for each GPU, or as many as there are cores for."""
    training = plan.recipe.training
    on_gpu = any(job.spec.device.startswith("cuda") for jobs in plan.members.values() for job in jobs)
    return training.processes or (torch.cuda.device_count() if on_gpu else max(1, (os.cpu_count() or 1) // training.threads))


class _Reporter:
    """Passes progress on, and to Prefect at most once per percent."""

    def __init__(self, member: str) -> None:
        self.artifact = create_progress_artifact(
            progress=0.0, key=f"train-{member}".lower().replace("_", "-"), description=member
        )
        self.told = 0.0

    def __call__(self, progress: Progress) -> None:
        tell(progress)
        done = 100 * (progress.replica + progress.epoch.epoch / progress.epochs) / progress.replicas
        if done - self.told >= 1 or done == 100:
            self.told = done
            if isinstance(self.artifact, UUID):
                update_progress_artifact(self.artifact, progress=done)
