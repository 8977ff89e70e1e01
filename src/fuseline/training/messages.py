"""What a worker and who watches over it tell each other: which members are to be trained, how far they are, how they ended.

Who watches over a worker needs nothing of what it computes with: this file and :mod:`fuseline.training.ending` are read
without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fuseline.recipe import Limits
from fuseline.training.ending import Failure

if TYPE_CHECKING:
    from fuseline.training.worker import UnitJob

KIND = "replica"
"""The kind of entry in the store that a trained replica is."""


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """What a worker is to do: the members whose replicas are trained in one process.

    Attributes:
        members: each with its replicas, of which only their number matters to who watches over them.
        wanted: the replicas that matter, by member and number; all if nothing is said. Others are trained only with one that
            does: what belongs together has one checkpoint.
    """

    store: Path
    members: Mapping[str, Sequence[Any]]
    limits: Limits = field(default_factory=Limits)
    wanted: frozenset[tuple[str, int]] | None = None

    @property
    def replicas(self) -> set[tuple[str, int]]:
        """Those that matter."""
        return {
            (m, k) for m, its in self.members.items() for k in range(len(its)) if self.wanted is None or (m, k) in self.wanted
        }

    @abstractmethod
    def whole(self) -> UnitJob:
        """The same with all that training takes; the worker asks for it, which has torch."""


@dataclass(frozen=True)
class Epoch:
    """One line of a learning curve; ``holdout`` is the loss on the held-out rows, where there are any."""

    epoch: int
    loss: float
    holdout: float | None
    rate: float
    at: int
    """When the epoch ended, in milliseconds since 1970."""


@dataclass(frozen=True)
class Progress:
    """A member's state: this replica's last epoch. Replicas follow each other, but in a stack all take their epochs by turns."""

    member: str
    replica: int
    replicas: int
    epoch: Epoch
    epochs: int


class Pulse(NamedTuple):
    """A sign of life: how many steps were made so far."""

    steps: int


class End(NamedTuple):
    """How a replica ended: trained now (True), found in the store (False), or why not."""

    member: str
    replica: int
    result: bool | Failure


Message = Progress | Pulse | End
