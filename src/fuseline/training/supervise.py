"""The worker processes of a run, each supervised by the thread that asked for it: devices, attempts, and the end of all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from fuseline.errors import MemberFailed, first_line
from fuseline.training.ending import STOPPED, Failure
from fuseline.training.messages import End, Job, Progress
from fuseline.training.queue import DeviceQueue
from fuseline.training.watch import Watched

logger = logging.getLogger(__name__)

Report = Callable[[Progress], None]


class Done(NamedTuple):
    """How many of a member's replicas were trained, and in how many attempts; the others stood in the store by then."""

    trained: int
    attempts: int


class Workers:
    """The worker processes of one run: as many side by side as there are slots on the devices, and all of them stopped at
    once.

    Args:
        warn: is told, in the thread that supervises it, when something is tried again and why.
    """

    def __init__(self, devices: DeviceQueue, warn: Callable[[str], None] = logger.warning) -> None:
        self._devices, self._warn = devices, warn
        self._units: dict[tuple[str, ...], _Unit] = {}
        self._changed = threading.Condition()
        self._live: set[Watched] = set()
        self._going = 0  # attempts, of which each has a worker or is about to start one
        self._stopping, self._killing = threading.Event(), threading.Event()

    def train(self, job: Job, member: str, report: Report) -> Done:
        """Wait until a member's unit is trained. Who asks first for a unit waits for a device, starts the worker and listens to
        it; the threads of its other members wait for the end.

        Raises:
            MemberFailed: names the member and says why it ended, after as many attempts as the recipe allows.
        """
        with self._changed:
            first = tuple(job.members) not in self._units
            unit = self._units.setdefault(tuple(job.members), _Unit(job))
            unit.listeners[member] = report
        if first:
            try:
                self._train(unit)
                unit.over.set_result(None)
            except BaseException as error:
                unit.over.set_exception(error)
        unit.over.result()
        result = unit.ended[member]
        if isinstance(result, MemberFailed):
            raise result
        return result

    def started(self, job: Job) -> bool:
        """Whether a unit has been asked for."""
        return tuple(job.members) in self._units

    def stop(self, patience: float) -> None:
        """Ask the workers to save checkpoints and end, and start no more; kill those that still live after so many seconds."""
        self._stopping.set()
        with self._changed:
            for worker in self._live:
                worker.ask_to_stop()
            self._changed.wait_for(lambda: not self._going, patience)
        self.kill()

    def kill(self) -> None:
        """Kill the workers, and start no more; the threads that watch over them come to an end."""
        self._stopping.set()
        self._killing.set()
        with self._changed:
            for worker in self._live:
                worker.kill()

    def _train(self, unit: _Unit) -> None:
        """Until all members of a unit have ended."""
        limits = unit.job.limits
        while unit.left:
            failed = self._attempt(unit)
            if not failed:
                continue
            seconds = limits.wait_seconds * 2 ** (unit.attempts - 1)
            of = f"attempt {unit.attempts + 1} of {limits.retries + 1}"
            for member, failure in failed.items() if not self._stopping.is_set() else ():
                self._warn(f"member {member!r} is tried again in {seconds:g} seconds ({of}): {failure.reason}")
            if self._stopping.wait(seconds):
                unit.settle(STOPPED)

    def _attempt(self, unit: _Unit) -> Mapping[str, Failure]:
        """Let a worker train what is left of a unit; who is to be tried again, and why."""
        with self._devices.lend() as device, self._worker(unit, device) as worker:
            failure = worker if isinstance(worker, Failure) else worker.until_it_ends(unit.hear)
            return unit.settle(STOPPED if self._stopping.is_set() else failure)

    @contextmanager
    def _worker(self, unit: _Unit, device: str) -> Iterator[Watched | Failure]:
        """A worker, or why there is none."""
        with self._changed:
            going = not self._stopping.is_set()
            self._going += going
        if not going:
            yield STOPPED
            return
        try:
            worker = _started(unit, device)
            if isinstance(worker, Failure):
                yield worker
                return
            with worker, self._listed(worker):
                yield worker
                unit.seconds = worker.seconds
        finally:
            with self._changed:
                self._going -= 1
                self._changed.notify_all()

    @contextmanager
    def _listed(self, worker: Watched) -> Iterator[None]:
        """Let a worker be among those that are told to stop; at once, if the others were."""
        with self._changed:
            self._live.add(worker)
            if self._killing.is_set():
                worker.kill()
            elif self._stopping.is_set():
                worker.ask_to_stop()
        try:
            yield
        finally:
            with self._changed:
                self._live.discard(worker)


class _Unit:
    """A unit that is being trained, or was: who listens to its members, what is left of it, and how the others ended."""

    def __init__(self, job: Job) -> None:
        self.job, self.left = job, list(job.members)
        self.listeners: dict[str, Report] = {}
        self.ended: dict[str, Done | MemberFailed] = {}
        self.over: Future[None] = Future()
        self.attempts, self.seconds = 0, 0.0
        self._trained: set[tuple[str, int]] = set()
        self._there: set[tuple[str, int]] = set()
        self._failed: dict[tuple[str, int], Failure] = {}

    def begin(self) -> Job:
        """Another attempt with what is left."""
        self.attempts += 1
        return replace(self.job, wanted=frozenset(place for member in self.left for place in self._lacks(member)))

    def _lacks(self, member: str) -> list[tuple[str, int]]:
        """Its replicas that are not in the store as far as is known."""
        return [(member, k) for k in range(len(self.job.members[member])) if (member, k) not in self._there]

    def hear(self, message: Progress | End) -> None:
        if isinstance(message, Progress):
            if message.member in self.listeners:
                self.listeners[message.member](message)
            return
        place = message.member, message.replica
        if isinstance(message.result, Failure):
            self._failed[place] = message.result
            return
        self._there.add(place)
        if message.result:
            self._trained.add(place)

    def settle(self, untold: Failure) -> dict[str, Failure]:
        """After an attempt: who has ended, well or not, and who is left.

        Args:
            untold: what became of replicas whose end nobody told.

        Returns:
            The members that are to be tried again, and why they failed.
        """
        again: dict[str, Failure] = {}
        for member in self.left:
            failures = [self._failed.get(place, untold) for place in self._lacks(member)]
            if not failures:
                self.ended[member] = Done(sum(name == member for name, _ in self._trained), self.attempts)
                continue
            failure = min(failures, key=lambda failure: failure.again)  # the first that is final, else the first
            if failure.again and self.attempts <= self.job.limits.retries:
                again[member] = failure
            else:
                self.ended[member] = MemberFailed(member, failure.reason, failure.kind, self.attempts)
        self.left, self._failed = list(again), {}
        return again


def _started(unit: _Unit, device: str) -> Watched | Failure:
    """A worker for what is left of a unit. The machine may have no room for a process, or the server that they are forked from
    may have just died; the next one finds another."""
    job = unit.begin()
    try:
        return Watched(job, device, unit.seconds)
    except (OSError, EOFError) as error:
        return Failure("killed", f"its process could not be started ({first_line(error)})", again=True)
