"""What a package keeps of its test rows, so that later rows can be compared with them.

It lies inside the package and not beside it in MLflow, so that the manifest covers it, and who has the package can watch for
drift without the run that made it. Only counts lie there (:mod:`fuseline.evaluation.sketch`), each column's by itself: a sample
of rows would lay open whom the data are about to everybody who may use the model. What remains are up to 256 of a column's
values, as edges between its cells, which no row ties to those of another column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from fuseline.bank import Bank
from fuseline.data.schema import Arrays, Schema, TargetSchema, rows_of
from fuseline.errors import PackageError
from fuseline.evaluation.sketch import Numbers, Sketch, Words, numbers, words
from fuseline.fusion.fuse import FusedTarget
from fuseline.package.ensemble import Answer, answer_of
from fuseline.plan import Plan
from fuseline.store import content_key

FILE = "reference.safetensors"
PICTURES = 1024
"""So many pictures are looked at at once."""

Sketches = dict[str, dict[str, Sketch]]
"""By part (``inputs``, ``predictions``, ``disagreement``) and name."""


class Series(NamedTuple):
    """What is watched of N rows under one name: numbers (N,), or positions (N,) among ``words``."""

    name: str
    values: NDArray[Any]
    words: Sequence[str] | None = None


def reference_key(plan: Plan) -> str:
    """What the reference follows from, besides the ensemble itself."""
    return content_key(test=plan.dataset.content[plan.split.rows("test")])


def write_reference(plan: Plan, bank: Bank, fused: Sequence[FusedTarget], folder: Path) -> None:
    """Sketch the test rows' inputs and what the chosen fusions say of them, by the bank; no target is looked at."""
    rows = plan.split.rows("test")
    sketches: Sketches = {"inputs": {}, "predictions": {}, "disagreement": {}}
    for series in inputs_of(plan.dataset.schema, {name: _Rows(a, rows) for name, a in plan.dataset.inputs.items()}):
        sketches["inputs"][series.name] = _sketched(series)
    for part in fused:
        for kind, its in _said(plan, bank, part, rows).items():
            sketches[kind] |= {series.name: _sketched(series) for series in its}
    save(sketches, folder / FILE)


def inputs_of(schema: Schema, arrays: Mapping[str, Any]) -> Iterator[Series]:
    """The input columns of encoded rows one after the other; of pictures the mean and the spread of each channel's pixels."""
    for j, name in enumerate(schema.numeric):
        yield Series(name, arrays["numeric"][:, j])
    for j, (name, vocabulary) in enumerate(schema.categorical.items()):
        yield Series(name, arrays["categorical"][:, j], ["unknown", "missing", *vocabulary])
    if schema.image is not None:
        means, spreads = _channels(arrays["image"])
        for channel in range(schema.image[0]):
            yield Series(f"channel {channel} mean", means[:, channel])
            yield Series(f"channel {channel} spread", spreads[:, channel])


def said_of(target: str, task: TargetSchema, answer: Answer) -> dict[str, list[Series]]:
    """What is watched of an ensemble's answers for a target: the classes named and how surely, or the values; and the epistemic
    uncertainty, which is how far the members are apart."""
    values, _, epistemic = (part.numpy() for part in answer)
    if task.exclusive:
        classes = [str(label) for label in task.classes]
        said = [Series(f"{target}: class", values.argmax(1), classes), Series(f"{target}: confidence", values.max(1))]
    elif task.kind == "multilabel":
        yes = values > 0.5
        said = [Series(f"{target}: {label}", yes[:, j].astype(np.int64), ("no", "yes")) for j, label in enumerate(task.classes)]
    else:
        said = [Series(target, values[:, task.middle if task.levels else 0])]
    return {"predictions": said, "disagreement": [Series(target, epistemic)]}


def added(sketches: Sketches, part: str, series: Series) -> None:
    """Count further rows in a part's sketch."""
    sketches[part][series.name] = sketches[part][series.name].and_of(series.values)


