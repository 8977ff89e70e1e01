"""Prefect's records of runs whose process died: what still counts as running there has crashed.

Runs carry the tag ``fuseline`` and one that names the process that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    TaskRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows import owner

TAG, OWNER = "fuseline", "process "
UNENDED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
UNENDED_RUNS = FlowRunFilter(
    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNENDED)), tags=FlowRunFilterTags(all_=[TAG])
)
UNENDED_TASKS = TaskRunFilter(
    state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNENDED)), tags=TaskRunFilterTags(all_=[TAG])
)
DIED = "Its process died."


@contextmanager
def owned() -> Iterator[None]:
    """Tag the flow runs that are started inside with the process that they belong to."""
    with tags(TAG, OWNER + owner.here()):
        yield


def mend_prefect() -> list[str]:
    """Let the flow runs of dead processes end as crashed, and their tasks, also those that outlived their flow; the flow runs'
    names."""
    with get_client(sync_client=True) as client:
        dead = [run for run in _all(client.read_flow_runs, flow_run_filter=UNENDED_RUNS) if _is_dead(run.tags)]
        for task in _all(client.read_task_runs, task_run_filter=UNENDED_TASKS):
            if _is_dead(task.tags):
                client.set_task_run_state(task.id, Crashed(message=DIED), force=True)
        for run in dead:
            client.set_flow_run_state(run.id, Crashed(message=DIED), force=True)
        return [run.name for run in dead]


def _all(read: Callable[..., list[Any]], **wanted: Any) -> list[Any]:
    """What a server gives page by page."""
    found: list[Any] = []
    while page := read(**wanted, sort="ID_DESC", offset=len(found)):
        found += page
    return found


def _is_dead(its_tags: list[str]) -> bool:
    return any(owner.is_gone(tag.removeprefix(OWNER)) for tag in its_tags if tag.startswith(OWNER))
