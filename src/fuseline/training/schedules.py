"""Schedules: functions ``(step, steps, *, settings) → factor`` of the optimizer's rate, for ``step`` from 0 to ``steps``.

A setting ``warm_up`` is the fraction of the steps in which the rate rises in a straight line (Goyal et al. 2017, section 2.2);
what the schedule does otherwise, it does in the steps that are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import optim

WarmUp = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def constant(step: float, steps: float, *, warm_up: WarmUp = 0.0) -> float:
    """The optimizer's rate throughout.

    >>> constant(0, 100), constant(0, 100, warm_up=0.1), constant(10, 100, warm_up=0.1)
    (1.0, 0.1, 1.0)
    """
    return _line(step, warm_up * steps)


def cosine(step: float, steps: float, *, warm_up: WarmUp = 0.0) -> float:
    """From the optimizer's rate down to 0 along half a cosine (Loshchilov and Hutter 2017, equation 5).

    >>> round(cosine(50, 100), 6), cosine(4, 100, warm_up=0.1), round(cosine(55, 100, warm_up=0.1), 6)
    (0.5, 0.5, 0.5)
    """
    up = warm_up * steps
    return _line(step, up) if step < up else _half_cosine(step - up, steps - up)


def one_cycle(step: float, steps: float, *, warm_up: Fraction = 0.3) -> float:
    """Up from a 25th of the optimizer's rate along a cosine, then down to 0 (Smith and Topin 2018).

    >>> one_cycle(30, 100), one_cycle(100, 100)
    (1.0, 0.0)
    """
    up = warm_up * steps
    if step < up:
        return 1 - 0.96 * _half_cosine(step, up)
    return _half_cosine(step - up, steps - up)


def steps_down(
    step: float,
    steps: float,
    *,
    at: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.5, 0.75),
    factor: Fraction = 0.1,
    warm_up: WarmUp = 0.0,
) -> float:
    """Multiplied by ``factor`` at each fraction ``at`` of the training (He et al. 2016, section 4.2).

    >>> [round(steps_down(step, 100), 6) for step in (0, 49, 50, 75)]
    [1.0, 1.0, 0.1, 0.01]
    """
    passed = sum(step / steps >= fraction for fraction in at)  # 55 / 100 is 0.55, but 0.55 * 100 is more than 55
    return float(factor**passed * _line(step, warm_up * steps))


def cyclic(step: float, steps: float, *, cycles: Annotated[int, Field(ge=1, le=1000)] = 5) -> float:
    """A cosine in each of ``cycles`` cycles, with the full rate at the start of each (Loshchilov and Hutter 2017).

    As Huang et al. 2017, equation 2: a cycle has ⌈steps / cycles⌉ steps, so the last is shorter where that is not exact.

    >>> [round(cyclic(step, 100, cycles=4), 6) for step in (0, 12.5, 24, 25)]
    [1.0, 0.5, 0.003943, 1.0]
    """
    length = math.ceil(steps / cycles)
    return _half_cosine(step % length, length)


def _line(step: float, up: float) -> float:
    """Up to 1 in ``up`` steps. The first step has a rate already: at 0 it would teach nothing."""
    return min(1.0, (step + 1) / up) if up > 0 else 1.0


def _half_cosine(step: float, steps: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


SCHEDULES: dict[str, Callable[..., float]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "constant": constant,
    "step": steps_down,
    "cyclic": cyclic,
}


class Schedule:
    """Multiplies the rate of every parameter group by ``factor(step, steps)``, as torch's ``LambdaLR`` does, whose bookkeeping
    costs 40 µs a step: beside small networks that counts.

    Attributes:
        done: so many steps have been taken.
    """

    def __init__(self, optimizer: optim.Optimizer, factor: Callable[..., float], steps: int, /, **settings: Any) -> None:
        self._optimizer = optimizer
        self._factor: Callable[[int], float] = lambda step: factor(step, steps, **settings)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.go_to(0)

    def step(self) -> None:
        self.go_to(self.done + 1)

    def go_to(self, done: int) -> None:
        """The rates after so many steps."""
        self.done = done
        factor = self._factor(done)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
