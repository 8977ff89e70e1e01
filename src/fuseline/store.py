"""A content-addressed store of folders: same key, same bytes.

An entry is made in a temporary folder beside its place and renamed into it, so it is there whole or not at all. A manifest
holds the sha256 of each file and is checked at every reuse. One writer per key, by ``flock``, which the kernel frees when
its holder dies. What a dead writer left is removed by the next one of that kind, whatever it makes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fuseline.disk import no_room, ran_out

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
NPY, NPY_HEADER = re.compile(rb"'descr': '([^']+)'.*'shape': \(([\d, ]*)\)"), 4096
GLANCE = 0.05
"""Seconds that a lock may be held by somebody who only looks whether it is free."""
LIBRARIES = (
    "numpy",
    "pandas",
    "pillow",
    "rtdl_num_embeddings",
    "scikit-learn",
    "scipy",
    "tabm",
    "torch",
    "torch_geometric",
    "torchvision",
)


def home() -> Path:
    """Where fuseline keeps what it makes: ``FUSELINE_HOME``, else ``.fuseline`` in the working folder."""
    return Path(os.environ.get("FUSELINE_HOME", ".fuseline")).absolute()


def content_key(**parts: Any) -> str:
    """The hash of everything that determines a result.

    Arrays count by dtype, shape and bytes; everything else by its canonical JSON.

    >>> content_key(a=1, b=[1.5]) == content_key(b=[1.5], a=1)
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_hashable).encode()).hexdigest()[:32]


def _hashable(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), digest]
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"a content key can't hold a {type(value).__name__}")


