"""How long each stage of a flow takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger


class Stages:
    """Seconds by the name of a stage; a stage entered twice adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    @staticmethod
    def waiting(holder: str) -> None:
        text = f"the same recipe is being run by {holder}; waiting until it has finished"
        get_run_logger().warning(text)
        print(text, file=sys.stderr)  # the command keeps Prefect's own messages off the screen
