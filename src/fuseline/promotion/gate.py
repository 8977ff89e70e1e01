"""The gate: a verdict of a challenger against the champion, from numbers alone.

Shapes: N test rows of a target, C classes or whatever the target's prediction has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.conditions import Registry
from fuseline.data.schema import TargetSchema
from fuseline.evaluation.metrics import Predicted
from fuseline.promotion.guards import Judged, absolute
from fuseline.promotion.paired import level_of, paired_gain
from fuseline.promotion.rows import share_rows
from fuseline.promotion.scores import DEFAULT, can_lose, row_gains
from fuseline.promotion.verdict import Check, Earlier, Measured, Verdict, decided


@dataclass(frozen=True)
class Champion:
    """The champion's name, and what it says of the same test rows of each target; ``refused`` says of some targets, or under ""
    of all, why it can't be compared."""

    name: str
    said: Mapping[str, Predicted]
    refused: Mapping[str, str]


def attempt_of(challenger: str, sketch: Sequence[str], earlier: Sequence[Earlier]) -> int:
    """The number k of a challenger among those of one champion on the same test rows, or on some of the same.

    Rows that come in anew each night are few beside those of the night before, so that sets which overlap count as one.

    >>> attempt_of("c", ["1", "2"], [Earlier("a", ["2"]), Earlier("b", ["3"]), Earlier("a", ["1"]), Earlier("c", ["1"])])
    2
    """
    others = {its.version for its in earlier if its.version != challenger and share_rows(its.sketch, sketch)}
    return 1 + len(others)


def judge(
    challenger: str,
    tested: Mapping[str, Judged],
    champion: Champion | None,
    registry: Registry,
    *,
    sketch: Sequence[str] = (),
    earlier: Sequence[Earlier] = (),
    package: Mapping[str, float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Verdict:
    """The verdict: of a first version by floors and guards, of others by their gain over the champion too.

    The gain is bounded from below, on one side: whether a challenger is much better or a little makes no difference to it.

    Args:
        tested: per target the test rows, what is true of them and what the challenger says.
        earlier: those that were judged before against this champion.
        package: what was measured of the challenger's package, by :data:`fuseline.conditions.LATENCY` and ``SIZE``.
        resamples, seed: of the intervals of absolute measures.
    """
    attempt = attempt_of(challenger, sketch, earlier)
    level = level_of(attempt, registry.gate.level)
    checks = [] if champion is None else _relative(tested, champion, registry, attempt, level)
    checks += absolute(tested, registry, package or {}, resamples, seed)
    rest = {"attempt": attempt, "level": level, "rows": max((len(its.target) for its in tested.values()), default=0)}
    return decided(challenger, None if champion is None else champion.name, checks, sketch=list(sketch), **rest)


def _relative(tested: Mapping[str, Judged], champion: Champion, registry: Registry, attempt: int, level: float) -> list[Check]:
    if "" in champion.refused:
        return [Check(name="comparable", bound="the same test rows", passed=False, says=champion.refused[""])]
    checks = []
    for name, its in tested.items():
        asked = registry.gate.asked(name)
        if asked is None:
            continue
        if name in champion.refused:
            checks.append(
                Check(name=f"{name}: comparable", bound="the same test rows", passed=False, says=champion.refused[name])
            )
            continue
        metric = asked.metric or DEFAULT[its.schema.kind]
        checks.append(gained(name, its, champion.said[name], metric, asked.min_gain, attempt, level))
    return checks


def gained(name: str, tested: Judged, champion: Predicted, metric: str, min_gain: float, attempt: int, level: float) -> Check:
    """Whether the lower bound of the paired gain is above what is asked for; a gain that is not a number never is."""
    gains = row_gains(tested.schema.kind, metric, tested.target, champion, tested.said)
    gain = paired_gain(gains.scores, gains.weights, tested.units, level, can_lose(metric))
    passed = math.isfinite(gain.low) and gain.low > min_gain
    wanted = f"gain > {min_gain:g}"
    if math.isfinite(gain.low):
        text = (
            f"the gain is {gain.value:.4g}, at least {gain.low:.4g} with an error of {level:.3g} (challenger {attempt} of this "
        )
        text += f"champion on these {len(tested.target)} test rows); it must be above {min_gain:g}"
    else:
        text = f"the gain is not a number or stands on a single row, and it must be above {min_gain:g}"
    return Check.of(f"{name}: gain of {metric}", wanted, Measured(*gain), passed, text)


def aligned(values: NDArray[Any], own: TargetSchema, common: TargetSchema) -> NDArray[Any]:
    """Probabilities (N, C) over a model's own classes as those over the classes of another's; what the model does not know it
    gives no probability to.

    >>> one, other = (TargetSchema(kind="classification", classes=c) for c in (["b", "a"], ["a", "b", "c"]))
    >>> aligned(np.array([[0.7, 0.3]]), one, other).tolist()
    [[0.3, 0.7, 0.0]]
    """
    place = {label: i for i, label in enumerate(own.classes)}
    columns = [values[:, place[label]] if label in place else np.zeros(len(values)) for label in common.classes]
    return np.stack(columns, axis=1)
