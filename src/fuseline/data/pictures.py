"""A folder of picture files, with a table of their rows or one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import PIL

from fuseline.data.decoding import Size, open_picture, stack
from fuseline.data.files import Raw, existing, from_csv, from_parquet
from fuseline.errors import DataError
from fuseline.store import content_key, sha256_of

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


def image_folder(*, path: str, size: Size = None, channels: Literal[1, 3] = 3, table: str | None = None) -> Raw:
    """Picture files, one row each, decoded to (N, C, H, W) bytes.

    With a table, its column ``file`` names a picture on each row, relative to the folder, and its other columns may be
    targets, ids or what the split follows. Without one, each folder inside ``path`` is a class: the columns are ``file``, which
    can serve as the id, and ``class``. There, hidden files and files with another extension than a picture's are passed over.

    Args:
        path: the folder.
        size: height and width to which every picture is brought, or one number for both; without it, all must have one size.
        channels: 3 for colours, 1 for grey.
        table: a CSV or Parquet file.

    Raises:
        DataError: names the file and row of a picture that is not there, lies outside the folder, or can't be decoded.
    """
    frame = _rows(path, table)
    files = frame["file"].tolist()
    image = stack(len(files), lambda i: open_picture(Path(path, files[i])), lambda i: _where(path, i, files[i]), size, channels)
    return Raw(frame, table or path, image)


def content(settings: Mapping[str, Any]) -> str:
    """The hash of every picture's path and bytes, of the table, and of the version of the decoder."""
    path, table = settings["path"], settings.get("table")
    files = sorted(set(_rows(path, table)["file"]))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(lambda name: sha256_of(Path(path, name)), files))
    listed = sha256_of(Path(table)) if table else None
    return content_key(pictures=list(zip(files, sums, strict=True)), table=listed, decoder=PIL.__version__)


def _rows(path: str, table: str | None) -> pd.DataFrame:
    """The rows, each with the ``file`` of a picture that is there and inside the folder."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; mend data.source's 'path' (it is meant relative to the recipe).")
    frame = _table(table) if table else pd.DataFrame(_by_class(folder), columns=["file", "class"])
    if not len(frame):
        raise DataError(f"{table or folder}: there are no pictures.")
    inside = folder.resolve()
    for row, name in enumerate(frame["file"]):
        _check(folder, inside, row, name)
    return frame


def _table(table: str) -> pd.DataFrame:
    file = existing(table, "table")
    readers = {".csv": from_csv, ".parquet": from_parquet}
    if file.suffix.lower() not in readers:
        raise DataError(f"{file}: a table of pictures is a .csv or a .parquet file.")
    frame = readers[file.suffix.lower()](path=table).frame
    if "file" not in frame.columns:
        raise DataError(
            f"{file}: there is no column 'file', which names the pictures; the columns are {', '.join(map(str, frame.columns))}."
        )
    return frame


def _check(folder: Path, inside: Path, row: int, name: Any) -> None:
    """Refuse a name that is none, that leads out of the folder by itself or through a link, or where there is no file."""
    where = _where(folder, row, name)
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: this is not the name of a file; mend the column 'file'.")
    try:
        place = (folder / name).resolve()
        there = place.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, links in a circle
        raise DataError(f"{where}: this can't be the name of a file ({type(error).__name__}).") from None
    if Path(name).is_absolute() or ".." in Path(name).parts or not place.is_relative_to(inside):
        raise DataError(f"{where}: the file lies outside the folder; name files inside it, relative to it.")
    if not there:
        raise DataError(f"{where}: there is no such file; mend the row or remove it.")


def _by_class(folder: Path) -> list[tuple[str, str]]:
    rows = []
    for entry in _entries(folder):
        if entry.is_dir():
            files = [file.relative_to(folder).as_posix() for file in pictures_in(entry)]
            if not files:
                known = ", ".join(sorted(EXTENSIONS))
                raise DataError(f"{entry}: this class has no pictures ({known}); put some there or remove the folder.")
            rows += [(file, entry.name) for file in files]
        elif entry.suffix.lower() in EXTENSIONS:
            raise DataError(f"{entry}: the picture lies in no class's folder; move it into one, or name a 'table'.")
    return rows


def pictures_in(folder: Path) -> Iterator[Path]:
    """The picture files of a folder and of those inside it, in the order of the names."""
    for entry in _entries(folder):
        if entry.is_dir():
            yield from pictures_in(entry)
        elif entry.suffix.lower() in EXTENSIONS:
            yield entry


def _entries(folder: Path) -> Iterator[Path]:
    """What lies in a folder, in the order of the names, but for hidden entries. A link to a folder may go in circles."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() and entry.is_dir():
            raise DataError(f"{entry}: links to folders are not followed; put the pictures themselves there.")
        if not entry.name.startswith("."):
            yield entry


def _where(folder: str | Path, row: int, name: Any) -> str:
    return f"{folder}: row {row}, file {str(name)!r}"
