"""Prefect's records of dead processes: all of them, also tasks that outlived their flow, though a server gives them in pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from flows import mending, owner
from flows.mending import OWNER, TAG, mend_prefect

DEAD = [TAG, OWNER + owner.here() + "1"]
ALIVE = [TAG, OWNER + owner.here()]


class Server:
    """Stands in for Prefect's server: gives two at a time, and notes whose state is set."""

    def __init__(self, flows: list[Any], tasks: list[Any]) -> None:
        self.flows, self.tasks = flows, tasks
        self.asked: list[Any] = []
        self.set: list[tuple[str, str]] = []

    def read_flow_runs(self, *, flow_run_filter: Any, sort: str, offset: int) -> list[Any]:
        self.asked.append(flow_run_filter)
        return self.flows[offset : offset + 2]

    def read_task_runs(self, *, task_run_filter: Any, sort: str, offset: int) -> list[Any]:
        self.asked.append(task_run_filter)
        return self.tasks[offset : offset + 2]

    def set_flow_run_state(self, run: str, state: Any, force: bool) -> None:
        self.set.append((run, state.type.value))

    set_task_run_state = set_flow_run_state


def test_all_runs_and_tasks_of_dead_processes_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [SimpleNamespace(id=f"run {n}", name=f"r{n}", tags=ALIVE if n == 2 else DEAD) for n in range(5)]
    tasks = [SimpleNamespace(id=f"task {n}", tags=ALIVE if n == 0 else DEAD) for n in range(3)]  # of whichever flow run
    server = Server(runs, tasks)

    @contextmanager
    def client(sync_client: bool) -> Iterator[Server]:
        yield server

    monkeypatch.setattr(mending, "get_client", client)
    assert mend_prefect() == ["r0", "r1", "r3", "r4"]
    ended = ["task 1", "task 2", "run 0", "run 1", "run 3", "run 4"]  # a run after its tasks
    assert server.set == [(its, "CRASHED") for its in ended]
    for asked in server.asked:
        assert asked.tags.all_ == [TAG]
        assert "COMPLETED" not in {state.value for state in asked.state.type.any_}
