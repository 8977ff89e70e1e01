"""The clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives, and the seconds it took."""
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def repeated(work: Callable[[], Any], least: float = 0.4, most: int = 400) -> float:
    """The median seconds of a call that may be too short to be timed once: it is called for ``least`` seconds, ``most`` times at
    the most, after one call that does not count."""
    work()
    times: list[float] = []
    while not times or (sum(times) < least and len(times) < most):
        times.append(timed(work)[1])
    return median(times)
