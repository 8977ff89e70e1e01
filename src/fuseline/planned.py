"""What a stored plan says, without its arrays and networks: enough to tell what a run is, and read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuseline.data.schema import Schema
from fuseline.recipe import Recipe
from fuseline.store import read_json


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
        )
