"""Optimizers and schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import Field
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Parameters = Iterable[nn.Parameter]


def sgd(
    parameters: Parameters, *, lr: Rate = 0.05, momentum: Momentum = 0.9, weight_decay: Decay = 5e-4, nesterov: bool = True
) -> optim.Optimizer:
    """Stochastic gradient descent with (Nesterov) momentum."""
    nesterov = nesterov and momentum > 0
    return optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)


def adam(parameters: Parameters, *, lr: Rate = 1e-3, weight_decay: Decay = 0.0) -> optim.Optimizer:
    """Adam (Kingma and Ba 2015)."""
    return optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)


def adamw(parameters: Parameters, *, lr: Rate = 3e-3, weight_decay: Decay = 0.01) -> optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {"adamw": adamw, "adam": adam, "sgd": sgd}


def constant(step: float, steps: float) -> float:
    """The optimizer's rate throughout."""
    return 1.0


def cosine(step: float, steps: float) -> float:
    """From the optimizer's rate down to 0 along half a cosine (Loshchilov and Hutter 2017).

    >>> round(cosine(50, 100), 6)
    0.5
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def one_cycle(step: float, steps: float, *, warm_up: Annotated[float, Field(gt=0, lt=1)] = 0.3) -> float:
    """Up from a 25th of the optimizer's rate along a cosine, then down to 0 (Smith and Topin 2018).

    >>> one_cycle(30, 100), one_cycle(100, 100)
    (1.0, 0.0)
    """
    up = warm_up * steps
    if step < up:
        return 1 - 0.96 * cosine(step, up)
    return cosine(step - up, steps - up)


SCHEDULES: dict[str, Callable[..., float]] = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}


def scheduler(optimizer: optim.Optimizer, factor: Callable[..., float], steps: int, **settings: float) -> LambdaLR:
    """A scheduler that multiplies the rate by ``factor(step, steps)`` at every step."""
    return LambdaLR(optimizer, lambda step: factor(step, steps, **settings))
