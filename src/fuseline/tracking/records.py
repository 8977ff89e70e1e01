"""What a run has to say, as the lines of its spool: plain data that can be sent to MLflow at any later time.

A record says when it was made, and every number in it when it was measured, so that late delivery shows the true times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fuseline.component import Part
from fuseline.data.schema import Schema

Point = tuple[str, float, int, int]
"""A number: its name, value, time in milliseconds since 1970, and step."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
NONE: Mapping[str, Any] = {}
LONGEST = 6000
"""What MLflow takes as the value of a parameter."""


class Start(Part):
    """A run begins: its name, what it is, its content key, the run that it belongs to, and when it began if that was earlier."""

    name: str
    kind: str
    key: str
    parent: str | None = None
    at: int | None = None


class Data(Part):
    """The data that a run used: the digest, where they came from, and their columns."""

    name: str
    digest: str
    origin: str
    schema_: Schema


class Files(Part):
    """A folder of the spool whose files are to be logged, and where."""

    folder: str
    under: str | None = None


class Version(Part):
    """A package that is to be registered under a name, the plan that it comes from, and what the version says of itself."""

    name: str
    package: str
    plan: str
    tags: dict[str, str]


class Record(Part):
    """What is said of one run at one time; it is sent in the order of these fields.

    Attributes:
        run: the run's own id; MLflow gives it another one.
        at: when it was said, in milliseconds since 1970.
        label: what is said under a label is said once.
        start: the run begins.
        again: the run, which had ended or whose process had died, goes on.
        without: tags to be taken away.
        origin: the key under which the run that trained the same is to be looked up.
        summary: the run's summary; what only MLflow knows is filled in when it is sent.
        end: the run ends.
    """

    run: str
    at: int
    label: str = ""
    start: Start | None = None
    again: bool = False
    without: list[str] = []
    data: Data | None = None
    params: dict[str, str] = {}
    points: list[Point] = []
    tags: dict[str, str] = {}
    origin: str | None = None
    files: list[Files] = []
    version: Version | None = None
    summary: dict[str, Any] | None = None
    end: Status | None = None


def record(
    run: str,
    *,
    params: Mapping[str, Any] = NONE,
    metrics: Mapping[str, float] = NONE,
    points: Sequence[Point] = (),
    **rest: Any,
) -> Record:
    """A record from what is at hand.

    Args:
        params: a tree of settings, said flat.
        metrics: numbers without a step, measured now.
        points: numbers with a step and a time of their own. One that is not finite is left out, since MLflow would store another
            one for it.
    """
    at = rest.pop("at", now())
    every = [*points, *((name, value, at, 0) for name, value in metrics.items())]
    texts = {name: str(value)[:LONGEST] for name, value in flatten(params).items()} if params else {}
    return Record(run=run, at=at, params=texts, points=[point for point in every if math.isfinite(point[1])], **rest)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves by their path.

    >>> flatten({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': 1, 'c.0': 2, 'c.1': 3}
    """
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        return {path: tree}
    return {name: leaf for key, value in items for name, leaf in flatten(value, f"{path}.{key}" if path else str(key)).items()}
