"""A content-addressed store of folders: same key, same bytes.

An entry is made in a temporary folder beside its place and renamed into it, so it is there whole or not at all. A manifest
holds the sha256 of each file and is checked at every reuse. One writer per key, by ``flock``, which the kernel frees when
its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
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
    """Hold a lock file; if another process holds it, say who (``waiting``) and wait until it lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                file.seek(0)
                waiting(file.read().strip() or "another process")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


class Store:
    """Entries under ``root/<kind>/<key>``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else home() / "store"

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's folder if it is there and each file matches its sha256; a damaged one counts as missing, with a warning."""
        place = self.path(kind, key)
        if not place.is_dir():
            return None
        damaged = _damage(place)
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
        """
        with locked(self.root / "locks" / f"{kind}-{key}.lock"):
            if (found := self.find(kind, key)) is not None:
                return found, True
            return self._put(kind, key, build), False

    def make_all(
        self, kind: str, keys: Sequence[str], build: Callable[[list[str]], Iterable[tuple[str, Callable[[Path], None]]]]
    ) -> list[bool]:
        """Entries that are made in one piece of work: which of them were there already.

        Args:
            build: is given the missing keys, and yields those that it could make with what writes their files.
        """
        with ExitStack() as locks:
            for key in sorted(set(keys)):  # in one order, so that no two makers wait for each other
                locks.enter_context(locked(self.root / "locks" / f"{kind}-{key}.lock"))
            there = {key: self.find(kind, key) is not None for key in keys}
            for key, write in build([key for key in there if not there[key]]):
                self._put(kind, key, write)
        return [there[key] for key in keys]

    def _put(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Make an entry whose lock we hold."""
        place = self.path(kind, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)  # damaged
        for stale in place.parent.glob(f".{key}-*"):  # we hold the key's lock: its maker is dead
            shutil.rmtree(stale)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=place.parent))
        try:
            build(temporary)
            _seal(temporary)
            temporary.rename(place)
            _sync(place.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return place


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=_plain), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value.model_dump(mode="json")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _seal(folder: Path) -> None:
    sums = {str(path.relative_to(folder)): sha256_of(path) for path in _files(folder)}
    write_json(folder / MANIFEST, sums)
    for path in [*_files(folder), folder / MANIFEST]:
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(folder: Path) -> str | None:
    try:
        sums: dict[str, str] = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return "its manifest can't be read"
    if not isinstance(sums, dict):
        return "its manifest is no list of files"
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_of(file) != expected:
            return f"{name} has changed"
    return None
