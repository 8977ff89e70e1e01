"""What an ensemble says of a source of rows, into a Parquet file: part by part, so that a killed command goes on where it was.

Each part that is done lies in a hidden folder beside the file that is to be made, whose name ends in the hash of the package and
of what the source is known by. The file itself is there when all of it is. Rows that can't be predicted are listed in a file of
their own, each with the reason, and the others are answered.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fuseline.data.schema import Arrays, plain, rows_of
from fuseline.disk import no_room, ran_out
from fuseline.errors import DataError, first_line
from fuseline.package.answers import Answers
from fuseline.package.ensemble import Ensemble
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import answer
from fuseline.package.readers import Bad, Part, Wanted, id_column, identity, parts
from fuseline.package.stream import parquet_writer, stream
from fuseline.store import code_version, content_key, home, locked

REJECTED = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])
CODE = ("data", "evaluation", "fusion", "models", "package")


@dataclass(frozen=True)
class Predicted:
    """How many rows were answered and how many rejected, in how many parts, and how many of these were there already."""

    rows: int
    rejected: int
    parts: int
    reused: int


@dataclass(frozen=True)
class Encoded:
    """A part as the ensemble reads it; the ids of the rows that are bad, by their numbers."""

    arrays: Arrays
    numbers: NDArray[np.int64]
    ids: NDArray[Any] | None
    bad: Bad
    bad_ids: dict[int, str]


def predict_file(
    package: Path, source: Path, target: Path, rejects: Path, *, id_: str | None = None, resize: bool = False
) -> Predicted:
    """Answer each row of a source that can be answered; see :mod:`fuseline.package.readers` for what a source may be.

    Args:
        package: the folder of a verified package.
        target: a Parquet file: the rows' ids or their numbers, and what :mod:`fuseline.package.answers` says.
        rejects: a Parquet or CSV file of the rows that can't be answered: ``row``, ``id``, ``reason``.
        id_: the column of ids, if the source has one.
        resize: whether picture files are brought to the size that the ensemble reads.

    Raises:
        DataError: the source is not what the ensemble reads, or none of its rows can be answered, or a file can't be written.
        NoRoomError: the disk is full; the parts that are done stay.
    """
    _check_places(source, target, rejects)
    target, rejects = target.absolute(), rejects.absolute()
    description = load_description(package)
    wanted = Wanted(description.schema_, id_column(source, Wanted(description.schema_, id_)), resize)
    key = content_key(package=package.name, code=code_version(*CODE), source=identity(source), id=wanted.id, resize=resize)
    with locked(home() / "locks" / f"predict-{content_key(target=str(target))}.lock"):
        folder = target.with_name(f".{target.name}.{key}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(target, folder)
            reused = _predict(package, source, wanted, folder)
            done = _assemble(folder, target, rejects)
            shutil.rmtree(folder)
        except OSError as error:
            if ran_out(error, target.parent):
                raise no_room(target.parent, "the predictions") from error
            raise DataError(f"{target}: the answers can't be written ({first_line(error)}).") from None
    if done.rejected and not done.rows:
        first = pd.read_parquet(rejects) if rejects.suffix == ".parquet" else pd.read_csv(rejects, nrows=1)
        text = f"{source}: none of its {done.rejected} rows can be predicted"
        raise DataError(f"{text}; row {first['row'][0]}: {first['reason'][0]} (all are listed in {rejects}).")
    return Predicted(done.rows, done.rejected, done.parts, reused)


def _check_places(source: Path, target: Path, rejects: Path) -> None:
    if target.suffix.lower() != ".parquet":
        raise DataError(f"{target}: predictions are a Parquet file; give a name that ends in .parquet.")
    if rejects.suffix.lower() not in (".parquet", ".csv"):
        raise DataError(f"{rejects}: rejected rows are a Parquet or CSV file; give a name that ends in .parquet or .csv.")
    for place in (target, rejects):
        if place.exists() and source.exists() and place.samefile(source):
            raise DataError(f"{place}: the answers would take the place of the rows; name another file for them.")
        if place.is_dir():
            raise DataError(f"{place}: this is a folder; name a file for the answers.")
    if target.absolute() == rejects.absolute():
        raise DataError(f"{rejects}: predictions and rejected rows need a file each.")


def _sweep(target: Path, ours: Path) -> None:
    """Remove parts of another source or package: nobody else writes to this target now."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}")
    for other in target.parent.iterdir():
        if other != ours and name.fullmatch(other.name):
            shutil.rmtree(other)


