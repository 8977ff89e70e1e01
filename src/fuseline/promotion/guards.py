"""Guards: absolute floors and ceilings, on all test rows of a target or on some, and on the package as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.component import unknown
from fuseline.conditions import LATENCY, SIZE, Guard, Registry, Value
from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.evaluation.intervals import independent_rows, interval, resamples, score
from fuseline.evaluation.metrics import LOWER_IS_BETTER, METRICS, Predicted
from fuseline.promotion.scores import PER_ROW
from fuseline.promotion.verdict import Check, Measured
from fuseline.seeding import EVALUATION, stream

OF_CLASS = ("precision", "recall")
"""Measures of one class against the rest."""

LEVEL = 0.95
"""Of the intervals that are shown of absolute measures; what must pass is the measure itself."""


@dataclass(frozen=True)
class Judged:
    """The N test rows of a target: what is true, what the challenger says, the units that they are resampled by, and their input
    columns as words by name (N,)."""

    schema: TargetSchema
    target: NDArray[Any]
    said: Predicted
    units: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.str_]]


def absolute(
    tested: Mapping[str, Judged], registry: Registry, package: Mapping[str, float], count: int, seed: int
) -> list[Check]:
    """A check for each floor and each guard, in the recipe's order."""
    checks = []
    for guard in guards(registry):
        if guard.is_of_package:
            checks.append(bounded(guard, guard.metric, Measured(package.get(guard.metric, math.nan))))
            continue
        target = guard.target if guard.target is not None else next(iter(tested))
        checks.append(bounded(guard, f"{target}: {titled(guard)}", measured(guard, tested[target], count, seed)))
    return checks


def guards(registry: Registry) -> Iterator[Guard]:
    """The floors, as guards, and the guards; the floor of a metric of which less is better is a ceiling."""
    for target, floors in registry.floors.items():
        for metric, bound in floors.items():
            side = "max" if metric in LOWER_IS_BETTER else "min"
            yield Guard.model_validate({"metric": metric, "target": target, side: bound})
    yield from registry.guards


def measured(guard: Guard, tested: Judged, count: int, seed: int) -> Measured:
    """What a guard is about, with its interval; NaN if it looks at no test row, or at one of which no number is said."""
    kept, metric = chosen(guard, tested), guard.metric
    if not kept.any() or not np.isfinite(tested.said.values[kept]).all():
        return Measured(math.nan)
    if metric in OF_CLASS and guard.of_class is not None:
        metric = "accuracy"
    said = Predicted(
        tested.said.values[kept], None if tested.said.variances is None else tested.said.variances[kept], tested.said.levels
    )
    units = tested.units[kept]
    weights = resamples(units, count, np.random.default_rng(stream(seed, EVALUATION)))
    scores = score(tested.schema.kind, tested.target[kept], said, weights, [metric], independent_rows(units))
    return Measured(*interval(scores, metric, LEVEL))


def chosen(guard: Guard, tested: Judged) -> NDArray[np.bool_]:
    """The test rows (N,) that a guard looks at. Precision is the accuracy on the rows that are said to be of a class."""
    kept = np.ones(len(tested.target), bool)
    if guard.of_class is not None:
        code = tested.schema.classes.index(guard.of_class)  # type: ignore[arg-type]
        kept &= (tested.said.values.argmax(1) if guard.metric == "precision" else tested.target) == code
    for column, value in (guard.where or {}).items():
        kept &= tested.columns[column] == word(value)
    return kept


def word(value: Value) -> str:
    """A value as the word that a column of it holds.

    >>> word(2.0), word(2), word("two")
    ('2', '2', 'two')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def bounded(guard: Guard, name: str, its: Measured) -> Check:
    """Whether a measure is inside its bounds; what is not a number never is."""
    known = math.isfinite(its.value)
    over, under = guard.min is not None and its.value < guard.min, guard.max is not None and its.value > guard.max
    sides = (("at least", guard.min), ("at most", guard.max))
    bound = " and ".join(f"{side} {limit:g}" for side, limit in sides if limit is not None)
    text = f"is {its.value:.4g}" if known else "can't be measured or is not a number"
    if known and math.isfinite(its.low):
        text += f" [{its.low:.3g}, {its.high:.3g}]"
    return Check.of(name, bound, its, known and not over and not under, f"{guard.metric} {text}; it must be {bound}")


def titled(guard: Guard) -> str:
    parts = [f"of class {guard.of_class}"] * (guard.of_class is not None)
    parts += [f"where {column} is {value}" for column, value in (guard.where or {}).items()]
    return " ".join([guard.metric, *parts])


def check_registry(registry: Registry, schema: Schema, judged: Mapping[str, list[str]]) -> None:
    """See that all that the recipe's section ``registry`` names is there.

    Args:
        judged: per target the metrics that its report has.

    Raises:
        RecipeError: names the field.
    """
    for target, floors in registry.floors.items():
        for metric in floors:
            _known(f"registry.floors.{target}", metric, judged[target])
    for target, its in schema.targets.items():
        asked = registry.gate.asked(target)
        if asked is not None and asked.metric is not None:
            own = registry.gate.targets.get(target)
            field = f"registry.gate.targets.{target}.metric" if own is not None and own.metric else "registry.gate.metric"
            _known(f"{field} for the target {target!r} of the kind {its.kind}", asked.metric, list(PER_ROW[its.kind]))
    for i, guard in enumerate(registry.guards):
        if not guard.is_of_package:
            _check_guard(f"registry.guards.{i}", guard, schema)


def _check_guard(field: str, guard: Guard, schema: Schema) -> None:
    its = schema.targets[guard.target if guard.target is not None else next(iter(schema.targets))]
    known = [*METRICS[its.kind], *(OF_CLASS if guard.of_class is not None else (LATENCY, SIZE))]
    _known(f"{field}.metric", guard.metric, known)
    if guard.of_class is not None:
        if not its.exclusive:
            raise RecipeError(f"{field}.of_class: the target is of the kind {its.kind}, which has no classes; remove it.")
        if guard.of_class not in its.classes:
            named = ", ".join(map(repr, its.classes))
            raise RecipeError(f"{field}.of_class: {guard.of_class!r} is not among the classes; choose from {named}.")
    for column in guard.where or {}:
        if column not in schema.columns:
            raise RecipeError(f"{field}.where: the input column {unknown(column, schema.columns)}")


def _known(field: str, metric: str, names: list[str]) -> None:
    if metric not in names:
        raise RecipeError(f"{field}: the metric {unknown(metric, names)}")
