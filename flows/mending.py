"""Prefect's records of runs whose process died: what still counts as running there has crashed.

Runs carry the tag ``fuseline`` and one that names the process that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows import owner

TAG, OWNER = "fuseline", "process "
UNENDED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
DIED = "Its process died."


@contextmanager
def owned() -> Iterator[None]:
    """Tag the flow runs that are started inside with the process that they belong to."""
    with tags(TAG, OWNER + owner.here()):
        yield


def mend_prefect() -> list[str]:
    """Let the flow runs of dead processes, with their tasks, end as crashed; their names."""
    with get_client(sync_client=True) as client:
        states = FlowRunFilterState(type=FlowRunFilterStateType(any_=UNENDED))
        wanted = FlowRunFilter(state=states, tags=FlowRunFilterTags(all_=[TAG]))
        dead = [run for run in client.read_flow_runs(flow_run_filter=wanted) if _is_dead(run.tags)]
        for run in dead:
            _end_tasks(client, FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
            client.set_flow_run_state(run.id, Crashed(message=DIED), force=True)
        return [run.name for run in dead]


def _end_tasks(client: SyncPrefectClient, flow_run: FlowRunFilter) -> None:
    states = TaskRunFilterState(type=TaskRunFilterStateType(any_=UNENDED))
    for task in client.read_task_runs(flow_run_filter=flow_run, task_run_filter=TaskRunFilter(state=states)):
        client.set_task_run_state(task.id, Crashed(message=DIED), force=True)


def _is_dead(its_tags: list[str]) -> bool:
    return any(owner.is_gone(tag.removeprefix(OWNER)) for tag in its_tags if tag.startswith(OWNER))
