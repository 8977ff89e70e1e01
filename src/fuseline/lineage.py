"""What a finished run is made of, so that the same recipe on the same data finds all of it at once.

Every entry of the store has a key, but most keys take the data, the networks and torch to be worked out. This is the short way:
the *question* holds everything that those keys follow from and costs no more than reading the files that the recipe names, and
under it stand the keys that a finished run came to. Each entry is still checked by its sha256 before it is used, and where one is
missing or damaged the long way is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fuseline.component import Component, Part, complete
from fuseline.data.sources import SOURCES, origin_key
from fuseline.family import installed
from fuseline.recipe import Recipe
from fuseline.store import Store, code_version, content_key, sha256_of, write_atomic

GROUPS = ("fuseline.architectures", "fuseline.partitions")
DEVICES = ("nvidia*", "kfd", "dxg", "accel*")
"""What a machine with an accelerator has in ``/dev``; the recipe's device may follow from it."""


class Lineage(Part):
    """The keys of a finished run: its plan, the replicas of each member, and every stage behind them; the fusion rules of
    each target, and the floors that its ensemble did not clear."""

    plan: str
    data: str
    members: dict[str, list[str]]
    rules: dict[str, list[Component]]
    bank: str
    fused: dict[str, str]
    report: str
    package: str
    unmet: list[str]

    def entries(self) -> Iterator[tuple[str, str]]:
        """The kind and key of each entry of the store."""
        yield from (("plan", self.plan), ("data", self.data), ("bank", self.bank))
        yield from (("replica", key) for keys in self.members.values() for key in keys)
        yield from (("fusion", key) for key in self.fused.values())
        yield from (("report", self.report), ("package", self.package))


def recall(recipe: Recipe, store: Store) -> Lineage | None:
    """What a run of this recipe on these data has made, if all of it is there and whole.

    Raises:
        DataError: names the file that is not there.
    """
    asked = _question(recipe)
    if asked is None:
        return None
    try:
        lineage = Lineage.model_validate_json(_place(store, asked).read_bytes())
    except (OSError, ValidationError):
        return None
    return lineage if all(store.find(kind, key) is not None for kind, key in lineage.entries()) else None


def remember(recipe: Recipe, store: Store, lineage: Lineage) -> None:
    """Keep what a finished run is made of, in the place of what an earlier one was."""
    asked = _question(recipe)
    if asked is None:
        return
    write_atomic(_place(store, asked), lineage.model_dump_json(indent=1))


def _place(store: Store, asked: str) -> Path:
    return store.root / "lineage" / f"{asked}.json"


def _question(recipe: Recipe) -> str | None:
    """The hash of all that a run's results follow from. None for a recipe that uses another package's functions, whose version
    takes that package to be loaded, and for one whose source is not known."""
    tree = recipe.model_dump(mode="json")
    words = set(_words(tree))
    if words & {name for group in GROUPS for name in installed(group)} or recipe.data.source.name not in SOURCES:
        return None
    return content_key(
        recipe=tree,
        origin=origin_key(complete(recipe.data.source, SOURCES, "data.source")),
        files={word: sha256_of(Path(word)) for word in sorted(words) if os.path.isabs(word) and os.path.isfile(word)},
        devices=sorted(path.name for pattern in DEVICES for path in Path("/dev").glob(pattern)),
        visible={name: value for name, value in os.environ.items() if name.endswith("_VISIBLE_DEVICES")},
        cores=os.cpu_count(),
        code=code_version("."),
    )


def _words(tree: Any) -> Iterator[str]:
    """The keys and texts of a tree."""
    if isinstance(tree, dict):
        yield from tree
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _words(part)
    if isinstance(tree, str):
        yield tree
