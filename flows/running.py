"""Run a flow from the command line: a server to talk to, progress on the screen, errors in one sentence."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flows.boards import show_units
from flows.server import wait_until_up
from fuseline.apart import apart, warm
from fuseline.errors import first_line
from fuseline.recipe import Recipe
from fuseline.store import Store, read_json

logger = logging.getLogger(__name__)

MENDING = 5.0
"""Seconds for which the end of a run waits for records of earlier ones to be mended."""


def run_train(recipe: Recipe, address: str, console: Console) -> dict[str, Any]:
    """Run the training flow, once Prefect's server at an address is up; raises what the flow raised."""
    with without_collector():  # all that takes time goes here: the server starts meanwhile
        job = _prepare(recipe, console)
        import flows.mending  # noqa: F401
    return attended(job, recipe.name, address, console)


def attended(job: Callable[[], dict[str, Any]], name: str, address: str, console: Console) -> dict[str, Any]:
    """Run a flow, once Prefect's server at an address is up, with a bar for each member that it trains; meanwhile what earlier
    processes left behind is mended."""
    from flows.mending import owned
    from tasks.progress import listening

    wait_until_up(address)
    mending = threading.Thread(target=_mend_if_possible, daemon=True)  # the run needn't wait for it
    mending.start()
    console.print(f"[dim]{name}: Prefect's page is {address.removesuffix('/api')} while this runs[/dim]", highlight=False)
    try:
        with _bars(console) as listener, listening(listener), owned():
            return job()
    finally:
        mending.join(MENDING)
        drain()


def mend(address: str) -> dict[str, Any]:
    """Let Prefect's and MLflow's records tell the truth about runs whose process died; whose they were, and what waits still."""
    from flows.mending import mend_prefect
    from fuseline.tracking.leftovers import reconcile

    wait_until_up(address)
    crashed, mended = mend_prefect(), reconcile()
    dead = [owner.recipe for owner in mended.dead]
    counts = {"delivered": mended.delivered, "waiting": mended.waiting, "refused": mended.refused}
    return {"prefect": crashed, "mlflow": dead, **counts}


def _mend_if_possible() -> None:
    from flows.mending import mend_prefect

    try:
        mend_prefect()
    except Exception as error:  # the next start or reconcile does it
        logger.warning("what earlier runs have left behind in Prefect is not mended now: %s", first_line(error))


def _prepare(recipe: Recipe, console: Console) -> Callable[[], dict[str, Any]]:
    """Load what the run needs: with everything that it would make at hand, far less."""
    from fuseline.lineage import recall

    lineage = recall(recipe, Store())
    if lineage is None:
        warm()
        with ThreadPoolExecutor(1) as aside:  # torch is loaded and the plan made in another process
            planned = aside.submit(apart, "fuseline.stages:plan", recipe)
            from flows.train import train
            from tasks.plan import keep

            plan = keep(recipe, planned.result())
        show_units(read_json(plan.folder / "plan.json")["training_units"], console)
        job = partial(train, recipe)
    else:
        from flows.again import train_again

        job = partial(train_again, recipe, lineage)
    from tasks.tracking import open_tracker

    open_tracker(recipe.name)
    return job


@contextmanager
def without_collector() -> Iterator[None]:
    """Without Python's garbage collector, which would look through what is being imported again and again and find nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def drain() -> None:
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
