"""The recipe's section ``registry``: where a version goes, and on what conditions it becomes the champion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Self

from pydantic import Field, FiniteFloat, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from fuseline.component import Part
from fuseline.terms import Name

LATENCY, SIZE = "latency_ms", "size_mib"
"""What is measured of a package as a whole: milliseconds for the answer to one row, and MiB on the disk."""

Value = StrictBool | StrictInt | StrictFloat | StrictStr


class TargetGate(Part):
    """What the gate asks for on one target, where that is not what it asks for on all; ``compared: false`` leaves it out."""

    metric: str | None = None
    min_gain: FiniteFloat | None = None
    compared: bool = True


class Asked(NamedTuple):
    """Of a target the metric that is compared, if one is named, and the gain that must be exceeded."""

    metric: str | None
    min_gain: float


class Gate(Part):
    """What a challenger must gain over the champion on the same test rows.

    Attributes:
        metric: a metric of single rows; that of the target's kind in :data:`fuseline.promotion.scores.DEFAULT` if none is named.
        min_gain: the lower bound of the paired gain, in the metric's unit, must be above this; below 0 it says by how much a
            challenger may be worse.
        level: α: of endless challengers that are no better, one is promoted with at most this probability.
        targets: what is different for some targets. A challenger must pass on all that are compared.
    """

    metric: str | None = None
    min_gain: FiniteFloat = 0.0
    level: float = Field(0.07, gt=0, lt=0.5)
    targets: dict[Name, TargetGate] = {}

    def asked(self, target: str) -> Asked | None:
        """What is asked for on a target; None if it is not compared."""
        own = self.targets.get(target, TargetGate())
        if not own.compared:
            return None
        return Asked(own.metric or self.metric, self.min_gain if own.min_gain is None else own.min_gain)


class Guard(Part):
    """A floor (``min``) or a ceiling (``max``) that every champion must keep, or both.

    Attributes:
        metric: of the target, ``precision`` or ``recall`` of a class, or of the package ``latency_ms`` or ``size_mib``.
        target: may be left out where there is only one.
        of_class: on the test rows of this class alone.
        where: on the test rows that have this value in this input column.
    """

    metric: str
    target: Name | None = None
    of_class: Value | None = None
    where: dict[str, Value] | None = Field(None, min_length=1, max_length=1)
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @property
    def is_of_package(self) -> bool:
        return self.metric in (LATENCY, SIZE)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"a guard of {self.metric!r} needs a 'min', a 'max' or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"'min' {self.min:g} is above 'max' {self.max:g}, so that nothing could pass")
        if self.is_of_package and (self.target is not None or self.of_class is not None or self.where is not None):
            raise ValueError(f"{self.metric!r} is of the package as a whole; remove 'target', 'of_class' and 'where'")
        return self


class Registry(Part):
    """Where the package is registered, and how a version becomes the champion.

    Attributes:
        floors: per target and metric what every champion must reach: a guard in short.
        promote: whether a training promotes by itself what passes, or leaves that to ``fuseline promote``.
    """

    name: Name | None = None
    floors: dict[str, dict[str, FiniteFloat]] = {}
    promote: Literal["auto", "manual"] = "auto"
    gate: Gate = Gate()
    guards: list[Guard] = []

    def named_targets(self) -> Iterator[tuple[str, str]]:
        """The targets that are named, each with the field that does so."""
        yield from (("floors", target) for target in self.floors)
        yield from (("gate.targets", target) for target in self.gate.targets)
        yield from ((f"guards.{i}.target", guard.target) for i, guard in enumerate(self.guards) if guard.target is not None)
