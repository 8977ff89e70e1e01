"""The data set: raw columns read once, checked, coded, fingerprinted, and served from memory-mapped arrays.

Shapes: N rows; ``inputs`` as :meth:`Schema.encode` gives them; each target as :func:`fuseline.data.targets.encode` gives it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fuseline.component import complete
from fuseline.data.files import Raw
from fuseline.data.schema import Arrays, Schema, TargetSchema, as_words, plain
from fuseline.data.sources import SOURCES, origin_key
from fuseline.data.targets import encode
from fuseline.errors import DataError
from fuseline.recipe import Data, Target
from fuseline.store import Store, code_version, content_key, read_json, write_json

HASHED = 2**17
"""So many numbers are hashed at a time."""


@dataclass(frozen=True)
class Dataset:
    """Rows with their ids, inputs, targets, the columns that the split and the partition follow, and a hash of each row's
    inputs."""

    key: str
    origin: str
    fingerprint: str
    schema: Schema
    ids: NDArray[np.str_]
    content: NDArray[np.uint64]
    inputs: Arrays
    targets: Arrays
    split_column: NDArray[Any] | None
    group: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def known(self, target: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some rows that have a target."""
        return rows[self.schema.targets[target].known(np.asarray(self.targets[target])[rows])]


def prepare(data: Data, targets: Mapping[str, Target], store: Store, group: str | None = None) -> tuple[Dataset, bool]:
    """Read, check and store the data set, or find it stored already (the second value says so).

    Args:
        group: the column that a partition goes by; it may be an input too.

    Raises:
        RecipeError: the source or its settings are unknown.
        DataError: names the file, and the row or column that is wrong, or says that the data are not those of the fingerprint.
    """
    source = complete(data.source, SOURCES, "data.source")
    columns = {name: target.columns or [target.column or name] for name, target in targets.items()}
    wanted = {
        name: target.model_dump(include={"kind", "column", "columns", "classes", "levels", "missing"})
        for name, target in targets.items()
    }
    key = content_key(
        origin=origin_key(source),
        data=data.model_dump(mode="json", exclude={"source", "split", "fingerprint"}),
        split_column=data.split.column,
        group=group,
        targets=wanted,
        code=code_version("data"),
    )

    def build(folder: Path) -> None:
        raw: Raw = SOURCES[source.name](**source.settings)
        dataset = _check(raw, data, targets, columns, group)
        _expect(data.fingerprint, dataset)
        _save(dataset, folder)

    place, reused = store.make("data", key, build)
    dataset = read(place)
    _expect(data.fingerprint, dataset)
    return dataset, reused


def _expect(fingerprint: str | None, dataset: Dataset) -> None:
    """Refuse other data than those that the recipe means."""
    if fingerprint not in (None, dataset.fingerprint):
        text = f"{dataset.origin}: the data have changed or are damaged, for their fingerprint is {dataset.fingerprint}"
        raise DataError(f"{text} and not {fingerprint}; put the old ones back, or mend data.fingerprint.")


def read(folder: Path) -> Dataset:
    """A stored data set, its arrays memory-mapped."""
    meta = read_json(folder / "dataset.json")

    def arrays(prefix: str) -> Arrays:
        return {f.stem.removeprefix(prefix): np.load(f, mmap_mode="r") for f in sorted(folder.glob(f"{prefix}*.npy"))}

    def column(name: str) -> NDArray[Any] | None:
        return np.load(folder / f"{name}.npy") if (folder / f"{name}.npy").exists() else None

    return Dataset(
        key=folder.name,
        origin=meta["origin"],
        fingerprint=meta["fingerprint"],
        schema=Schema.model_validate(meta["schema"]),
        ids=np.load(folder / "ids.npy"),
        content=np.load(folder / "content.npy"),
        inputs=arrays("input-"),
        targets=arrays("target-"),
        split_column=column("split_column"),
        group=column("group"),
    )


