"""What the store holds that no run needs, and its removal.

Needed is what runs name, by the entries that they say they are made of, and what the plans among these name: data and replicas.
What is locked is left alone, and so is what was asked for lately, or since the oldest run began that is alive: a run names what
it is made of when it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from fuseline.errors import UserError
from fuseline.lineage import Lineage
from fuseline.store import MANIFEST, Store, locked_if_free, read_json

Entry = tuple[str, str]
"""The kind and key of an entry of the store."""

Stacks = dict[str, list[str]]
"""The keys of the replicas of each stack, by the key of the checkpoint that they share."""

HOUR, WEEK = 3600.0, 7 * 24 * 3600.0

KEPT = frozenset({"decision"})
"""Kinds that no run names and that stay: what a timing decided is small, and is part of other keys."""

NO_KINDS = frozenset({"checkpoints", "failures", "lineage", "locks"})
"""Folders of the store that hold files instead of entries."""

CHECKPOINTS = WEEK
"""Seconds for which a checkpoint is kept: until then a run that was interrupted may go on."""

FAILURES = WEEK
"""Seconds for which a traceback is kept that a failed member's reason points to."""


class Tally(NamedTuple):
    """Of one kind, how many pieces there are with their bytes, and how many of them go."""

    kind: str
    pieces: int
    bytes: int
    going: int
    going_bytes: int


@dataclass(frozen=True)
class _Piece:
    kind: str
    path: Path
    goes: bool
    remove: Callable[[], None]


def collect(store: Store, named: Callable[[], Iterable[Entry]], *, delete: bool = False, young: float = HOUR) -> list[Tally]:
    """Count what the store holds and what of it nobody needs, and with ``delete`` remove that.

    Nothing is ever there in part: an entry is renamed before its files are removed.

    Args:
        named: gives the entries that runs name; see :func:`fuseline.tracking.named.named_entries`. It is asked after it is known
            which runs are alive: one that ends in between has named what it is made of by then.
        young: so many seconds must have passed since an entry was last asked for.

    Raises:
        UserError: what is needed can't be told, or something can't be removed; names the file.
    """
    limit = _oldest_start(store) - young
    needed, stacks = _with_what_plans_name(store, set(named()))
    pieces = list(_pieces(store, needed, stacks, limit))
    sized = [(piece, _size(piece.path)) for piece in pieces]
    if delete:
        for piece in pieces:
            if piece.goes:
                _remove(piece)
    tallies = []
    for kind in dict.fromkeys(piece.kind for piece in pieces):
        sizes = [(size, piece.goes) for piece, size in sized if piece.kind == kind]
        going = [size for size, goes in sizes if goes]
        tallies.append(Tally(kind, len(sizes), sum(size for size, _ in sizes), len(going), sum(going)))
    return tallies


def _pieces(store: Store, needed: set[Entry], stacks: Stacks, limit: float) -> Iterator[_Piece]:
    """All that is in the store, those of a kind in a row; what goes first stands first."""
    going: set[Entry] = set()
    kinds = sorted(path.name for path in store.root.glob("[!.]*") if path.is_dir() and path.name not in NO_KINDS)
    for kind in kinds:
        for place in sorted(store.path(kind, "").glob("[!.]*")):
            entry = (kind, place.name)
            goes = kind not in KEPT and entry not in needed and _last_use(place) < limit and _is_free(store.lock(*entry))
            going |= {entry} if goes else set()
            yield _Piece(kind, place, goes, partial(_discard, store, entry, limit))
    for kind in kinds:
        for key, stale in store.litter(kind):
            yield _Piece("unfinished", stale, _is_free(store.lock(kind, key)), partial(store.sweep, kind))
    yield from _checkpoints(store, needed, stacks, limit)
    for trace in sorted((store.root / "failures").glob("*")):
        goes = _last_use(trace) < min(limit, time.time() - FAILURES)
        yield _Piece("failures", trace, goes, partial(trace.unlink, missing_ok=True))
    yield from _lineages(store, going, limit)
    yield from _locks(store, going, limit)


