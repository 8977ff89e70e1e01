"""Room on the disk: how much is free, whether an error came from there being none, and how to take it before it is needed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from pathlib import Path

from fuseline.errors import UserError

NO_ROOM = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
"""The disk is full, a file would be larger than may be, a quota is used up."""

PROBE = 1 << 16
"""So many bytes must go onto a disk that is not full."""


class NoRoomError(UserError):
    """There is no room for what must be written; the message says where, how much is free, and what to do."""


def free(place: Path) -> int:
    """How many bytes may still be written where a path is or will be."""
    there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def largest_file() -> float:
    """How many bytes a file may have that this process writes (``ulimit -f``)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def readable(size: float) -> str:
    """
    >>> [readable(size) for size in (0, 999, 48_000, 2_500_000_000)]
    ['0 B', '999 B', '48 kB', '2.5 GB']
    """
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.1f} {unit}" if size < 10 * one else f"{size / one:.0f} {unit}"
    return f"{size:.0f} B"


def no_room(place: Path, what: str) -> NoRoomError:
    """The sentence for what could not be written: where there is no room, and how much is free there now."""
    limit = "" if largest_file() == float("inf") else f", and no file may be larger than {readable(largest_file())}"
    return NoRoomError(f"There is no room for {what} in {place}, where {readable(free(place))} are free{limit}; {REMEDY}.")


REMEDY = "make room (`fuseline gc` lists what no run needs), or let FUSELINE_HOME name a folder on another disk"


def ran_out(error: BaseException, folder: Path) -> bool:
    """Whether an error while a folder was written to came from want of room. Call it before anything is cleaned up.

    Libraries say it in many ways: Python by a number, safetensors in words, NumPy and torch not at all. Where they don't say it,
    a little is written to see whether there is room.
    """
    if not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_ROOM
    if any(os.strerror(number) in str(error) for number in NO_ROOM):
        return True
    return isinstance(error, OSError | RuntimeError) and _is_full(folder)


def _is_full(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
        limit = largest_file()
        return any(file.stat().st_size >= limit for file in folder.rglob("*") if file.is_file())
    except OSError as error:
        return error.errno in NO_ROOM


def reserve(file: Path) -> None:
    """Take all the room that a file's size claims: a mapped file with holes would else end the process by SIGBUS where the disk
    is full by the time that they are written to.

    Raises:
        OSError: there is no room.
    """
    with file.open("r+b") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
