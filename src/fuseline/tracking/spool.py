"""What a run has to say, on disk before anybody is told: append-only, in order, and never torn.

    spool/<run>/owner.json      whose it is
                records.jsonl   one record a line
                files/<label>/  what is to be logged: links into the store, or copies
                delivered.json  how far delivery has come, and MLflow's ids (``delivery.State``)
                owner.lock      locked for as long as a process lives that adds records
                deliver.lock    locked by who delivers
                reserve         room for the last record where the disk is full

A run's id is the name of its folder; those of its children follow from it and from what they are. So a run whose process died
is found here and goes on under the same ids, and nobody needs to search MLflow for it.
"""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fuseline.component import Part
from fuseline.disk import NoRoomError, no_room, ran_out
from fuseline.store import content_key, hold, home, locked, sync, write_atomic
from fuseline.tracking import tags
from fuseline.tracking.records import Files, Record, Start, now, record

logger = logging.getLogger(__name__)

OWNER, RECORDS, OWNED, DELIVERING, RESERVE = "owner.json", "records.jsonl", "owner.lock", "deliver.lock", "reserve"
FINAL = ("FINISHED", "FAILED")
"""The ends after which a run is never opened again."""

ROOM = 1 << 16
GLANCE = 5.0
"""Seconds that the lock of a dead owner may be held by somebody who mends its records."""


class Owner(Part):
    """Whose spool it is: the run, the key of its plan, the recipe, and the process that told of it last."""

    run: str
    key: str
    recipe: str
    created: int
    host: str
    pid: int


