"""Training in a process of its own, supervised by the thread that asks for it.

A worker is forked from a server that has torch loaded already, so it starts in a fraction of a second; it sends a message
at the end of each epoch and ends at once when nobody is left to read it. It trains the members of one unit: one after the
other, or as a stack.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from fuseline.data import dataset as datasets
from fuseline.devices import DeviceQueue
from fuseline.errors import FuselineError, TrainingError
from fuseline.store import Store
from fuseline.training.replica import ReplicaJob, train_into, train_together_into
from fuseline.training.train import Epoch
from fuseline.training.units import stacks

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "torch._dynamo"])  # the first step of an optimizer imports it: two seconds


@dataclass(frozen=True)
class UnitJob:
    """Members whose replicas are trained in one process."""

    store: Path
    data: Path
    members: Mapping[str, list[ReplicaJob]]


@dataclass(frozen=True)
class Progress:
    """A member's state: this replica's last epoch. Replicas follow each other, but in a stack all take their epochs by turns."""

    member: str
    replica: int
    replicas: int
    epoch: Epoch
    epochs: int


class Ended(NamedTuple):
    """How a member ended: so many of its replicas were trained now, or why it failed."""

    member: str
    result: int | str


Report = Callable[[Progress], None]


@dataclass
class _Unit:
    """A unit that is being trained, or was: who listens to its members, and how each ended."""

    listeners: dict[str, Report] = field(default_factory=dict)
    ended: Future[dict[str, int | str]] = field(default_factory=Future)


class Workers:
    """The worker processes of one run: as many side by side as there are slots on the devices, and all of them stopped at
    once."""

    def __init__(self, devices: DeviceQueue) -> None:
        self._devices = devices
        self._units: dict[tuple[str, ...], _Unit] = {}
        self._lock = threading.Lock()
        self._live: set[Any] = set()
        self._stopped = False

    def train(self, job: UnitJob, member: str, report: Report) -> int:
        """Wait until a member's unit is trained. Who asks first for a unit waits for a device, starts the worker and listens to
        it; the threads of its other members wait for the end.

        Returns:
            How many of the member's replicas were trained; the others stood in the store by then.

        Raises:
            TrainingError: names the member and says why it ended: what went wrong inside, or the signal that killed it.
        """
        with self._lock:
            first = tuple(job.members) not in self._units
            unit = self._units.setdefault(tuple(job.members), _Unit())
            unit.listeners[member] = report
        if first:
            try:
                unit.ended.set_result(self._run(job, unit))
            except BaseException as error:
                unit.ended.set_exception(error)
        result = unit.ended.result()[member]
        if isinstance(result, str):
            raise TrainingError(f"member {member!r}: {result}")
        return result

    def started(self, job: UnitJob) -> bool:
        """Whether a unit has been asked for."""
        return tuple(job.members) in self._units

    def stop(self) -> None:
        """Kill the workers, and start no more; the threads that watch over them come to an end."""
        self._stopped = True
        for process in list(self._live):
            process.kill()

    def _run(self, job: UnitJob, unit: _Unit) -> dict[str, int | str]:
        with self._devices.lend() as device:
            if self._stopped:
                return dict.fromkeys(job.members, "the run was stopped")
            return self._supervise(job, device, unit)

    def _supervise(self, job: UnitJob, device: str, unit: _Unit) -> dict[str, int | str]:
        """How each member ended. The worker's own word counts, and its exit code only without one."""
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(target=_work, args=(theirs, job, device), name=f"fuseline {' '.join(job.members)[:40]}")
        process.start()
        theirs.close()
        self._live.add(process)
        ended: dict[str, int | str] = {}
        try:
            while True:
                try:
                    message = ours.recv()
                except EOFError:
                    break
                if isinstance(message, Ended):
                    ended[message.member] = message.result
                elif message.member in unit.listeners:
                    unit.listeners[message.member](message)
            process.join()
        finally:
            if process.is_alive():
                process.kill()
                process.join()
            self._live.discard(process)
            ours.close()
        return {member: ended.get(member, _ending(process.exitcode)) for member in job.members}


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended without a word (code {code})"


def _work(connection: Connection, job: UnitJob, device: str) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our parent decides what becomes of us
    torch.set_num_threads(next(iter(job.members.values()))[0].spec.threads)
    try:
        for member, result in _train(job, device, connection.send).items():
            connection.send(Ended(member, result))
    except BrokenPipeError:
        raise SystemExit(1) from None  # our parent is gone
    finally:
        connection.close()


def _train(job: UnitJob, device: str, tell: Report) -> dict[str, int | str]:
    """Train a unit in this process; how each member ended."""
    store = Store(job.store)
    results: dict[str, int | str] = dict.fromkeys(job.members, 0)

    def note(member: str, was_there: bool | Exception) -> None:
        so_far = results[member]
        if isinstance(was_there, Exception):
            known = isinstance(was_there, FuselineError)
            results[member] = str(was_there) if known else f"{type(was_there).__name__}: {was_there}"
        elif isinstance(so_far, int):
            results[member] = so_far + (not was_there)

    for stack in stacks(datasets.read(job.data), job.members):

        def report(position: int, epoch: Epoch, stack: list[tuple[str, int, ReplicaJob]] = stack) -> None:
            member, number, replica = stack[position]
            tell(Progress(member, number, len(job.members[member]), epoch, replica.spec.epochs))

        replicas = [replica for _, _, replica in stack]
        try:
            if len(stack) > 1:
                ends: list[bool | TrainingError] = train_together_into(store, job.data, replicas, report, device)
            else:
                ends = [train_into(store, job.data, replicas[0], partial(report, 0), device)]
        except BrokenPipeError:
            raise
        except Exception as error:
            for member, _, _ in stack:
                note(member, error)
            continue
        for (member, _, _), end in zip(stack, ends, strict=True):
            note(member, end)
    return results
