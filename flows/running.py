"""Run a flow from the command line: a server to talk to, progress on the screen, errors in one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flows.server import prefect_server, wait_until_up
from fuseline.recipe import Recipe
from fuseline.store import Store


def run_train(recipe: Recipe, console: Console) -> dict[str, Any]:
    """Run the training flow; raises what the flow raised."""
    with prefect_server() as address:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        from fuseline.plan import make_plan  # all that takes time goes here: the server starts meanwhile

        make_plan(recipe, Store())
        from flows.train import train
        from tasks.progress import listening

        wait_until_up(address)
        console.print(
            f"[dim]{recipe.name}: Prefect's page is {address.removesuffix('/api')} while this runs[/dim]", highlight=False
        )
        try:
            with _bars(console) as listener, listening(listener):
                return train(recipe)
        finally:
            _drain()


def _drain() -> None:
    """Send what Prefect still holds back, before its server is stopped."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=5)


@contextmanager
def _bars(console: Console) -> Iterator[Any]:
    """A bar per member: replica, epoch, loss and time left."""
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(24),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(compact=True),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=not console.is_terminal) as bars:

        def listener(progress: Any) -> None:
            name, epoch = progress.member, progress.epoch
            total = progress.epochs * progress.replicas
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, state="")
            replica = f"replica {progress.replica + 1}/{progress.replicas}, " if progress.replicas > 1 else ""
            state = f"{replica}epoch {epoch.epoch}/{progress.epochs}, loss {epoch.loss:.4f}"
            bars.update(tasks[name], completed=progress.replica * progress.epochs + epoch.epoch, state=state)

        yield listener