def _save(dataset: Dataset, folder: Path) -> None:
    np.save(folder / "ids.npy", dataset.ids)
    np.save(folder / "content.npy", dataset.content)
    for name, array in dataset.inputs.items():
        np.save(folder / f"input-{name}.npy", array)
    for name, array in dataset.targets.items():
        np.save(folder / f"target-{name}.npy", array)
    for name, column in (("split_column", dataset.split_column), ("group", dataset.group)):
        if column is not None:
            np.save(folder / f"{name}.npy", column)
    meta = {"origin": dataset.origin, "fingerprint": dataset.fingerprint, "schema": dataset.schema}
    write_json(folder / "dataset.json", meta)


def _check(raw: Raw, data: Data, targets: Mapping[str, Target], columns: Mapping[str, list[str]], group: str | None) -> Dataset:
    frame, where = raw.frame, raw.origin
    if not len(frame):
        raise DataError(f"{where}: there are no rows.")
    for name in data.categorical:
        if data.inputs is not None and name not in data.inputs:
            raise DataError(f"{where}: data.categorical names {name!r}, which is not among data.inputs; add it there too.")
    taken = {column for its in columns.values() for column in its}
    needed = [*taken, *(c for c in (data.id, data.split.column, group) if c), *(data.inputs or []), *data.categorical]
    for name in needed:
        if name not in frame.columns:
            raise DataError(f"{where}: there is no column {name!r}; the columns are {', '.join(map(str, frame.columns))}.")
    coded = {name: encode(frame[columns[name]], target, where) for name, target in targets.items()}
    schema, inputs = _inputs(raw, data, taken, {name: schema for name, (schema, _) in coded.items()})
    values = {name: array for name, (_, array) in coded.items()}
    ids = _ids(frame, data.id, where)
    column = _split_column(frame, data, where)
    groups = None if group is None else as_words(frame[group]).fillna("").to_numpy(str)
    content = content_hash(schema, inputs)
    parts = [ids, content, *values.values(), *(extra for extra in (column, groups) if extra is not None)]
    return Dataset(
        key="",
        origin=where,
        fingerprint=content_key(schema=schema, arrays=[np.asarray(p) for p in parts]),
        schema=schema,
        ids=ids,
        content=content,
        inputs=inputs,
        targets=values,
        split_column=column,
        group=groups,
    )


def _inputs(raw: Raw, data: Data, taken: set[str], targets: dict[str, TargetSchema]) -> tuple[Schema, Arrays]:
    frame, where = raw.frame, raw.origin
    reserved = taken | {c for c in (data.id, data.split.column) if c}
    if raw.image is not None:
        if data.inputs or data.categorical:
            raise DataError(f"{where}: the inputs are pictures; remove data.inputs and data.categorical.")
        whole = raw.image.dtype == np.uint8 or (
            np.issubdtype(raw.image.dtype, np.integer) and raw.image.min() >= 0 and raw.image.max() <= 255
        )
        shape = raw.image.shape
        image = (shape[1], shape[2], shape[3])
        schema = Schema(image=image, image_dtype="uint8" if whole else "float32", targets=targets)
        return schema, schema.encode(raw.image, where)
    for name in [str(c) for c in frame.columns if c not in reserved] if data.inputs is None else data.inputs:
        if pd.api.types.is_datetime64_any_dtype(frame[name]) or pd.api.types.is_timedelta64_dtype(frame[name]):
            raise DataError(f"{where}: the column {name!r} holds times, which are no input; leave it out by data.inputs.")
    names = data.inputs or [str(c) for c in frame.columns if c not in reserved]
    for name in names:
        if name in reserved:
            raise DataError(f"{where}: the column {name!r} is a target, the id or the split's column; it can't be an input too.")
    if not names:
        raise DataError(f"{where}: no column is left to be an input.")
    categorical = [n for n in names if n in data.categorical or not _is_number(frame[n])]
    numeric = [n for n in names if n not in categorical]
    for name in categorical:
        words = frame[name].nunique()
        if name not in data.categorical and words > max(50, len(frame) / 2):
            text = f"the column {name!r} holds {words} different words in {len(frame)} rows"
            raise DataError(f"{where}: {text}; leave it out by data.inputs, or name it in data.categorical.")
    vocabulary = {n: sorted(as_words(frame[n]).dropna().unique().tolist()) for n in categorical}
    schema = Schema(numeric=numeric, categorical=vocabulary, targets=targets)
    if data.missing == "refuse":
        for name in names:
            if (missing := frame[name].isna().to_numpy()).any():
                row = int(missing.argmax())
                raise DataError(f"{where}: column {name!r}, row {row}: the value is missing, and data.missing is 'refuse'.")
    return schema, schema.encode(frame, where)