def _predict(package: Path, source: Path, wanted: Wanted, folder: Path) -> int:
    """Make the parts that are not there yet; how many there were."""
    done = 0
    while _part(folder, done).exists():
        done += 1
    description, ensemble = load_description(package), load_ensemble(package)
    answers = Answers(description, wanted.id)
    say = partial(answer, ensemble, batch=description.batch, threads=description.threads)

    def compute(its: Encoded) -> tuple[pa.Table, pa.Table]:
        table = answers.table(say(its.arrays), its.numbers, its.ids) if len(its.numbers) else answers.empty()
        rows = sorted(its.bad)
        ids = [its.bad_ids.get(row) for row in rows]
        return table, pa.table([rows, ids, [its.bad[row] for row in rows]], schema=REJECTED)

    numbers = count(done)

    def write(said: tuple[pa.Table, pa.Table]) -> None:
        place = _part(folder, next(numbers))
        for table, its in ((said[1], _rejects(place)), (said[0], place)):  # the answers last: with them the part is done
            unfinished = its.with_name(f".{its.name}")
            pq.write_table(table, unfinished)
            os.replace(unfinished, its)

    stream(_encoded(ensemble, source, wanted, done), compute, write)
    if not _part(folder, 0).exists():  # there is no row
        write((answers.empty(), REJECTED.empty_table()))
    return done


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.parquet"


def _rejects(part: Path) -> Path:
    return part.with_suffix(".rejects")


def _encoded(ensemble: Ensemble, source: Path, wanted: Wanted, done: int) -> Iterator[Encoded]:
    for part in parts(source, wanted, done):
        yield _screened(ensemble, part, source)


def _screened(ensemble: Ensemble, part: Part, source: Path) -> Encoded:
    """Encode the rows that can be; what is wrong with the others is said row by row."""
    schema = ensemble.schema
    first = int(part.numbers[0]) if len(part.numbers) else 0
    try:
        arrays = schema.encode(part.rows, str(source), first) if len(part.numbers) else {}
        return Encoded(arrays, part.numbers, part.ids, part.bad, {})
    except DataError:
        good, bad = _sound(part, schema.numeric), dict(part.bad)
        if good.all():
            raise
    rows = part.rows[good]
    for place in np.flatnonzero(~good):
        number = int(part.numbers[place])
        bad[number] = _why(part, place, schema.numeric)
    ids = {} if part.ids is None else {int(part.numbers[p]): str(part.ids[p]) for p in np.flatnonzero(~good)}
    arrays = schema.encode(rows, str(source), first) if good.any() else {}
    assert not arrays or rows_of(arrays) == int(good.sum())
    return Encoded(arrays, part.numbers[good], None if part.ids is None else part.ids[good], bad, ids)


def _sound(part: Part, numeric: list[str]) -> NDArray[np.bool_]:
    """Which rows (N,) hold nothing but what the ensemble can read."""
    if not isinstance(part.rows, pd.DataFrame):
        finite = np.isfinite(part.rows) if part.rows.dtype.kind == "f" else np.ones(part.rows.shape, bool)
        return np.asarray(finite.reshape(len(part.rows), -1).all(1))
    sound = np.ones(len(part.rows), bool)
    for name in numeric:
        sound &= _numbers_sound(part.rows, name)
    return sound


def _numbers_sound(rows: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    if name not in rows.columns or rows[name].ndim > 1:
        return np.ones(len(rows), bool)
    values = pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return ~((np.isnan(values) & rows[name].notna().to_numpy()) | np.isinf(values))


def _why(part: Part, place: int, numeric: list[str]) -> str:
    if not isinstance(part.rows, pd.DataFrame):
        return "the picture holds a value that is not finite"
    row = part.rows.iloc[[place]]
    name = next(name for name in numeric if not _numbers_sound(row, name).all())
    infinite = np.isinf(pd.to_numeric(row[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)).all()
    return f"column {name!r}: {plain(row[name].iloc[0])!r} is not {'finite' if infinite else 'a number'}"


def _assemble(folder: Path, target: Path, rejects: Path) -> Predicted:
    """The parts as one file, and their rejected rows as another, which is there only if there are any."""
    places, rows = sorted(folder.glob("[!.]*.parquet")), 0
    unfinished = folder / ".all"
    with parquet_writer(unfinished, pq.read_schema(places[0])) as out:
        for place in places:
            its = pq.read_table(place)
            out.write_table(its)
            rows += len(its)
    bad = pa.concat_tables([pq.read_table(_rejects(place)) for place in places])
    if len(bad):
        listed = folder / ".rejects"
        frame = bad.to_pandas()
        frame.to_csv(listed, index=False) if rejects.suffix == ".csv" else frame.to_parquet(listed)
        os.replace(listed, rejects)
    else:
        rejects.unlink(missing_ok=True)  # of an earlier command
    os.replace(unfinished, target)
    return Predicted(rows, len(bad), len(places), 0)
