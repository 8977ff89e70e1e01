"""The deliverer: a thread that tells MLflow what the spools say, each in its own order, and keeps at it while MLflow is away.

It is the only part of a run that talks to MLflow. Each step of a record can be sent again without changing anything, because the
process may be killed between sending it and noting so: a run is found by its own id, numbers have a time of their own, a package
is found by its hash.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fuseline.errors import UserError, first_line
from fuseline.store import hold, home
from fuseline.tracking.delivery import Registered, State
from fuseline.tracking.records import Record
from fuseline.tracking.settings import Settings, load_settings
from fuseline.tracking.spool import DELIVERING, Spool, beat, held, read, read_owner, take

if TYPE_CHECKING:
    from fuseline.tracking.runs import Tracker
    from fuseline.tracking.steps import Step

logger = logging.getLogger(__name__)

REFUSED = "refused.jsonl"
SHORTEST, LONGEST, WAITED_FOR = 0.25, 20.0, 1.0
"""Seconds between two attempts while MLflow is away: each waits twice as long as the one before, but not for long where somebody
waits for it."""

BEAT = 20.0
"""Seconds between two signs that a spool's process lives."""

PATIENCE, CONNECTING = 10.0, 60.0
"""Seconds without progress after which a run that has ended waits no longer: while MLflow is away, and while it does not answer
the first call, which makes a new database too."""


@dataclass(frozen=True)
class Told:
    """What MLflow knows of a run: its id there, the version that was registered, and how many records wait."""

    run_id: str | None
    registered: Registered | None
    waiting: int
    experiment: str | None = None


