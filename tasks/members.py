"""Train one member in a process of its own; a finished one is reused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed

from fuseline.errors import MemberFailed
from fuseline.planned import Planned
from fuseline.store import Store
from fuseline.training.messages import KIND, Epoch, Progress
from fuseline.training.queue import DeviceQueue
from fuseline.training.supervise import Done, Workers
from tasks.artifacts import Bar
from tasks.progress import tell
from tasks.records import MemberRecord, PlanRecord

_workers: dict[str, Workers] = {}
"""The worker processes of each run in this process."""

_stopped: set[str] = set()
"""The runs that were stopped: members whose turn comes after that are not trained."""


@task(name="train member", task_run_name="train {member}", cache_policy=NO_CACHE, persist_result=False)
def train_member(record: PlanRecord, member: str) -> Any:
    """Train the member's replicas that the store lacks, with a progress artifact; ends as ``Reused`` if it lacks none."""
    plan, store = Planned.open(record.folder), Store()
    keys = tuple(replica.key for replica in plan.members[member])
    unit, workers = plan.job(member, store), _workers.get(_run(record))
    done = Done(0, 1)
    if (workers is not None and workers.started(unit)) or any(store.find(KIND, key) is None for key in keys):
        workers = _workers.setdefault(_run(record), Workers(DeviceQueue(record.devices, record.slots), _warn))
        if _run(record) in _stopped:
            workers.kill()
        with Bar(member) as bar:
            reporter = _Reporter(len(keys), bar.show)
            try:
                done = workers.train(unit, member, reporter)
            except MemberFailed as error:
                error.curves = reporter.curves()
                raise
    made = MemberRecord(member, keys, tuple(store.path(KIND, key) for key in keys), done.trained, done.attempts)
    return made if made.trained else Completed(name="Reused", data=made)


def stop(record: PlanRecord, patience: float = 0.0) -> None:
    """Let the run's worker processes save checkpoints and end, and start no more; after so many seconds they are killed."""
    _stopped.add(_run(record))
    workers = _workers.get(_run(record))
    if workers is not None:
        workers.stop(patience)


def _run(record: PlanRecord) -> str:
    """Which run we are in: a plan may be run again in the same process."""
    return str(flow_run.id or record.key)


def _warn(text: str) -> None:
    get_run_logger().warning(text)


class _Reporter:
    """Passes the progress of a member with so many replicas on, shows its percents, and keeps its epochs."""

    def __init__(self, replicas: int, show: Callable[[float], None]) -> None:
        self.show = show
        self.heard: list[dict[int, Epoch]] = [{} for _ in range(replicas)]

    def __call__(self, progress: Progress) -> None:
        tell(progress)
        self.heard[progress.replica][progress.epoch.epoch] = progress.epoch  # another attempt says some again
        self.show(100 * sum(max(epochs, default=0) for epochs in self.heard) / progress.epochs / progress.replicas)

    def curves(self) -> list[list[dict[str, Any]]]:
        """The epochs that each replica came to the end of, the first replica first; of one that was not begun there are none."""
        return [[asdict(epoch) for _, epoch in sorted(epochs.items())] for epochs in self.heard]
