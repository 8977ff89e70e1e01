"""A packaged ensemble on new rows: its metrics where the rows have targets, compared with those on its test rows; drift and the
members' disagreement in any case. Rows are read part by part, and what is said of them lies in files: memory does not grow with
their number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuseline.data.schema import TargetSchema
from fuseline.errors import DataError
from fuseline.evaluation import drift, metrics
from fuseline.evaluation.intervals import independent_rows, interval, resamples, score
from fuseline.evaluation.metrics import METRICS, Predicted
from fuseline.evaluation.regression import change, read
from fuseline.evaluation.report import GAINS
from fuseline.evaluation.room import Room, room_in
from fuseline.package.collected import Collected, first_of
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.predict import answer
from fuseline.package.readers import Part
from fuseline.package.reference import Sketches, count, empty, load
from fuseline.recipe import Drift, Recipe
from fuseline.seeding import EVALUATION, stream

Tree = dict[str, Any]


def assess(
    package: Path, recipe: Recipe, parts: Iterable[Part], where: str, then: Mapping[str, Mapping[str, Any]], folder: Path
) -> Tree:
    """Judge a packaged ensemble on new rows.

    Args:
        recipe: that of the ensemble: which columns hold the targets, how they are judged, and when they have drifted.
        parts: the rows.
        where: what they come from, for messages.
        then: per target the metrics on the ensemble's test rows, ``{name: {value, low, high}}``, as far as they are known.
        folder: where there is room for what is said of the rows, until this returns.

    Returns:
        ``rows`` that it was judged by; ``fitted``, those that were left out because it was fitted on them, and ``unread``, those
        that could not be read; ``targets``, of those that the rows have: ``metrics`` as ``{name: {now, then, change}}``, of classes ``confusion``, ``per_class`` and
        ``reliability``; ``worse``, the metrics that are, and ``alarm``, the main ones among them; ``drift`` with its ``tests``.

    Raises:
        DataError: names the row and the column that is wrong, or says that no row is left to judge by.
        PackageError: the package has no reference.
    """
    description, ensemble, reference = load_description(package), load_ensemble(package), load(package)
    schema, now = description.schema_, empty(reference)
    with room_in(folder) as room, tempfile.TemporaryDirectory(dir=folder) as place:
        seen = Collected(package, recipe, schema, where, Path(place))
        for part in parts:
            arrays = seen.fresh(schema.encode(part.rows, where, first_of(part)), part)
            if arrays is not None:
                answers = answer(ensemble, arrays, description.batch, description.threads)
                count(now, schema, arrays, answers)
                seen.add(answers)
        if not seen.rows:
            why = f"the ensemble was fitted on all {seen.left_out} of them" if seen.left_out else "there are none"
            raise DataError(f"{where}: no row is left to judge it by: {why}; give rows that it has not seen.")
        targets = {name: _target_report(name, seen, recipe, then.get(name, {}), room) for name in seen.labelled()}
        worse = [(name, metric) for name, part in targets.items() for metric, its in part["metrics"].items() if _is_worse(its)]
        return {
            "rows": seen.rows,
            "level": recipe.evaluation.level,
            "fitted": {"known": seen.is_known, "rows": seen.left_out, "first": seen.named},
            "unread": {"rows": seen.unread, "first": seen.why},
            "targets": targets,
            "worse": [f"{name}: {metric}" for name, metric in worse],
            "alarm": [f"{name}: {metric}" for name, metric in worse if metric in _main(schema.targets[name], targets[name])],
            "drift": _drift(reference, now, recipe.evaluation.drift),
        }


def _target_report(name: str, seen: Collected, recipe: Recipe, then: Mapping[str, Any], room: Room) -> Tree:
    """A target's metrics on the rows that have it, judged as the test rows were."""
    schema, every = seen.schema.targets[name], seen.targets[name].read()
    rows = np.flatnonzero(schema.known(every))
    target, said = every[rows], seen.said[name].read()[rows]
    variances = seen.total[name].read()[rows][:, None] if schema.kind == "regression" else None
    judged = Predicted(said, variances, np.array(schema.levels) if schema.levels else None)
    settings, names = recipe.evaluation, recipe.targets[name].metrics or list(METRICS[schema.kind])
    units = np.unique(seen.content.read()[rows], return_inverse=True)[1]
    weights = resamples(units, settings.resamples, np.random.default_rng(stream(recipe.seed, EVALUATION)), room)
    scores = score(schema.kind, target, judged, weights, names, independent_rows(units))
    table: Tree = {}
    for metric in names:
        now, before = interval(scores, metric, settings.level), read(then[metric]) if metric in then else None
        changed = None if before is None else change(metric, before, now)
        parts = (("now", now), ("then", before), ("change", changed))
        table[metric] = {part: None if its is None else its._asdict() for part, its in parts}
    report: Tree = {"kind": schema.kind, "classes": schema.classes, "rows": len(rows), "metrics": table}
    if schema.exclusive:
        report["confusion"] = metrics.confusion(target, said).tolist()
        report["per_class"] = metrics.per_class(target, said)
        report["reliability"] = metrics.reliability(target, said)
    return report


def _is_worse(score_: Mapping[str, Any]) -> bool:
    return score_["change"] is not None and bool(score_["change"]["worse"])


def _main(schema: TargetSchema, report: Tree) -> list[str]:
    """The metrics that give alarm: if each of ten did, many an evaluation would give a false one. Where the recipe doesn't have
    the main ones, all that it has."""
    return [name for name in GAINS[schema.kind] if name in report["metrics"]] or list(report["metrics"])


def _drift(then: Sketches, now: Sketches, rule: Drift) -> Tree:
    tests = drift.shifts(then, now, rule)
    return {
        "size": drift.largest(tests),
        "parts": {part: drift.largest([test for test in tests if test.part == part]) for part in then},
        "rule": rule.model_dump(mode="json"),
        "tests": [test._asdict() for test in tests],
    }
