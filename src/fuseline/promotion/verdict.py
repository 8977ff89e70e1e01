"""A verdict, and the checks that it follows from: each with its bound, what was measured, and a sentence.

What is here is read where nothing is computed, and loads nothing for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from fuseline.component import Part


class Measured(NamedTuple):
    """A number with its interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Contestant:
    """A version's name, as ``NAME/VERSION``, and its package, verified."""

    name: str
    package: Path


@dataclass(frozen=True)
class Earlier:
    """A challenger that was judged before against the same champion, and the sketch of the test rows it was judged on."""

    version: str
    sketch: Sequence[str]


class Check(Part):
    """One line of a verdict; ``bound`` is what was asked for, numbers that are not known are None."""

    name: str
    bound: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    passed: bool
    says: str

    @classmethod
    def of(cls, name: str, bound: str, measured: Measured, passed: bool, says: str) -> Self:
        value, low, high = (number if math.isfinite(number) else None for number in measured)
        return cls(name=name, bound=bound, value=value, low=low, high=high, passed=passed, says=says)


class Verdict(Part):
    """Whether a challenger may take the champion's place.

    Attributes:
        champion: None for a first version, which is judged by floors alone.
        attempt: k, for the k-th challenger of this champion on the same test rows.
        level: the error α / (k (k + 1)) of this one's lower bounds.
        sketch: of the test rows; see :func:`fuseline.promotion.rows.sketch`.
    """

    challenger: str
    champion: str | None
    passed: bool
    why: str
    attempt: int = 1
    level: float | None = None
    rows: int = 0
    sketch: list[str] = []
    checks: list[Check] = []

    def text(self) -> str:
        """The verdict line by line."""
        lines = [f"{'yes' if check.passed else 'NO '}  {check.name}: {check.says}" for check in self.checks]
        return "\n".join([*lines, f"{'promote' if self.passed else 'keep'}: {self.why}"])


def decided(challenger: str, champion: str | None, checks: Sequence[Check], **rest: object) -> Verdict:
    """The verdict that follows from all checks: each of them must pass.

    A challenger that must be better on every target needs no correction for their number: the intersection-union test (Berger
    1982) has the level of its parts.
    """
    failed = [check.name for check in checks if not check.passed]
    if not failed:
        why = f"{challenger} passes all {len(checks)} checks" if checks else f"{challenger} is held against nothing"
        why += "; it is the first champion" if champion is None else f" against {champion}"
    else:
        why = f"{challenger} does not pass {', '.join(failed)}"
    return Verdict.model_validate(
        {"challenger": challenger, "champion": champion, "passed": not failed, "why": f"{why}.", "checks": list(checks), **rest}
    )
