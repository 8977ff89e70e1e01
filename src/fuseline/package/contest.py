"""Champion and challenger on the same test rows, each as it serves: packages in, a verdict out.

It loads torch, and is called in a process of its own. Shapes: N test rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuseline.conditions import LATENCY, SIZE, Registry
from fuseline.data.dataset import content_hash
from fuseline.data.schema import Schema, TargetSchema, as_words
from fuseline.errors import DataError, first_line
from fuseline.evaluation.metrics import Predicted
from fuseline.models.network import some_rows
from fuseline.package.ensemble import Answer, Ensemble
from fuseline.package.files import FITTED, load_description, load_ensemble
from fuseline.package.predict import answer
from fuseline.plan import Plan
from fuseline.promotion.gate import Champion, aligned, judge
from fuseline.promotion.guards import Judged
from fuseline.promotion.rows import among, id_hashes, sketch
from fuseline.promotion.verdict import Contestant, Earlier

AT_ONCE = 1 << 14
"""So many test rows are read at a time."""

SHOWN = 256
"""What the challenger says of so many test rows is kept, and compared when it has become the champion."""

WARM, TIMED = 3, 15
"""Answers to one row before, and while, the latency is measured."""

Rows = NDArray[np.int64]


def hold(
    plan: Path, challenger: Contestant, champion: Contestant | None, earlier: Sequence[Earlier], said: Path
) -> dict[str, Any]:
    """The verdict, as a tree for JSON; see :func:`fuseline.promotion.gate.judge`.

    Args:
        plan: the folder of the challenger's plan, which names the test rows, the gate and the guards.
        earlier: challengers that this champion has met before.
        said: a file for what the challenger says of the first test rows; see :func:`differs`.
    """
    its = Plan.open(plan)
    rows, registry = its.split.rows("test"), its.recipe.registry
    ensemble = _Loaded(challenger.package)
    answers, _ = _answers(its, rows, ensemble)
    _keep(answers, said)
    tested = dict(_tested(its, rows, answers, _where(registry, its, rows)))
    verdict = judge(
        challenger.name,
        {name: part for name, (part, _) in tested.items()},
        None if champion is None else _champion(its, rows, champion, {name: known for name, (_, known) in tested.items()}),
        registry,
        sketch=sketch(its.dataset.content[rows]),
        earlier=earlier,
        package=_of_package(registry, its, rows, ensemble),
        resamples=its.recipe.evaluation.resamples,
        seed=its.recipe.seed,
    )
    return verdict.model_dump(mode="json")


def differs(package: Path, plan: Path | None, said: Path | None) -> str | None:
    """In what a package, loaded anew, does not say what it said when it was judged; None if it does.

    Without a plan it must answer rows without content by finite numbers.
    """
    ensemble = _Loaded(package)
    if plan is None or said is None or not said.exists():
        rows = {name: tensor.numpy() for name, tensor in some_rows(ensemble.schema, 2, "cpu").items()}
        answers = ensemble.answers(rows)
        lost = [name for name, its in answers.items() if not bool(torch.isfinite(its.values).all())]
        return f"what it says of {lost[0]!r} is not a number" if lost else None
    its = Plan.open(plan)
    answers, _ = _answers(its, its.split.rows("test")[:SHOWN], ensemble)
    before = np.load(said, allow_pickle=False)
    for name in before.files:
        if name not in answers or not np.allclose(before[name], answers[name].values.numpy(), rtol=1e-5, atol=1e-6):
            return f"it says something else of {name!r} than when it was judged"
    return None


class _Loaded:
    """A package in memory."""

    def __init__(self, package: Path) -> None:
        self.package, self.description = package, load_description(package)
        self.ensemble: Ensemble = load_ensemble(package)
        self.schema: Schema = self.ensemble.schema

    def answers(self, arrays: dict[str, NDArray[Any]]) -> dict[str, Answer]:
        return answer(self.ensemble, arrays, self.description.batch, self.description.threads)


def _raw(plan: Plan, rows: Rows) -> Iterator[Any]:
    """The inputs of some rows as a package takes them, a table or pictures, some at a time."""
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        yield plan.dataset.schema.decode({name: np.asarray(array[some]) for name, array in plan.dataset.inputs.items()})


def _answers(plan: Plan, rows: Rows, its: _Loaded) -> tuple[dict[str, Answer], NDArray[np.uint64]]:
    """What an ensemble says of rows, and the rows' content as its own columns show it (N,)."""
    parts, contents = [], []
    for raw in _raw(plan, rows):
        arrays = its.schema.encode(raw, "the test rows")
        parts.append(its.answers(arrays))
        contents.append(content_hash(its.schema, arrays))
    joined = {name: Answer(*map(torch.cat, zip(*(part[name] for part in parts), strict=True))) for name in parts[0]}
    return joined, np.concatenate(contents)


