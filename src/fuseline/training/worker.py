"""Training in a process of its own, supervised by the thread that asks for it.

A worker is forked from a server that has torch loaded already, so it starts in a fraction of a second; it sends a message
at the end of each epoch and ends at once when nobody is left to read it.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuseline.errors import FuselineError, TrainingError
from fuseline.store import Store
from fuseline.training.replica import ReplicaJob, train_into
from fuseline.training.train import Epoch

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, "torch._dynamo"])  # the first step of an optimizer imports it: two seconds


@dataclass(frozen=True)
class MemberJob:
    """A member's replicas, to be trained one after the other in one process."""

    name: str
    store: Path
    data: Path
    replicas: list[ReplicaJob]


@dataclass(frozen=True)
class Progress:
    """A member's state: so many replicas are finished, and this is the running one's last epoch."""

    member: str
    replica: int
    replicas: int
    epoch: Epoch
    epochs: int


class Workers:
    """The worker processes of one run: so many side by side, and all of them stopped at once."""

    def __init__(self, processes: int) -> None:
        self._slots = threading.BoundedSemaphore(processes)
        self._live: set[Any] = set()
        self._stopped = False

    def train(self, job: MemberJob, report: Callable[[Progress], None]) -> int:
        """Wait for a slot, train a member's replicas in a process of its own, and wait for its end.

        Returns:
            How many replicas were trained; the others stood in the store by then.

        Raises:
            TrainingError: names the member and says why it ended: what went wrong inside, or the signal that killed it.
        """
        with self._slots:
            if self._stopped:
                raise TrainingError(f"member {job.name!r}: the run was stopped")
            result = self._supervise(job, report)
        if isinstance(result, str):
            raise TrainingError(f"member {job.name!r}: {result}")
        return result

    def stop(self) -> None:
        """Kill the workers, and start no more; the threads that watch over them come to an end."""
        self._stopped = True
        for process in list(self._live):
            process.kill()

    def _supervise(self, job: MemberJob, report: Callable[[Progress], None]) -> int | str:
        """How many replicas were trained, or why it failed. The worker's own word counts, and its exit code only without one."""
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(target=_work, args=(theirs, job), name=f"fuseline {job.name}")
        process.start()
        theirs.close()
        self._live.add(process)
        result: int | str | None = None
        try:
            while True:
                try:
                    message = ours.recv()
                except EOFError:
                    break
                if isinstance(message, Progress):
                    report(message)
                else:
                    result = message
            process.join()
        finally:
            if process.is_alive():
                process.kill()
                process.join()
            self._live.discard(process)
            ours.close()
        return _ending(process.exitcode) if result is None else result


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended without a word (code {code})"


def _work(connection: Connection, job: MemberJob) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; our parent decides what becomes of us
    torch.set_num_threads(job.replicas[0].spec.threads)
    trained = 0
    try:
        for number, replica in enumerate(job.replicas):

            def report(epoch: Epoch, number: int = number, epochs: int = replica.spec.epochs) -> None:
                connection.send(Progress(job.name, number, len(job.replicas), epoch, epochs))

            trained += not train_into(Store(job.store), job.data, replica, report)
        connection.send(trained)
    except BrokenPipeError:
        raise SystemExit(1) from None  # our parent is gone
    except FuselineError as error:
        connection.send(str(error))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
    finally:
        connection.close()
