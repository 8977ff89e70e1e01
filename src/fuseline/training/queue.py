"""Which worker gets which device, and when: names alone, so that who hands them out need not load torch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class DeviceQueue:
    """Devices for threads that each watch over one worker: so many workers (``slots``) at a time on each device.

    Who waits longest is served first, and gets the least loaded device, the first of several.

    >>> queue = DeviceQueue(["cuda:0", "cuda:1"], slots=2)
    >>> with queue.lend() as one, queue.lend() as other:
    ...     one, other
    ('cuda:0', 'cuda:1')
    """

    def __init__(self, devices: Sequence[str], slots: int) -> None:
        if not devices or len(set(devices)) < len(devices) or slots < 1:
            raise ValueError(f"expected different devices and at least one slot, not {list(devices)} and {slots}")
        self._slots = slots
        self._load = dict.fromkeys(devices, 0)
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Wait for a device, hold it inside, and give it back however the inside ends."""
        device = self._take()
        try:
            yield device
        finally:
            with self._changed:
                self._load[device] -= 1
                self._changed.notify_all()

    def _take(self) -> str:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and min(self._load.values()) < self._slots)
                device = min(self._load, key=self._load.__getitem__)
                self._load[device] += 1
            finally:  # an interrupt ends the wait too: who gives up must not hold up those behind
                self._waiting.remove(ticket)
                self._changed.notify_all()
        return device
