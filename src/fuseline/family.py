"""A family of functions that other installed packages may add to, through entry points."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from fuseline.errors import RecipeError, first_line

Function = Callable[..., Any]


class Family(Mapping[str, Function]):
    """Functions by name: fuseline's own; those of an entry point group; and those that ``more`` finds, which may be slow.

    A name is looked for in this order, and nothing is imported before its name is asked for.

    Args:
        own: fuseline's functions.
        group: the entry point group, as ``fuseline.architectures``.
        adapt: makes a family's function of what an entry point holds.
        more: gives further functions.
    """

    def __init__(
        self,
        own: Mapping[str, Function],
        group: str,
        adapt: Callable[[Any], Function] = lambda found: found,
        more: Callable[[], Mapping[str, Function]] = dict,
    ) -> None:
        self.own, self.group, self.adapt, self.more = own, group, adapt, more

    def __getitem__(self, name: str) -> Function:
        if name in self.own:
            return self.own[name]
        if name in (found := installed(self.group)):
            return self.adapt(_loaded(found[name]))
        return self.more()[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in installed(self.group) or name in self.more()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *installed(self.group), *self.more()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def borrowed(self, name: str) -> bool:
        """Whether a function is one that ``more`` finds."""
        return name not in self.own and name not in installed(self.group)

    def version(self, name: str) -> str:
        """What tells one version of an added function from another: its distribution, and the source of its package. Empty for
        fuseline's own, whose source counts anyway."""
        return "" if name in self.own or name not in installed(self.group) else _version(self.group, name)

    def requirement(self, name: str) -> str | None:
        """What must be installed to use a function, if another package added it."""
        if name in self.own or (found := installed(self.group).get(name)) is None or found.dist is None:
            return None
        return f"{found.dist.name}=={found.dist.version}"


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {point.name: point for point in entry_points(group=group)}


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = "an installed package" if point.dist is None else point.dist.name
        raise RecipeError(
            f"{point.name!r} of {package} can't be loaded ({point.value}): {first_line(error)}; mend that package."
        ) from None


@cache
def _version(group: str, name: str) -> str:
    point = installed(group)[name]
    digest = hashlib.sha256()
    module = import_module(point.module.split(".")[0])
    for name, file in sorted(_sources(module).items()):
        digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    release = "" if point.dist is None else f"{point.dist.name}=={point.dist.version}"
    return f"{release} {digest.hexdigest()[:16]}"


def _sources(module: ModuleType) -> dict[str, Path]:
    """The source files of a package, by their names inside it, or of a single module."""
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    if not folders:
        return {module.__name__: Path(str(module.__file__))}
    return {str(file.relative_to(folder)): file for folder in folders for file in folder.rglob("*.py")}
