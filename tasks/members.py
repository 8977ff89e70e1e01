"""Train one member in a process of its own; a finished one is reused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from fuseline.devices import DeviceQueue, here, resolve
from fuseline.plan import Plan, processes
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
    unit, workers = plan.job(member, store), _workers.get(record.key)
    trained = 0
    if (workers is not None and workers.started(unit)) or any(store.find(KIND, key) is None for key in keys):
        workers = _workers.setdefault(record.key, Workers(_devices(plan)))
        trained = workers.train(unit, member, _Reporter(member))
    done = MemberRecord(member, keys, tuple(store.path(KIND, key) for key in keys), trained)
    return done if trained else Completed(name="Reused", data=done)


def stop(record: PlanRecord) -> None:
    """Stop the run's worker processes, and forget them."""
    workers = _workers.pop(record.key, None)
    if workers is not None:
        workers.stop()


def _devices(plan: Plan) -> DeviceQueue:
    """The devices, each with its part of the processes that run side by side."""
    devices = here(resolve(plan.recipe.training.device))
    return DeviceQueue(devices, slots=-(-processes(plan.recipe) // len(devices)))


class _Reporter:
    """Passes progress on, and to Prefect at most once per percent."""

    def __init__(self, member: str) -> None:
        self.artifact = create_progress_artifact(
            progress=0.0, key=f"train-{member}".lower().replace("_", "-"), description=member
        )
        self.told = 0.0
        self.epochs: dict[int, float] = {}

    def __call__(self, progress: Progress) -> None:
        tell(progress)
        self.epochs[progress.replica] = progress.epoch.epoch / progress.epochs
        done = 100 * sum(self.epochs.values()) / progress.replicas
        if done - self.told >= 1 or done == 100:
            self.told = done
            if isinstance(self.artifact, UUID):
                update_progress_artifact(self.artifact, progress=done)
