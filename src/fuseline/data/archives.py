"""Archives, bounded before anything of them is read or unpacked: a few kilobytes may hold, or claim, any number of bytes.

What is unpacked stays in its folder, and is there whole or not at all.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import psutil
from numpy.lib import format as npy

from fuseline.disk import free, readable
from fuseline.errors import DataError

SWELL = 100
"""An archive may hold at most so many times its own bytes. Pictures hardly shrink when they are packed, and text by about ten."""

MOST_MEMBERS = 5_000_000
"""The largest of the known sets has some three million files."""

HEADER = 1 << 20
"""So many bytes a header of a tar archive may have: the name of a file, and what else is said of it."""

CHUNK = 1 << 20
UNPACKING = ".unpacking-"

OPENERS: dict[str, Callable[..., Any]] = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}


def check_npz(opened: IO[bytes], where: Path) -> None:
    """Refuse an archive of arrays that would not fit into memory, or in which an array claims another size than it has.

    Raises:
        DataError: names the file and the array.
        Exception: it is no such archive.
    """
    memory = psutil.virtual_memory().available
    with zipfile.ZipFile(opened) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > memory:
            text = f"{where}: unpacked, its arrays take {readable(total)}, and {readable(memory)} of memory are free"
            raise DataError(f"{text}; use a machine with more memory, or fewer rows.")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # NumPy writes no others
                raise DataError(f"{where}: {member.filename} is packed in a way that NumPy does not use; save it again by NumPy.")
            with archive.open(member) as part:
                claimed = _claimed(part)
            if claimed is not None and claimed != member.file_size:
                text = f"{where}: the array {member.filename.removesuffix('.npy')!r} claims {readable(claimed)}"
                raise DataError(f"{text} and has {readable(member.file_size)}; the file is damaged.")


def _claimed(part: IO[bytes]) -> int | None:
    """How many bytes an array has by its own header, which is counted in; None for one of objects, which nobody reads."""
    version = npy.read_magic(part)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(part)
    return None if dtype.hasobject else part.tell() + math.prod(shape) * dtype.itemsize


def refuse_swelling(packed: Path) -> None:
    """Refuse a single compressed file that would grow too much.

    Raises:
        DataError: names it.
    """
    most, size = SWELL * packed.stat().st_size, 0
    with OPENERS[packed.suffix](packed, "rb") as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            if size > most:
                raise _swollen(packed)


def unpack_tar(packed: Path, folder: Path) -> None:
    """Unpack a tar archive, which may be compressed, into a folder.

    Raises:
        DataError, tarfile.FilterError: names a member that leads out of the folder, or the archive where it is too large.
    """
    room, most, count, size = free(folder), SWELL * packed.stat().st_size, 0, 0

    def bounded(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal count, size
        count, size = count + 1, size + member.size
        _check_size(packed, count, size, most, room)
        for name in (member.name, member.linkname):
            _check_name(packed, name)
        return tarfile.data_filter(member, path)

    with tarfile.open(packed, tarinfo=_Bounded) as archive:
        _unpack(folder, lambda place: archive.extractall(place, filter=bounded))  # noqa: S202 (by that filter)


class _Bounded(tarfile.TarInfo):
    """A member of a tar archive whose headers, which tarfile reads into memory before any filter is asked, are small."""

    LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        """What a header announces; tarfile has this to be extended."""
        if self.type in self.LONG and not 0 <= self.size <= HEADER:
            raise DataError(f"{archive.name}: a header claims {self.size:,} bytes; don't trust this archive.")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse(archive)
        member: tarfile.TarInfo | None = super()._proc_member(archive)  # type: ignore[misc]
        return member

    def _proc_gnusparse_10(self, _: tarfile.TarInfo, __: object, archive: tarfile.TarFile) -> None:
        raise _sparse(archive)


def _sparse(archive: tarfile.TarFile) -> DataError:
    """The list of what a file with holes has may be of any length."""
    return DataError(f"{archive.name}: it has files with holes (tar --sparse); pack it again without.")


def unpack_zip(packed: Path, folder: Path) -> None:
    """Unpack a zip archive into a folder; links in it become files.

    Raises:
        DataError: as for :func:`unpack_tar`.
    """
    with zipfile.ZipFile(packed) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)  # zipfile gives no more than that of each
        _check_size(packed, len(members), size, SWELL * packed.stat().st_size, free(folder))
        for member in members:
            _check_name(packed, member.filename)
        _unpack(folder, archive.extractall)


def _unpack(folder: Path, unpack: Callable[[Path], Any]) -> None:
    """Unpack beside the place and move what comes out into it; nobody else may be unpacking into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{UNPACKING}*"):  # of one that was killed
        shutil.rmtree(stale, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=UNPACKING, dir=folder))
    try:
        unpack(place)
        _settle(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _settle(source: Path, target: Path) -> None:
    """Move what is in a folder into another one: folders as wholes, where there are none of that name."""
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _settle(entry, place)
        else:
            entry.replace(place)


def _check_size(packed: Path, count: int, size: int, most: int, room: int) -> None:
    if count > MOST_MEMBERS:
        raise DataError(f"{packed}: the archive has more than {MOST_MEMBERS:,} files; unpack it yourself if you trust it.")
    if size > most:
        raise _swollen(packed)
    if size > room:
        raise DataError(f"{packed}: unpacked it takes more than {readable(size)}, and {readable(room)} are free; make room.")


def _check_name(packed: Path, name: str) -> None:
    """Refuse a member, or what a link leads to, that is not below where it stands."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{packed}: {name!r} leads out of the folder that it is unpacked into; don't trust this archive.")


def _swollen(packed: Path) -> DataError:
    text = f"{packed}: unpacked it has more than {SWELL} times its own {readable(packed.stat().st_size)}"
    return DataError(f"{text}; unpack it yourself if you trust it.")
