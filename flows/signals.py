"""SIGTERM and Ctrl-C: the first ends a run in order, checkpoints saved and records closed; the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fuseline.apart import SIGNALS


class Interrupted(KeyboardInterrupt):
    """The command was told to end. To all that knows Ctrl-C it is one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class _Heeded:
    """What came so far, and whether the signals are ours to handle: not where Prefect's runner has started us, which cancels by
    SIGTERM too."""

    def __init__(self) -> None:
        self.ours, self.first = False, 0

    def handle(self, number: int, _: FrameType | None) -> None:
        if self.first:
            os._exit(128 + number)  # our workers and our server see that we are gone
        self.first = number
        raise Interrupted(number)


_heeded = _Heeded()


@contextmanager
def heeded() -> Iterator[None]:
    """Let the signals end what goes on inside by :class:`Interrupted`, for a whole command in its main thread."""
    _heeded.ours, _heeded.first = True, 0
    try:
        with _handled():
            yield
    finally:
        _heeded.ours = False


@contextmanager
def heeded_still() -> Iterator[None]:
    """The same inside a flow, whose engine has put a handler of its own in our place.

    Where a worker of Prefect's has started us, that handler stays, but it hears of the first SIGTERM alone: a second one would
    end what saves checkpoints and closes records.
    """
    if not _heeded.ours:
        with _once(signal.SIGTERM):
            yield
        return
    with _handled():
        yield


@contextmanager
def _handled() -> Iterator[None]:
    before = {number: signal.signal(number, _heeded.handle) for number in SIGNALS}
    try:
        yield
    finally:
        if not _heeded.first:  # else a second one is still to end the process at once
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _once(number: signal.Signals) -> Iterator[None]:
    """Let a signal's handler be called once, and not again."""
    handler = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[int] = []

    def first(its: int, frame: FrameType | None) -> None:
        came.append(its)
        if len(came) == 1:
            handler(its, frame)

    signal.signal(number, first)
    try:
        yield
    finally:
        signal.signal(number, handler)