def _tested(
    plan: Plan, rows: Rows, answers: Mapping[str, Answer], columns: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, tuple[Judged, NDArray[np.bool_]]]]:
    """Per target its test rows, and which of the rows those are (N,)."""
    units = plan.units[rows]
    for name, schema in plan.dataset.schema.targets.items():
        target = np.asarray(plan.dataset.targets[name])[rows]
        known = schema.known(target)
        said = _predicted(schema, answers[name], known)
        own = {column: values[known] for column, values in columns.items()}
        yield name, (Judged(schema, target[known], said, units[known], own), known)


def _predicted(schema: TargetSchema, its: Answer, known: NDArray[np.bool_]) -> Predicted:
    """A regression's total uncertainty is its variance."""
    variances = its.uncertainty.numpy()[known, None] if schema.kind == "regression" else None
    return Predicted(its.values.numpy()[known], variances, np.array(schema.levels) if schema.levels else None)


def _where(registry: Registry, plan: Plan, rows: Rows) -> dict[str, NDArray[np.str_]]:
    """The input columns that guards look at, as words (N,); nothing for one that is missing."""
    names = {column for guard in registry.guards for column in guard.where or {}}
    tables = list(_raw(plan, rows)) if names else []
    return {name: np.concatenate([as_words(table[name]).fillna("").to_numpy(str) for table in tables]) for name in names}


def _champion(plan: Plan, rows: Rows, its: Contestant, known: Mapping[str, NDArray[np.bool_]]) -> Champion:
    """What the champion says of the test rows, as far as the two can be compared."""
    try:
        champion = _Loaded(its.package)
        answers, content = _answers(plan, rows, champion)
    except DataError as error:
        return Champion(its.name, {}, {"": f"{its.name} can't answer these test rows ({first_line(error)})"})
    if (why := _not_new(plan, rows, its, content)) is not None:
        return Champion(its.name, {}, {"": why})
    said, refused = {}, {}
    for name, schema in plan.dataset.schema.targets.items():
        own = champion.schema.targets.get(name)
        if own is None or own.kind != schema.kind:
            refused[name] = f"{its.name} does not predict {name!r} as a target of the kind {schema.kind}"
        elif own.levels != schema.levels or (schema.kind in ("ordinal", "multilabel") and own.classes != schema.classes):
            refused[name] = f"{its.name} knows other classes or levels of {name!r}, so that no score of one is one of the other"
        else:
            said[name] = _predicted(schema, answers[name], known[name])
            if schema.kind == "classification":
                said[name] = said[name]._replace(values=aligned(np.asarray(said[name].values), own, schema))
    return Champion(its.name, said, refused)


def _not_new(plan: Plan, rows: Rows, its: Contestant, content: NDArray[np.uint64]) -> str | None:
    """Why the test rows are not new to a champion."""
    file = its.package / FITTED
    if not file.is_file():
        return f"the package of {its.name} does not say which rows it was fitted on, so that nobody knows what is new to it"
    hashes = [content, *([id_hashes(plan.dataset.ids[rows])] if plan.recipe.data.id is not None else [])]
    count = int(among(np.load(file, allow_pickle=False), *hashes).sum())
    if not count:
        return None
    text = f"{its.name} was fitted on {count} of the {len(rows)} test rows, so that its scores there say nothing"
    return f"{text}; judge both by a split that keeps those rows from training (data.split), or use --force"


def _of_package(registry: Registry, plan: Plan, rows: Rows, its: _Loaded) -> dict[str, float]:
    """What guards ask for of the package as a whole."""
    wanted = {guard.metric for guard in registry.guards}
    found = {}
    if SIZE in wanted:
        found[SIZE] = sum(path.stat().st_size for path in its.package.rglob("*") if path.is_file()) / 2**20
    if LATENCY in wanted:
        [raw] = _raw(plan, rows[:1])
        seconds = []
        for _ in range(WARM + TIMED):
            started = time.perf_counter()
            its.answers(its.schema.encode(raw))
            seconds.append(time.perf_counter() - started)
        found[LATENCY] = 1000 * float(np.median(seconds[WARM:]))
    return found


def _keep(answers: Mapping[str, Answer], said: Path) -> None:
    with said.open("wb") as file:
        kept = {name: values.numpy()[:SHOWN] for name, (values, _, _) in answers.items()}
        np.savez(file, allow_pickle=False, **kept)
