"""What processes that died have left behind: runs that never ended, and records that were never delivered."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fuseline.errors import FuselineError
from fuseline.store import hold, locked
from fuseline.tracking.deliver import PATIENCE, deliverer
from fuseline.tracking.settings import check_signing
from fuseline.tracking.spool import OWNED, Owner, Spool, creating, root, spools, take
from fuseline.tracking.tags import REASON

logger = logging.getLogger(__name__)

DIED = "its process died"


@dataclass(frozen=True)
class Mended:
    """Whose runs were still said to be running though their process had died; how many records were delivered now, and how many
    wait still because MLflow is away."""

    dead: list[Owner]
    delivered: int
    waiting: int


def begin(recipe: str) -> list[Owner]:
    """Connect to MLflow and deliver what the dead have left behind, in the background; whose runs were mended. Called as early as
    may be in a process that will run a recipe.

    Raises:
        UserError: ``mlflow.yml`` is wrong, or the key that it names can't sign.
    """
    its = deliverer()
    check_signing(its.settings.signing)
    import fuseline.tracking.runs  # noqa: F401  (here, so that the thread need not import it while others import)

    its.expect(recipe)
    dead = []
    try:
        dead = end_dead()
        for folder in abandoned():
            its.deliver(folder)
    except (OSError, FuselineError) as error:  # a full disk, above all: what needs room will say so
        logger.warning("what earlier runs have left behind is not mended now: %s", error)
    return dead


def reconcile(patience: float = PATIENCE) -> Mended:
    """Mend what the dead have left behind and deliver it, unless MLflow is away for so many seconds.

    Raises:
        UserError: ``mlflow.yml`` is wrong, or the disk is full.
    """
    its, dead = deliverer(), end_dead()
    folders = abandoned()
    before = sum(its.told(folder).waiting for folder in folders)
    waiting = its.wait(folders, patience)
    return Mended(dead, before - waiting, waiting)


def end_dead() -> list[Owner]:
    """Let the runs of dead processes end as killed; the same recipe may still go on with them. Whose they were."""
    _sweep()
    dead = []
    for spool in _taken():
        going, at = [run for run in spool.attempts if run not in spool.ends], spool.last_sign()
        for run in sorted(going, key=lambda run: run == spool.run):  # the children first
            spool.tell(run, tags={REASON: DIED}, end="KILLED", at=at)
        if going:
            dead.append(spool.owner)
    return dead


def abandoned() -> list[Path]:
    """The folders of the spools that nobody adds to, the oldest first."""
    return [spool.folder for spool in _taken()]


def _taken() -> Iterator[Spool]:
    """Each spool that nobody adds to, held for a moment."""
    for folder in spools():
        if (spool := take(folder)) is not None:
            with closing(spool):
                yield spool


def _sweep() -> None:
    """Remove spools that were never made to the end, or not wholly removed."""
    with locked(creating()):
        for folder in root().glob(".*"):
            lock = hold(folder / OWNED)
            if lock is not None:  # its maker is dead
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
