"""Files that must be known before they are opened: a list of sha256 sums, as ``sha256sum`` writes it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from fuseline.data.files import existing
from fuseline.errors import DataError
from fuseline.store import sha256_of

LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def read_sums(path: str) -> dict[str, str]:
    """The sha256 of each file, by its name relative to the data's root."""
    file = existing(path, "checksums")
    sums = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        if (found := LINE.fullmatch(line)) is None:
            raise DataError(f"{file}, line {number}: a line is a sha256, two blanks and a file's name, as sha256sum writes it.")
        sums[found[2]] = found[1]
    return sums


def verify(root: Path, sums: dict[str, str]) -> None:
    """Refuse a file that is listed and has another sum, or is not there."""
    for name, expected in sums.items():
        file = root / name
        if not file.is_file():
            raise DataError(f"{file}: there is no such file, but its sha256 is listed; put it there or mend the list.")
        if sha256_of(file) != expected:
            raise _changed(file)


def md5_of_known(root: Path, name: str, sums: dict[str, str]) -> str:
    """The md5 of a file's bytes, after the same bytes proved to have the sha256 that is listed."""
    file = root / name
    if name not in sums:
        raise DataError(f"{file}: its sha256 is not listed, and it is not opened without; list it as {name!r} in 'checksums'.")
    content = existing(str(file), "root").read_bytes()
    if hashlib.sha256(content).hexdigest() != sums[name]:
        raise _changed(file)
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _changed(file: Path) -> DataError:
    return DataError(f"{file}: its sha256 is not the one that is listed, so it is not opened; fetch the file again.")