def save(sketches: Sketches, file: Path) -> None:
    """Sketches as safetensors, with their names in the file's own metadata."""
    tensors: dict[str, NDArray[Any]] = {}
    listed: list[dict[str, Any]] = []
    for part, its in sketches.items():
        for name, sketch in its.items():
            place = str(len(listed))
            tensors[f"{place}/counts"] = sketch.counts
            rest: dict[str, Any] = {"part": part, "name": name}
            if isinstance(sketch, Words):
                rest["words"] = sketch.words
            else:
                tensors[f"{place}/edges"] = sketch.edges
                rest |= {"missing": sketch.missing, "about": sketch.about, "sums": sketch.sums}
            listed.append(rest)
    save_file(tensors, file, {"sketches": json.dumps(listed)})


def load(package: Path) -> Sketches:
    """The sketches of a package's test rows.

    Raises:
        PackageError: it has none.
    """
    file = package / FILE
    if not file.is_file():
        raise PackageError(
            f"{package}: there is no {FILE}, as in packages of earlier releases; run the recipe again for a new one."
        )
    sketches: Sketches = {"inputs": {}, "predictions": {}, "disagreement": {}}
    with safe_open(file, "numpy") as tensors:
        for place, rest in enumerate(json.loads(tensors.metadata()["sketches"])):
            counts = tensors.get_tensor(f"{place}/counts")
            if "words" in rest:
                sketch: Sketch = Words(tuple(rest["words"]), counts)
            else:
                edges, (first, second) = tensors.get_tensor(f"{place}/edges"), rest["sums"]
                sketch = Numbers(edges, counts, rest["missing"], rest["about"], (first, second))
            sketches[rest["part"]][rest["name"]] = sketch
    return sketches


def _sketched(series: Series) -> Sketch:
    return numbers(series.values) if series.words is None else words(series.words, series.values)


def _said(plan: Plan, bank: Bank, part: FusedTarget, rows: NDArray[np.int64]) -> dict[str, list[Series]]:
    """What is watched of a target's predictions on some rows, read block by block."""
    task, blocks = plan.dataset.schema.targets[part.target], []
    for _, outputs in bank.blocks(plan.dataset, part.target, rows, part.needs):
        blocks.append(said_of(part.target, task, answer_of(outputs, part.winner.combiner, part.winner.number)))
    return {
        kind: [
            first._replace(values=np.concatenate([block[kind][i].values for block in blocks]))
            for i, first in enumerate(blocks[0][kind])
        ]
        for kind in blocks[0]
    }


class _Rows:
    """Some rows of a mapped array, read where they are asked for."""

    def __init__(self, array: NDArray[Any], rows: NDArray[np.int64]) -> None:
        self.array, self.rows = array, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        some, *rest = key if isinstance(key, tuple) else (key,)
        return np.asarray(self.array[(self.rows[some], *rest)])


def _channels(pictures: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and the standard deviation of each picture's channels (N, C), from pictures (N, C, H, W)."""
    parts = []
    for start in range(0, max(len(pictures), 1), PICTURES):
        some = np.asarray(pictures[start : start + PICTURES], np.float64)
        parts.append((some.mean((2, 3)), some.std((2, 3))))
    return np.concatenate([mean for mean, _ in parts]), np.concatenate([spread for _, spread in parts])


def empty(sketches: Sketches) -> Sketches:
    """The same cells with nothing in them."""
    return {part: {name: sketch.empty() for name, sketch in its.items()} for part, its in sketches.items()}


def count(sketches: Sketches, schema: Schema, arrays: Arrays, answers: Mapping[str, Answer]) -> None:
    """Count encoded rows, and what the ensemble says of them, in sketches."""
    assert rows_of(arrays) > 0
    for series in inputs_of(schema, arrays):
        added(sketches, "inputs", series)
    for target, answer in answers.items():
        for part, its in said_of(target, schema.targets[target], answer).items():
            for series in its:
                added(sketches, part, series)
