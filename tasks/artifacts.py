"""What Prefect's pages show of a run besides its states: no run waits for it, or fails because Prefect is slow or away."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from fuseline.errors import first_line

logger = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a member's end waits for its last percent to be shown."""


@contextmanager
def unhindered(what: str) -> Iterator[None]:
    """Go on with a warning where Prefect can't be told of something."""
    try:
        yield
    except Exception as error:
        _warn(what, error)


def _warn(what: str, error: Exception) -> None:
    logger.warning("Prefect's pages don't show %s: %s", what, first_line(error))


class Bar:
    """A member's progress artifact, for the duration of a context. A thread of its own tells Prefect the latest percent alone."""

    def __init__(self, member: str) -> None:
        self._member, self._percent, self._told, self._over = member, 0.0, -1.0, False
        self._changed = Condition()
        context = copy_context()  # it says which task the artifact belongs to
        self._thread = Thread(target=context.run, args=(self._tell,), name=f"progress of {member}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(PATIENCE)

    def show(self, percent: float) -> None:
        """Let it stand at so many percent, if that is at least one more than before, or all."""
        with self._changed:
            if percent - self._percent >= 1 or percent == 100:
                self._percent = percent
                self._changed.notify()

    def _tell(self) -> None:
        key, is_first = f"train-{self._member}".lower().replace("_", "-"), True
        artifact: Any = None
        for percent in self._news():
            try:
                if artifact is None:
                    artifact = create_progress_artifact(progress=percent, key=key, description=self._member)
                else:
                    update_progress_artifact(artifact, progress=percent)
            except Exception as error:  # the next percent may be told again
                if is_first:
                    _warn(f"how far {self._member} is", error)
                is_first = False

    def _news(self) -> Iterator[float]:
        """The latest percent, now and whenever it has changed, until the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._percent > self._told)
                if self._percent <= self._told:
                    return
                self._told = self._percent
            yield self._told