class Spool:
    """The records of a run and its children, held by the process that adds to them."""

    def __init__(self, folder: Path, lock: int, is_new: bool = False) -> None:
        self.folder, self.run, self.is_new = folder, folder.name, is_new
        self.told: Callable[[], None] = lambda: None
        """Is called after each record."""
        self.attempts: dict[str, int] = {}
        self.ends: dict[str, str] = {}
        self._lock, self._writing = lock, threading.Lock()
        self._reasons: dict[str, str] = {}
        self._labels: set[tuple[str, str]] = set()
        cut_torn(folder / RECORDS)
        for its, _ in read(folder):
            if its is not None:
                self._note(its)
        self._file = os.open(folder / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    @property
    def owner(self) -> Owner:
        return read_owner(self.folder)

    @property
    def has_ended(self) -> bool:
        """Whether it will never be opened again."""
        return self.ends.get(self.run) in FINAL

    def last_sign(self) -> int:
        """When its process was last known to live, in milliseconds since 1970."""
        beaten = (self.folder / OWNED).stat().st_mtime_ns // 1_000_000
        return max([beaten, *(its.at for its, _ in read(self.folder) if its is not None)])

    def child(self, kind: str, key: str) -> str:
        """The id of the child that is made of what a key names."""
        return content_key(run=self.run, kind=kind, key=key)

    def tell(self, run: str, **parts: Any) -> None:
        """Append a record of a run, made of parts as :func:`fuseline.tracking.records.record` takes them; it is on disk then.

        What was said before under the same label is not said again, and a run that has begun before does not begin but go on.

        Raises:
            NoRoomError: the disk is full.
        """
        said = record(run, **parts)
        with self._writing:
            if self.has_told(run, said.label):
                return
            said = self._going_on(said)
            self._append(f"{said.model_dump_json(exclude_defaults=True)}\n".encode(), last=said.end is not None)
            self._note(said)
        self.told()

    def has_told(self, run: str, label: str) -> bool:
        """Whether something was said of a run under a label."""
        return (run, label) in self._labels

    def keep(self, label: str, files: Mapping[str, Path | str], under: str | None = None) -> Files:
        """Files for a record that was not told yet, by their names: texts, or files of the store, which can't change and are
        linked to."""
        folder = self.folder / "files" / label
        shutil.rmtree(folder, ignore_errors=True)  # of a process that died before it said so
        with _room(self.folder):
            folder.mkdir(parents=True)
            for name, file in files.items():
                if isinstance(file, str):
                    (folder / name).write_text(file, encoding="utf-8")
                else:
                    _link(file, folder / name)
            for path in [*folder.iterdir(), folder]:
                sync(path)
        return Files(folder=f"files/{label}", under=under)

    def close(self) -> None:
        """Let go of it; whoever runs the recipe next may go on with a run that has not ended for good."""
        with self._writing:
            _open.pop(self.run, None)
            for descriptor in (self._file, self._lock):
                os.close(descriptor)

    def _going_on(self, said: Record) -> Record:
        if said.start is None:
            return said
        before = self.attempts.get(said.run, 0)
        counted = {tags.ATTEMPT: str(before + 1), **said.tags}
        if said.start.parent is None:
            counted[tags.OWNER] = f"{socket.gethostname()}:{os.getpid()}"
        if not before:
            return said.model_copy(update={"tags": counted})
        if said.run in self._reasons:
            counted[f"{tags.REASON}.{before}"] = self._reasons[said.run]
        return said.model_copy(update={"start": None, "again": True, "tags": counted, "without": [tags.REASON, tags.FAILURE]})

    def _append(self, line: bytes, last: bool) -> None:
        size = os.fstat(self._file).st_size
        try:
            with _room(self.folder):
                _write(self._file, line)
        except NoRoomError:
            os.ftruncate(self._file, size)
            if not (last and (self.folder / RESERVE).exists()):
                raise
            (self.folder / RESERVE).unlink()
            self._append(line, last)

    def _note(self, said: Record) -> None:
        if said.label:
            self._labels.add((said.run, said.label))
        if said.start is not None or said.again:
            self.attempts[said.run] = self.attempts.get(said.run, 0) + 1
            self.ends.pop(said.run, None)
            self._reasons.pop(said.run, None)
        if tags.REASON in said.tags:
            self._reasons[said.run] = said.tags[tags.REASON]
        if said.end is not None:
            self.ends[said.run] = said.end


# ------------------------------------------------------------------------------------------------- finding and opening

_open: dict[str, Spool] = {}
"""The spools that this process holds, by their runs."""


def start_run(key: str, recipe: str, run_tags: Mapping[str, str], kind: str = "train", name: str | None = None) -> Spool:
    """The spool of a run that begins now: that of an unfinished run of the same plan whose process has ended, or a new one.

    Args:
        key: of the plan, or of whatever else a run of this kind is about.
        recipe: its name, which is that of the experiment too.
        name: the run's, if it is not the recipe's.
    """
    spool = _unfinished(key) or _new(key, recipe)
    owner = spool.owner.model_copy(update={"host": socket.gethostname(), "pid": os.getpid()})
    write_atomic(spool.folder / OWNER, owner.model_dump_json())
    _open[spool.run] = spool
    user = {"mlflow.user": _user()}
    spool.tell(spool.run, start=Start(name=name or recipe, kind=kind, key=key), tags={**user, **run_tags})
    return spool


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in many a container
        return str(os.getuid())


def opened(run: str) -> Spool:
    """The spool of a run of this process."""
    return _open[run]


def held() -> list[str]:
    """The runs whose spools this process holds."""
    return list(_open)


def beat() -> None:
    """Leave a sign that this process lives on all spools that it holds."""
    for spool in list(_open.values()):
        with suppress(OSError):
            os.utime(spool.folder / OWNED)


def root() -> Path:
    return home() / "spool"


def spools(strict: bool = False) -> list[Path]:
    """The folders of all spools, the oldest first; ``strict`` if one that is damaged must not be left out.

    Raises:
        ValueError: one that is damaged was left out.
    """
    found = {}
    for file in root().glob(f"[!.]*/{OWNER}"):
        try:
            found[file.parent] = read_owner(file.parent).created
        except FileNotFoundError:  # it has just been removed
            continue
        except ValidationError:
            if strict:
                raise
            logger.warning("%s is damaged, so what is left in its folder is not sent to MLflow; remove it", file)
    return sorted(found, key=lambda folder: (found[folder], folder))


def read_owner(folder: Path) -> Owner:
    return Owner.model_validate_json((folder / OWNER).read_bytes())


def read(folder: Path, offset: int = 0) -> Iterator[tuple[Record | None, int]]:
    """The records behind an offset, each with the offset of the next one; None for a line that can't be read."""
    try:
        with (folder / RECORDS).open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return  # it is being written, or was when its process died
        offset += len(line)
        try:
            yield Record.model_validate_json(line), offset
        except ValidationError:
            yield None, offset


def lines_behind(folder: Path, offset: int) -> int:
    """How many records there are behind an offset."""
    try:
        with (folder / RECORDS).open("rb") as file:
            file.seek(offset)
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0


def cut_torn(file: Path) -> None:
    """Cut off what is behind the last whole line of a file."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as opened_:
            opened_.truncate(whole)
            os.fsync(opened_.fileno())


def spooled_entries() -> set[tuple[str, str]]:
    """The kind and key of each entry of the store that runs name of which MLflow has not been told to the end: their plans, what
    the finished ones are made of, and the packages that are to be registered."""
    found = set()
    for folder in spools(strict=True):
        found.add(("plan", read_owner(folder).key))
        for its in (its for its, _ in read(folder) if its is not None):
            found |= set(tags.tagged_entries(its.tags))
            if its.version is not None:
                found.add(("package", Path(its.version.package).name))
    return found


def _unfinished(key: str) -> Spool | None:
    ours = [spool for spool in _open.values() if spool.owner.key == key and not spool.has_ended]
    if ours:
        return ours[-1]
    for folder in reversed(spools()):
        if read_owner(folder).key == key and _end(folder) not in FINAL and (spool := take(folder, GLANCE)) is not None:
            return spool
    return None


def _end(folder: Path) -> str | None:
    """How the run of a spool ended."""
    said = [its for its, _ in read(folder) if its is not None and its.run == folder.name]
    return next((its.end for its in reversed(said) if its.end or its.again), None)


def take(folder: Path, patience: float = 0.0) -> Spool | None:
    """A spool whose owner has ended, for this process to add to."""
    if folder.name in _open:
        return None
    lock = hold(folder / OWNED, patience)
    return None if lock is None else Spool(folder, lock)


def _new(key: str, recipe: str) -> Spool:
    run = uuid.uuid4().hex
    place, temporary = root() / run, root() / f".{run}"
    owner = Owner(run=run, key=key, recipe=recipe, created=now(), host=socket.gethostname(), pid=os.getpid())
    with locked(creating()), _room(home()):
        temporary.mkdir(parents=True)
        (temporary / OWNER).write_text(owner.model_dump_json())
        (temporary / RESERVE).write_bytes(bytes(ROOM))
        lock = hold(temporary / OWNED)
        for path in (temporary / OWNER, temporary / RESERVE, temporary):
            sync(path)
        temporary.rename(place)
        sync(root())
    assert lock is not None, "nobody else knows of it"
    return Spool(place, lock, is_new=True)


def creating() -> Path:
    """The lock file of who makes a spool, or removes those that were never made to the end."""
    return home() / "locks" / "spool.lock"


# -------------------------------------------------------------------------------------------------------------- bytes


@contextmanager
def _room(place: Path) -> Iterator[None]:
    """One sentence for a disk that is full."""
    try:
        yield
    except OSError as error:
        if ran_out(error, place):
            raise no_room(place, "the records of the run") from error
        raise


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]
    os.fsync(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)
