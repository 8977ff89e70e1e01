"""One worker process as its parent sees it: started, listened to, held to its limits, and gone in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Self

from fuseline.apart import CONTEXT, signals_held, warm
from fuseline.recipe import Limits
from fuseline.training.ending import Failure, anonymous_bytes, died, oom_kills, waits_for_a_lock
from fuseline.training.worker import End, Message, Progress, Pulse, UnitJob, work

GLANCE = 1.0
"""Seconds between two looks at a worker; what it says is heard at once."""

NAP = 10.0
"""Of the seconds between two looks no more count: if there were more, we were halted ourselves, or busy."""


class Watched:
    """A worker and our end of its pipe; as a context it is gone afterwards, whatever happens.

    Args:
        spent: for how many seconds its unit was trained before.

    Attributes:
        seconds: for how many it was trained in all, those in which it waited for another run that trains the same left out.
    """

    def __init__(self, job: UnitJob, device: str, spent: float = 0.0) -> None:
        self.seconds, self._limits = spent, job.limits
        self._silent, self._steps = 0.0, 0
        self._oom_kills = oom_kills()
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=work, args=(theirs, job, device), name=f"fuseline {' '.join(job.members)[:40]}")
        with signals_held():
            warm()
            self._process.start()
        theirs.close()  # so that none but the worker has it, and we hear of its end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process.close()

    def ask_to_stop(self) -> None:
        with suppress(OSError):  # it has ended
            self._pipe.send("stop")

    def kill(self) -> None:
        self._process.kill()

    def until_it_ends(self, hear: Callable[[Progress | End], None]) -> Failure:
        """Pass on what it says until it has ended; how it ended, if it left something untold."""
        verdict: Failure | None = None
        looked = time.monotonic()
        while True:
            ready = wait([self._pipe, self._process.sentinel], GLANCE)
            if self._pipe in ready:
                message = self._said()
                if message is None:
                    break
                self._take(message, hear)
            elif ready:  # it has ended, and all that it said is heard
                break
            if (passed := time.monotonic() - looked) >= GLANCE:
                looked += passed
                if not waits_for_a_lock(self._pid()):
                    self.seconds += min(passed, NAP)
                    self._silent += min(passed, NAP)
                verdict = verdict or self._excess(self._limits)
                if verdict is not None:
                    self.kill()
        self._process.join()
        return verdict or died(self._process.exitcode, self._oom_kills)

    def _said(self) -> Message | None:
        try:
            message: Message = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return message

    def _take(self, message: Message, hear: Callable[[Progress | End], None]) -> None:
        self._silent = 0.0
        if isinstance(message, Pulse):
            self._steps = message.steps
        else:
            hear(message)

    def _excess(self, limits: Limits) -> Failure | None:
        """The limit that it does not keep."""
        if limits.minutes is not None and self.seconds > 60 * limits.minutes:
            return Failure("timed out", f"it took longer than training.limits.minutes allows ({limits.minutes:g})")
        if limits.memory_gib is not None and (held := self._gib()) > limits.memory_gib:
            text = f"its process held {held:.2f} GiB, more than training.limits.memory_gib allows ({limits.memory_gib:g})"
            return Failure("out of memory", text, again=True)
        if self._silent > 60 * limits.silent_minutes:
            text = f"it made no step for {limits.silent_minutes:g} minutes (training.limits.silent_minutes)"
            return Failure("hung", f"{text}, and {self._steps} before", again=True)
        return None

    def _gib(self) -> float:
        return anonymous_bytes(self._pid()) / 2**30

    def _pid(self) -> int:
        return self._process.pid or 0