def _checkpoints(store: Store, needed: set[Entry], stacks: Stacks, limit: float) -> Iterator[_Piece]:
    """Those of replicas, and those that the replicas of a stack share."""
    for file in sorted((store.root / "checkpoints").glob("*")):
        key = file.name.rpartition("-")[0].lstrip(".")
        entries = [("replica", its) for its in stacks.get(key, [key])]
        wanted = any(entry in needed and not store.path(*entry).is_dir() for entry in entries)
        old = _last_use(file) < min(limit, time.time() - CHECKPOINTS)
        goes = old and not wanted and all(_is_free(store.lock(*entry)) for entry in entries)
        yield _Piece("checkpoints", file, goes, partial(file.unlink, missing_ok=True))


def _lineages(store: Store, going: set[Entry], limit: float) -> Iterator[_Piece]:
    for file in sorted((store.root / "lineage").glob("*")):
        try:
            whole = all(
                e not in going and store.path(*e).is_dir() for e in Lineage.model_validate_json(file.read_bytes()).entries()
            )
        except (OSError, ValidationError):
            whole = False
        yield _Piece("lineage", file, not whole and _last_use(file) < limit, partial(file.unlink, missing_ok=True))


def _locks(store: Store, going: set[Entry], limit: float) -> Iterator[_Piece]:
    """The lock files of entries, and of runs by their plans."""
    files = [(file, file.stem.partition("-")) for file in sorted((store.root / "locks").glob("*.lock"))]
    entries = [(file, (kind, key)) for file, (kind, _, key) in files]
    entries += [(file, ("plan", file.stem.removeprefix("run-"))) for file in sorted(_run_locks(store))]
    for file, entry in entries:
        gone = entry in going or not store.path(*entry).is_dir()
        yield _Piece("locks", file, gone and _last_use(file) < limit and _is_free(file), partial(_unlock, store, entry, file))


def _discard(store: Store, entry: Entry, limit: float) -> None:
    """Remove an entry, if it is still true that nobody uses it."""
    with locked_if_free(store.lock(*entry)) as ours:
        if ours and _last_use(store.path(*entry)) < limit:
            store.discard(*entry)


def _unlock(store: Store, entry: Entry, lock: Path) -> None:
    """Remove a lock file while we hold it; who waits for it will find that it stands no more, and make another one."""
    with locked_if_free(lock) as ours:
        if ours and not store.path(*entry).is_dir():
            lock.unlink(missing_ok=True)


def _remove(piece: _Piece) -> None:
    try:
        piece.remove()
    except OSError as error:
        raise UserError(f"{piece.path}: this can't be removed ({error.strerror}); remove it by hand.") from None


def _with_what_plans_name(store: Store, named: set[Entry]) -> tuple[set[Entry], Stacks]:
    """With the data and the replicas of the plans among them; and which of these replicas are trained as stacks."""
    needed, stacks = set(named), Stacks()
    for kind, key in named:
        file = store.path(kind, key) / "plan.json"
        if kind == "plan" and file.parent.is_dir():
            try:
                meta = read_json(file)
                needed.add(("data", meta["data"]))
                needed |= {("replica", replica["key"]) for replicas in meta["members"].values() for replica in replicas}
                stacks |= meta.get("stacks", {})  # which older plans lack
            except (OSError, ValueError, AttributeError, KeyError, TypeError):
                text = f"{file} can't be read, so it is not known what is needed, and nothing is removed"
                raise UserError(f"{text}; run its recipe again, which makes it anew.") from None
    return needed, stacks


def _oldest_start(store: Store) -> float:
    """When the oldest run began that is alive: the time at which its lock was taken; now, if there is none."""
    return min([time.time(), *(_last_use(lock) for lock in _run_locks(store) if not _is_free(lock))])


def _run_locks(store: Store) -> Iterable[Path]:
    return (store.root.parent / "locks").glob("run-*.lock")


def _is_free(lock: Path) -> bool:
    if not lock.exists():
        return True
    with locked_if_free(lock) as ours:
        return ours


def _last_use(path: Path) -> float:
    """When a file was written, or an entry was made or last found."""
    times = []
    for place in (path, path / MANIFEST):
        with suppress(OSError):
            times.append(place.stat().st_mtime)
    return max(times, default=float("inf"))  # of what has just gone


def _size(path: Path) -> int:
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):
            total += 0 if file.is_dir() else file.lstat().st_size
    return total