class Deliverer:
    """Delivers the spools of one home to one MLflow."""

    def __init__(self, place: Path, settings: Settings) -> None:
        self.home, self.settings = place, settings
        self.server = hashlib.sha256(without_secrets(settings.server.mlflow_tracking_uri).encode()).hexdigest()[:16]
        self._news = threading.Condition()
        self._is_news = False
        self._spools: list[Path] = []
        self._unsent: set[Path] = set()
        self._trackers: dict[str, Tracker] = {}
        self._troubled: set[Path] = set()
        self._connecting: float | None = None
        self._expected: str | None = None
        self._waiting = 0
        self._warned: set[str] = set()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------- what others call

    def expect(self, recipe: str) -> None:
        """Connect to MLflow now: a run of this recipe will follow."""
        self._expected = recipe
        self.wake()

    def deliver(self, folder: Path, unsent: bool = False) -> None:
        """Deliver a spool, after those that were given before; ``unsent`` if none can have tried before."""
        with self._news:
            if folder not in self._spools:
                self._spools.append(folder)
            if unsent:
                self._unsent.add(folder)
        self.wake()

    def watch(self, spool: Spool) -> None:
        """Deliver a spool of this process, now and whenever something is added."""
        spool.told = self.wake
        self.deliver(spool.folder, unsent=spool.is_new)

    def wake(self) -> None:
        """There is something to deliver, or somebody waits for it."""
        with self._news:
            self._is_news = True
            self._news.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="deliver to MLflow", daemon=True)
                self._thread.start()

    def wait(self, folders: list[Path], patience: float = PATIENCE) -> int:
        """Wait until some spools are delivered, or until nothing has come of it for some seconds while MLflow is away; how many
        records wait still."""
        for folder in folders:
            self.deliver(folder)
        self._waiting += 1
        try:
            return self._wait(folders, patience)
        finally:
            self._waiting -= 1

    def told(self, folder: Path) -> Told:
        """What MLflow knows of the run of a spool."""
        state = State.read(folder, self.server)
        return Told(state.runs.get(folder.name), state.registered, state.waiting(folder), state.experiment)

    def _wait(self, folders: list[Path], patience: float) -> int:
        last, since = -1, time.monotonic()
        while True:
            states = [State.read(folder, self.server) for folder in folders]
            waiting = sum(state.waiting(folder) for state, folder in zip(states, folders, strict=True))
            if not waiting:
                return 0
            done = sum(state.offset + state.steps for state in states)
            if done != last:
                last, since = done, time.monotonic()
            if self._is_stuck(folders) and time.monotonic() - since >= patience:
                return waiting
            with self._news:
                self._news.wait(0.05)

    # ----------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # a call repeated by itself could make a second run
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a locked database is our matter
        pause = SHORTEST
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_news, pause if self._troubled else BEAT)
                self._is_news = False
            beat()
            self._round()
            pause = min(2 * pause, WAITED_FOR if self._waiting else LONGEST) if self._troubled else SHORTEST
            with self._news:
                self._news.notify_all()

    def _round(self) -> None:
        """Deliver of every spool what can be delivered now."""
        if (recipe := self._expected) is not None:
            self._expected = None
            with suppress(Exception):  # whoever has something to say to it will see
                self._tracker(recipe)
        troubled: set[Path] = set()
        for number, folder in enumerate(spools := list(self._spools)):
            try:
                if self._serve(folder):
                    self._leave(folder)
                    continue
                self._unsent.discard(folder)  # another process delivers it
                troubled.add(folder)
            except Exception as error:
                self._unsent.discard(folder)
                troubled.add(folder)
                self._warn("MLflow can't be told of %s now: %s. It waits on disk and is sent later.", folder.name, error)
                if not self._is_well(folder):
                    troubled |= set(spools[number:])
                    break
        self._troubled = troubled

    def _leave(self, folder: Path) -> None:
        """Forget a spool that is delivered, unless it is this process that adds to it; one that has ended for good is removed."""
        with self._news:
            if folder.name in held():
                return
            self._spools.remove(folder)
        if (spool := take(folder)) is not None:
            with closing(spool), _held(folder / DELIVERING) as ours:
                done = spool.has_ended or not spool.attempts  # its process died before it said anything
                if ours and done and not State.read(folder, self.server).waiting(folder):
                    gone = folder.with_name(f".{folder.name}")
                    folder.rename(gone)  # so that it is never there in part
                    shutil.rmtree(gone)

    def _is_well(self, folder: Path) -> bool:
        """Whether MLflow answers at all, so that it can be told of other runs."""
        try:
            self._tracker(read_owner(folder).recipe).check()
        except Exception as error:
            return isinstance(error, UserError)  # the experiment was deleted
        return True

    def _serve(self, folder: Path) -> bool:
        """Deliver a spool to its end; False if another process is about to."""
        with _held(folder / DELIVERING) as ours:
            if not ours:
                return False
            state = State.read(folder, self.server)
            for record, end in read(folder, state.offset):
                if record is None:
                    self._put_aside(folder, None, "read", ValueError(f"the line that ends at byte {end} is damaged"))
                else:
                    self._send(folder, record, state)
                state.offset, state.steps = end, 0
                state.write(folder)
                with self._news:
                    self._news.notify_all()
        return True

    def _send(self, folder: Path, record: Record, state: State) -> None:
        """Do what is left to be done for a record."""
        tracker = self._tracker(read_owner(folder).recipe)
        from fuseline.tracking.steps import steps

        state.experiment = tracker.experiment
        for step in list(steps(tracker, folder, record, state, folder not in self._unsent))[state.steps :]:
            self._do(tracker, folder, record, step)
            state.steps += 1
            state.write(folder)
            self._troubled.discard(folder)

    def _do(self, tracker: Tracker, folder: Path, record: Record, step: Step) -> None:
        """Do a step; what MLflow refuses is put aside."""
        from fuseline.tracking.runs import is_for_ever
        from fuseline.tracking.steps import Orphaned

        name, do = step
        for is_last in (False, True):
            try:
                do()
                return
            except Orphaned as error:
                self._put_aside(folder, record, name, error)
                return
            except Exception as error:
                if not is_for_ever(error):
                    raise
                tracker.check()  # else it is MLflow that is at fault
                if is_last:  # the first time, MLflow may have been put right between the refusal and the check
                    self._put_aside(folder, record, name, error)

    def _tracker(self, recipe: str) -> Tracker:
        if recipe not in self._trackers:
            self._connecting = time.monotonic()
            try:
                from fuseline.tracking.runs import Tracker

                self._trackers[recipe] = Tracker(self.settings, recipe, self.home)
            finally:
                self._connecting = None
        return self._trackers[recipe]

    def _put_aside(self, folder: Path, record: Record | None, step: str, error: Exception) -> None:
        """Keep what MLflow refuses for good, with its reason, and warn of it once."""
        said, kept = without_secrets(first_line(error)), folder.parent / REFUSED
        tree = None if record is None else record.model_dump(mode="json", exclude_defaults=True)
        line = json.dumps({"spool": folder.name, "step": step, "error": said, "record": tree})
        with kept.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._warn(f"MLflow refuses what {kept} keeps of %s: %s.", folder.name, error)

    def _warn(self, sentence: str, run: str, error: Exception) -> None:
        """Say something once."""
        said = without_secrets(first_line(error))
        if said not in self._warned:
            self._warned.add(said)
            logger.warning(sentence, run, said)

    def _is_stuck(self, folders: list[Path]) -> bool:
        """Whether nothing may come of waiting."""
        began, thread = self._connecting, self._thread
        slow = began is not None and time.monotonic() - began > CONNECTING
        return slow or thread is None or not thread.is_alive() or any(folder in self._troubled for folder in folders)


def deliverer() -> Deliverer:
    """The deliverer of this home, by the settings that hold now.

    Raises:
        UserError: ``mlflow.yml`` is wrong.
    """
    return _deliverer(home(), load_settings())


@cache
def _deliverer(place: Path, settings: Settings) -> Deliverer:
    return Deliverer(place, settings)


def without_secrets(text: str) -> str:
    """A text without the names and passwords of the addresses in it.

    >>> without_secrets("can't reach http://me:secret@host:5000/api")
    "can't reach http://host:5000/api"
    """
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


@contextmanager
def _held(file: Path) -> Iterator[bool]:
    descriptor = hold(file)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
