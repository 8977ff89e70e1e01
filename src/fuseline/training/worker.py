"""What goes on in a worker: a process that trains the members of one unit, one after the other or as a stack.

A worker is forked from a server that has torch loaded already, so it starts in a fraction of a second. It tells its parent of
every epoch, once a second that it still makes steps, and how each replica ended; its parent may tell it to stop. It ends at once
when its parent does.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch

from fuseline.apart import SIGNALS
from fuseline.data import dataset as datasets
from fuseline.recipe import Limits
from fuseline.store import Store
from fuseline.training.checkpoint import Care, Stopped
from fuseline.training.ending import Failure, raised
from fuseline.training.replica import ReplicaJob, train_into, train_together_into
from fuseline.training.train import Epoch
from fuseline.training.units import stacks

FAILURES = "failures"
"""In a store's root: the tracebacks of members that failed."""

PULSE = 1.0
"""Seconds between two signs of life, at the least."""


@dataclass(frozen=True)
class UnitJob:
    """Members whose replicas are trained in one process.

    Attributes:
        wanted: the replicas that matter, by member and number; all if nothing is said. Others are trained only with one that
            does: what belongs together has one checkpoint.
    """

    store: Path
    data: Path
    members: Mapping[str, list[ReplicaJob]]
    checkpoint_minutes: float = 5.0
    limits: Limits = field(default_factory=Limits)
    wanted: frozenset[tuple[str, int]] | None = None

    @property
    def replicas(self) -> set[tuple[str, int]]:
        """Those that matter."""
        return {
            (m, k) for m, its in self.members.items() for k in range(len(its)) if self.wanted is None or (m, k) in self.wanted
        }


@dataclass(frozen=True)
class Progress:
    """A member's state: this replica's last epoch. Replicas follow each other, but in a stack all take their epochs by turns."""

    member: str
    replica: int
    replicas: int
    epoch: Epoch
    epochs: int


class Pulse(NamedTuple):
    """A sign of life: how many steps were made so far."""

    steps: int


class End(NamedTuple):
    """How a replica ended: trained now (True), found in the store (False), or why not."""

    member: str
    replica: int
    result: bool | Failure


Message = Progress | Pulse | End
Part = list[tuple[str, int, ReplicaJob]]
"""Replicas that are trained together, with their member and number."""


def work(pipe: Connection, job: UnitJob, device: str) -> None:
    """Train a unit in this process, and tell at the other end of the pipe how it goes; whatever comes from there means: stop."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    line = Line(pipe)
    torch.set_num_threads(next(iter(job.members.values()))[0].spec.threads)
    left = job.replicas
    try:
        for part in stacks(datasets.read(job.data), job.members):
            if line.stopping:
                raise Stopped
            if left.isdisjoint((member, k) for member, k, _ in part):
                continue
            for end in _train(job, device, part, line):
                left.discard((end.member, end.replica))
                line.send(end)
    except BaseException as error:
        for member, k in left:
            line.send(End(member, k, raised(error, member, job.store / FAILURES)))


class Line:
    """Our end of the pipe. When its other end is closed our parent is gone, or wants no more of us."""

    def __init__(self, pipe: Connection) -> None:
        self.stopping = False
        self._pipe, self._steps, self._told = pipe, 0, 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Message) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            os._exit(1)

    def pulse(self) -> bool:
        """A step is made; whether that was enough."""
        self._steps += 1
        now = time.monotonic()
        if now - self._told >= PULSE:
            self._told = now
            self.send(Pulse(self._steps))
        return self.stopping

    def _listen(self) -> None:
        try:
            while True:
                self._pipe.recv()
                self.stopping = True
        except (EOFError, OSError):
            os._exit(1)


def _die_with_parent() -> None:
    """Have the kernel kill us when it closes our parent's end of multiprocessing's own pipe: even if some function holds Python's
    lock, or has stopped us. (PR_SET_PDEATHSIG would wait for the death of the server that we are forked from.)"""
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if wait([parent.sentinel], 0):
        os._exit(1)  # it died before


def _train(job: UnitJob, device: str, part: Part, line: Line) -> Iterable[End]:
    """Train what belongs together; how each ended. What is wrong with it keeps nothing else of the unit from being trained.

    Raises:
        Stopped: our parent wanted it so.
    """

    def report(position: int, epoch: Epoch) -> None:
        member, number, replica = part[position]
        line.send(Progress(member, number, len(job.members[member]), epoch, replica.spec.epochs))

    store, replicas = Store(job.store), [replica for _, _, replica in part]
    care = Care(60 * job.checkpoint_minutes, line.pulse)
    ends: list[bool | Exception]
    try:
        if len(part) > 1:
            ends = [*train_together_into(store, job.data, replicas, report, device, care)]
        else:
            ends = [train_into(store, job.data, replicas[0], partial(report, 0), device, care)]
    except Stopped:
        raise
    except Exception as error:
        ends = [error] * len(part)
    return [
        End(member, number, raised(end, member, job.store / FAILURES) if isinstance(end, Exception) else not end)
        for (member, number, _), end in zip(part, ends, strict=True)
    ]