def _is_number(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _ids(frame: pd.DataFrame, column: str | None, where: str) -> NDArray[np.str_]:
    if column is None:
        return np.arange(len(frame)).astype(str)
    if frame[column].isna().any():
        raise DataError(f"{where}: id column {column!r}, row {int(frame[column].isna().to_numpy().argmax())}: the id is missing.")
    ids = as_words(frame[column])
    if (twice := ids.duplicated().to_numpy()).any():
        row = int(twice.argmax())
        raise DataError(f"{where}: id column {column!r}, row {row}: the id {ids.iloc[row]!r} stands there a second time.")
    return ids.to_numpy(str)


def _split_column(frame: pd.DataFrame, data: Data, where: str) -> NDArray[Any] | None:
    split = data.split
    if split.column is None:
        return None
    column = frame[split.column]
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(f"{where}: split column {split.column!r}, row {row}: the value is missing.")
    if split.rule != "time":
        return as_words(column).to_numpy(str)
    if _is_number(column):
        return column.to_numpy(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pandas says that it tries each value by itself, which is what we want
        times = pd.to_datetime(column, utc=True, errors="coerce")
    if (lost := times.isna().to_numpy()).any():
        row = int(lost.argmax())
        raise DataError(f"{where}: split column {split.column!r}, row {row}: {plain(column.iloc[row])!r} is not a time.")
    return times.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)


def content_hash(schema: Schema, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    """A 64-bit hash of each row's inputs (N,), the same whatever other rows there are.

    Categories count by their word and not by their code, since codes shift as new words appear. Rows are taken a few at a time,
    so that pictures may be mapped from a file and larger than the memory.
    """
    words = [_word_hashes(vocabulary) for vocabulary in schema.categorical.values()]
    rows = len(next(iter(inputs.values())))
    step = max(1, HASHED // max(1, sum(array[:1].size for array in inputs.values())))
    digests = b"".join(
        hashlib.blake2b(row, digest_size=8).digest()
        for start in range(0, rows, step)
        for row in _row_bytes({name: array[start : start + step] for name, array in inputs.items()}, words)
    )
    return np.frombuffer(digests, np.uint64).copy()


def _row_bytes(inputs: Mapping[str, NDArray[Any]], words: list[NDArray[np.uint64]]) -> list[bytes]:
    """What is hashed of each of some rows."""
    columns: list[NDArray[Any]] = []
    for name, array in sorted(inputs.items()):
        if name == "categorical":
            columns += [words[j][array[:, j]][:, None].view(np.uint8) for j in range(len(words))]
        else:
            flat = array.reshape(len(array), -1).astype(np.float64 if name == "numeric" else np.float32)
            flat[flat == 0] = 0  # -0.0 equals 0.0
            flat[np.isnan(flat)] = np.nan  # one bit pattern for NaN
            columns.append(flat.view(np.uint8))
    return [row.tobytes() for row in np.concatenate(columns, axis=1)]


def _word_hashes(vocabulary: list[str]) -> NDArray[np.uint64]:
    return np.array([_word_hash("unknown"), _word_hash("missing"), *(_word_hash("=" + word) for word in vocabulary)])


def _word_hash(word: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little"))
