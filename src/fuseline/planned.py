"""What a stored plan says, without its arrays and networks: enough to tell what a run is, and read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fuseline.component import Component
from fuseline.data.schema import Schema
from fuseline.recipe import Recipe
from fuseline.store import Store, read_json
from fuseline.training.messages import Job

if TYPE_CHECKING:
    from fuseline.training.worker import UnitJob


class PlanMade(NamedTuple):
    """A plan that was made or found, and the names that a flow goes through: see :class:`tasks.records.PlanRecord`."""

    key: str
    folder: Path
    members: tuple[str, ...]
    targets: tuple[str, ...]
    after: Mapping[str, str]
    rules: Mapping[str, Sequence[Component]]
    devices: tuple[str, ...]
    slots: int


@dataclass(frozen=True)
class PlannedReplica:
    """How a replica is trained, as a tree of settings; its seed, and its key in the store."""

    spec: dict[str, Any]
    seed: int
    key: str


@dataclass(frozen=True)
class Planned:
    """A plan's recipe, data and members."""

    key: str
    folder: Path
    recipe: Recipe
    data: str
    fingerprint: str
    origin: str
    schema: Schema
    members: dict[str, list[PlannedReplica]]
    after: dict[str, str]
    why: dict[str, str]
    """How each member is computed, and why."""
    units: list[list[str]]
    """The members that share a worker."""

    @classmethod
    def open(cls, folder: Path) -> Planned:
        meta = read_json(folder / "plan.json")
        data = read_json(folder.parents[1] / "data" / meta["data"] / "dataset.json")
        return cls(
            folder.name,
            folder,
            Recipe.model_validate(meta["recipe"]),
            meta["data"],
            data["fingerprint"],
            data["origin"],
            Schema.model_validate(data["schema"]),
            {
                name: [PlannedReplica(replica["spec"], replica["seed"], replica["key"]) for replica in replicas]
                for name, replicas in meta["members"].items()
            },
            meta["after"],
            {name: unit["why"] for unit in meta["training_units"] for name in unit["members"]},
            [unit["members"] for unit in meta["training_units"]],
        )

    def job(self, member: str, store: Store) -> PlannedJob:
        """The training of the unit that a member belongs to."""
        names = next(unit for unit in self.units if member in unit)
        members = {name: self.members[name] for name in names}
        return PlannedJob(store=store.root, members=members, limits=self.recipe.training.limits, plan=self.folder)


@dataclass(frozen=True, kw_only=True)
class PlannedJob(Job):
    """The training of a plan's unit, whose rows and networks the worker reads from the plan itself."""

    plan: Path

    def whole(self) -> UnitJob:
        from fuseline.plan import Plan  # which needs torch

        job = Plan.open(self.plan).job(next(iter(self.members)), Store(self.store))
        return replace(job, limits=self.limits, wanted=self.wanted)