@cache
def code_version(*packages: str) -> str:
    """The version of the code that makes a result: the hash of the source of some of fuseline's packages, and of the versions
    of the libraries that compute."""
    digest = hashlib.sha256(" ".join(_version(name) for name in LIBRARIES).encode())
    for package in sorted(packages):
        root = Path(str(resources.files("fuseline"))) / package
        files = sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # of an extra
        return "none"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock file; if somebody else holds it, say who (``waiting``) and wait until it is let go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _held(path, waiting)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock file if nobody else does; whether that is so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = hold(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def hold(path: Path, patience: float = 0.0) -> int | None:
    """The descriptor of a lock file that is locked until the descriptor is closed. None if another process holds it for longer
    than ``patience`` seconds, or if it or its folder was removed."""
    end = time.monotonic() + patience
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return None
    while not (taken := _taken(descriptor)) and time.monotonic() < end:
        time.sleep(0.01)
    if taken and _stands(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _held(path: Path, waiting: Callable[[str], None] | None) -> int:
    """The descriptor of a lock file that is locked. A file that was removed while we waited for it locks nothing any more."""
    while True:
        descriptor = _opened(path)
        try:
            if not _taken(descriptor):
                time.sleep(GLANCE)
                if not _taken(descriptor):
                    if waiting is not None:
                        waiting(os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process")
                        waiting = None
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _stands(path, descriptor):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if ran_out(error, path.parent):
            raise no_room(path.parent, "a lock") from error
        raise


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stands(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write who holds a lock. It holds as well where there is no room to say so."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)


class Store:
    """Entries under ``root/<kind>/<key>``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else home() / "store"

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def lock(self, kind: str, key: str) -> Path:
        return self.root / "locks" / f"{kind}-{key}.lock"

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's folder if it is there and each file matches its sha256; a damaged one counts as missing, with a warning.

        The time of its manifest says when an entry was last asked for.
        """
        place = self.path(kind, key)
        if not place.is_dir():
            return None
        with suppress(OSError):  # first of all, so that nobody removes it meanwhile because it was never needed
            os.utime(place / MANIFEST)
        damaged = damage(place)
        if damaged is None:
            return place
        logger.warning("%s %s is damaged (%s); it is made again", kind, key, damaged)
        return None

    def make(self, kind: str, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
        """The entry's folder, built now if it isn't there yet.

        Args:
            build: writes the entry's files into the folder that it is given.

        Returns:
            The folder, and whether it was there already.

        Raises:
            NoRoomError: the disk is full; nothing is left of the entry.
        """
        with locked(self.lock(kind, key), partial(_tell, kind, key)):
            if (found := self.find(kind, key)) is not None:
                return found, True
            return self._put(kind, key, build), False

    def make_all(
        self, kind: str, keys: Sequence[str], build: Callable[[list[str]], Iterable[tuple[str, Callable[[Path], None]]]]
    ) -> list[bool]:
        """Entries that are made in one piece of work: which of them were there already.

        Args:
            build: is given the missing keys, and yields those that it could make with what writes their files.

        Raises:
            NoRoomError: as for :meth:`make`; those that were yielded before stay.
        """
        with ExitStack() as locks:
            for key in sorted(set(keys)):  # in one order, so that no two makers wait for each other
                locks.enter_context(locked(self.lock(kind, key), partial(_tell, kind, key)))
            there = {key: self.find(kind, key) is not None for key in keys}
            for key, write in build([key for key in there if not there[key]]):
                self._put(kind, key, write)
        return [there[key] for key in keys]

    def discard(self, kind: str, key: str) -> None:
        """Remove an entry whose lock we hold. It is renamed first, so that none is ever there in part."""
        place, aside = self.path(kind, key), self._aside(kind, key)
        with suppress(FileNotFoundError):
            place.rename(aside)
            shutil.rmtree(aside)

    def litter(self, kind: str) -> list[tuple[str, Path]]:
        """What makers of entries have begun or were about to remove: the entries' keys, and the folders."""
        return [(path.name[1:].rpartition("-")[0], path) for path in sorted(self.path(kind, "").glob(".*-*"))]

    def sweep(self, kind: str, own: str | None = None) -> None:
        """Remove the litter of makers that died, which is that of keys that nobody has locked, and of the ``own`` key."""
        for key, stale in self.litter(kind):
            if key == own:
                shutil.rmtree(stale, ignore_errors=True)
                continue
            with locked_if_free(self.lock(kind, key)) as ours:
                if ours:
                    shutil.rmtree(stale, ignore_errors=True)

    def _put(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Make an entry whose lock we hold."""
        place, temporary = self.path(kind, key), self._aside(kind, key)
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            self.discard(kind, key)  # it is damaged
            self.sweep(kind, key)
            temporary.mkdir()
            build(temporary)
            _seal(temporary)
            temporary.rename(place)
            for folder in (place.parent, self.root):
                sync(folder)
        except BaseException as error:
            full = ran_out(error, temporary)
            shutil.rmtree(temporary, ignore_errors=True)
            if full:
                raise no_room(self.root, f"{kind} {key}") from error
            raise
        return place

    def _aside(self, kind: str, key: str) -> Path:
        return self.root / kind / f".{key}-{secrets.token_hex(4)}"


def _tell(kind: str, key: str, holder: str) -> None:
    logger.warning("%s %s is being made by %s; waiting until it is there", kind, key, holder)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, whatever happens meanwhile.

    Raises:
        NoRoomError: the disk is full; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        full = ran_out(error, path.parent)
        temporary.unlink(missing_ok=True)
        if full:
            raise no_room(path.parent, path.name) from error
        raise


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=_plain), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value.model_dump(mode="json")


def _files(folder: Path) -> dict[str, Path]:
    """An entry's files but for the manifest, by their names relative to it; a link is one too, wherever it leads."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return {str(path.relative_to(folder)): path for path in paths if path != folder / MANIFEST}


def _seal(folder: Path) -> None:
    """Write the manifest, and let all that is in the folder go onto the disk."""
    for path in folder.rglob("*.npy"):
        if _is_cut_off(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write_json(folder / MANIFEST, {name: sha256_of(path) for name, path in _files(folder).items()})
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _is_cut_off(array: Path) -> bool:
    """Whether a file of one array has less than its header says: NumPy is silent where the last 4 kB of it find no room."""
    with array.open("rb") as file:
        start = file.read(NPY_HEADER)
    begin, size = (10, 2) if start[6:7] == b"\1" else (12, 4)
    begin += int.from_bytes(start[begin - size : begin], "little")
    found = NPY.search(start[:begin])
    if found is None:  # not even that is there; or its entries are records, which nothing here writes
        return len(start) < begin
    shape = [int(length) for length in found[2].split(b",") if length.strip()]
    return array.stat().st_size < begin + np.dtype(found[1].decode()).itemsize * math.prod(shape)


def sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(folder: Path) -> str | None:
    """What is wrong with an entry's folder by its manifest; None if nothing is."""
    try:
        sums: dict[str, str] = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return "its manifest can't be read"
    if not isinstance(sums, dict):
        return "its manifest is no list of files"
    files = _files(folder)
    for name in sorted(files.keys() - sums.keys()):
        return f"{name} does not belong there"
    for name, expected in sums.items():
        if name not in files:
            return f"{name} is missing"
        try:
            if files[name].is_symlink() or sha256_of(files[name]) != expected:
                return f"{name} has changed"
        except OSError as error:
            return f"{name} can't be read: {error.strerror}"
    return None
