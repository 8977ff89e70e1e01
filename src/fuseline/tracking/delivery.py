"""How far the delivery of a spool has come, and what MLflow gave back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuseline.tracking.spool import lines_behind

STATE = "delivered.json"


@dataclass(frozen=True)
class Registered:
    """A version in the registry, its aliases, and whether it was there already."""

    name: str
    version: int
    aliases: list[str]
    reused: bool


@dataclass
class State:
    """Where delivery stands.

    Attributes:
        server: a hash of the address; what another server was told counts for nothing here.
        offset: of the first record that is not wholly delivered.
        steps: how many steps of that record are done.
        runs: MLflow's ids by our own.
        experiment: MLflow's id of the experiment.
        registered: the version that was registered.
    """

    server: str
    offset: int = 0
    steps: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    experiment: str | None = None
    registered: Registered | None = None

    @classmethod
    def read(cls, folder: Path, server: str) -> State:
        try:
            tree: Mapping[str, Any] = json.loads((folder / STATE).read_bytes())
        except (FileNotFoundError, ValueError):  # it need not outlive a power cut: what is sent again changes nothing
            return cls(server)
        if tree["server"] != server:
            return cls(server)
        version = tree["registered"]
        return cls(**{**tree, "registered": None if version is None else Registered(**version)})

    def write(self, folder: Path) -> None:
        temporary = folder / f".{STATE}"
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(folder / STATE)

    def waiting(self, folder: Path) -> int:
        """How many records are not delivered yet."""
        return lines_behind(folder, self.offset)
