"""A process that ends when the one that started it has died."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when our parent dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
