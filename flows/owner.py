"""Which process a run belongs to, as a text that tells later whether it still lives."""

from __future__ import annotations

import os
import socket

import psutil


def here() -> str:
    """This process: its machine, its number, and when it started, for numbers are given again.

    >>> is_gone(here()), is_gone("elsewhere/1/1.0"), is_gone(here() + "1")
    (False, False, True)
    """
    process = psutil.Process(os.getpid())
    return f"{socket.gethostname()}/{process.pid}/{process.create_time():.2f}"


def is_gone(owner: str) -> bool:
    """Whether a process of this machine has ended; of another one's nothing is known."""
    host, pid, started = owner.rsplit("/", 2)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
