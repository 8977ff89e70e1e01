"""The records that travel between tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuseline.component import Component

Curve = Sequence[Mapping[str, Any]]
"""The epochs of one replica, as ``training.json`` has them."""


@dataclass(frozen=True)
class PlanRecord:
    """Where the plan is, and the names that a flow goes through; ``after`` says which member another one follows,
    ``rules`` how each target is fused, ``devices`` what workers are lent, ``slots`` of them at a time each."""

    key: str
    folder: Path
    members: tuple[str, ...]
    targets: tuple[str, ...]
    after: Mapping[str, str]
    rules: Mapping[str, Sequence[Component]] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    slots: int = 1


@dataclass(frozen=True)
class MemberRecord:
    """A member that stands in the store: its replicas' keys and folders, how many of them were trained now, and in how many
    attempts."""

    name: str
    keys: tuple[str, ...]
    folders: tuple[Path, ...]
    trained: int
    attempts: int = 1

    @property
    def status(self) -> str:
        return "trained" if self.trained else "reused"


@dataclass(frozen=True)
class FailedMember:
    """A member that could not be trained, and why; ``kind`` is one of :data:`fuseline.errors.Ending`, ``curves`` are the epochs
    that each of its replicas came to the end of in this run."""

    name: str
    reason: str
    kind: str = "raised"
    attempts: int = 1
    curves: Sequence[Curve] = ()

    status = "failed"


@dataclass(frozen=True)
class StageRecord:
    """Where a stage's result is, and whether it was there already."""

    folder: Path
    reused: bool


@dataclass(frozen=True)
class RunRecord:
    """The parent run in MLflow."""

    run_id: str
    recipe: str
