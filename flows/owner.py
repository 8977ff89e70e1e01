"""Which process a run belongs to, as a text that tells later whether it still lives."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

PROC = Path("/proc")


def here() -> str:
    """This process: its machine, its number, and when it started, for numbers are given again.

    >>> is_gone(here()), is_gone("elsewhere/1/1.0"), is_gone(here() + "1")
    (False, False, True)
    """
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Whether a process of this machine has ended; of another one's nothing is known."""
    host, pid, started = owner.rsplit("/", 2)
    if host != socket.gethostname():
        return False
    try:
        return _started(int(pid)) != started or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _started(pid: int) -> str:
    """When a process started: in ticks since the machine did, which a clock that is set does not move; else by the clock.

    Raises:
        psutil.NoSuchProcess: there is none of this number.
    """
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        ticks = (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()[19]  # the 22nd field, by proc(5)
        return f"{boot}.{ticks}"
    return f"{psutil.Process(pid).create_time():.2f}"
