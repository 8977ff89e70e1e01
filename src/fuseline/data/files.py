"""What a source gives, and the sources that read one file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray
from pydantic import Field

from fuseline.data.archives import check_npz
from fuseline.disk import readable
from fuseline.errors import DataError, first_line


@dataclass(frozen=True)
class Raw:
    """What a source gives: ``frame`` (N rows), maybe ``image`` (N, C, H, W), and where it came from, for messages."""

    frame: pd.DataFrame
    origin: str
    image: NDArray[Any] | None = None


def from_npz(*, path: str, image: str | None = None, layout: Literal["auto", "first", "last"] = "auto") -> Raw:
    """Arrays of equal length: (N,) is a column, (N, P) the columns ``NAME_0`` … , and (N, H, W[, C]) are pictures.

    Args:
        path: the file.
        image: the array that holds the pictures; without it, the one with three or four axes.
        layout: where the channel axis of a four-axis array stands; ``auto`` takes last if that axis has 1, 3 or 4 entries.
    """
    file = existing(path)
    arrays = _npz_arrays(file)
    lengths = {name: len(array) if array.ndim else -1 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{n} {k}" for n, k in lengths.items())
        raise DataError(f"{file}: every array needs one entry per row, but the lengths are {listed}.")
    pictures = [name for name, array in arrays.items() if array.ndim >= 3]
    if image is not None and image not in pictures:
        raise DataError(f"{file}: {image!r} is not an array of pictures; those are: {', '.join(pictures) or 'none'}.")
    if image is None and len(pictures) > 1:
        raise DataError(f"{file}: several arrays hold pictures ({', '.join(pictures)}); name one with 'image'.")
    chosen = image or (pictures[0] if pictures else None)
    columns: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:
            for j in range(array.shape[1]):
                if f"{name}_{j}" in arrays:
                    raise DataError(f"{file}: the array {f'{name}_{j}'!r} has the name of a column of {name!r}; rename one.")
                columns[f"{name}_{j}"] = array[:, j]
    stack = None if chosen is None else _channels_first(arrays[chosen], layout, f"{file}: {chosen}")
    return Raw(pd.DataFrame(columns), str(file), stack)


def from_parquet(*, path: str) -> Raw:
    """A Parquet file, one row per row."""
    file = existing(path)
    try:
        _check_parquet(file)
        frame = pd.read_parquet(file)
    except (ValueError, OSError, MemoryError) as error:
        raise DataError(f"{file}: not readable as Parquet: {first_line(error)}.") from None
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    for name in frame.columns:
        if isinstance(frame[name].dropna().iloc[:1].squeeze(), Decimal):
            frame[name] = pd.to_numeric(frame[name])
    return Raw(frame, str(file))


def from_csv(*, path: str, separator: Annotated[str, Field(min_length=1, max_length=1)] = ",") -> Raw:
    """A CSV file with a header line; empty fields are missing values."""
    file = existing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a line longer than the header would lose its end
            frame = pd.read_csv(file, sep=separator, index_col=False, keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserWarning) as error:
        raise DataError(f"{file}: not readable as CSV: {first_line(error)}.") from None
    return Raw(frame, str(file))


def _check_parquet(file: Path) -> None:
    """Refuse a table that would not fit into memory with a byte per value: equal values take next to nothing in the file."""
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # pandas loads it too, but no sooner

    with pq.ParquetFile(file) as table:
        size = table.metadata.num_rows * table.metadata.num_columns
    memory = psutil.virtual_memory().available
    if size > memory:
        raise DataError(
            f"{file}: its {size:,} values take more memory than the {readable(memory)} that are free; use fewer rows."
        )


def _npz_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Every array of an archive. A damaged one fails in as many ways as there are places for the damage."""
    try:
        with file.open("rb") as opened:
            check_npz(opened, file)
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{file}: not readable as npz without pickle: {first_line(error)}.") from None


def existing(path: str, setting: str = "path") -> Path:
    """A file that must be there."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; mend data.source's {setting!r} (it is meant relative to the recipe).")
    return file


def _channels_first(array: NDArray[Any], layout: str, where: str) -> NDArray[Any]:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise DataError(f"{where} has {array.ndim} axes; pictures need (N, H, W), (N, H, W, C) or (N, C, H, W).")
    last = layout == "last" or (layout == "auto" and array.shape[-1] in (1, 3, 4))
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if last else array
