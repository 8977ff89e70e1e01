"""Optimizers and schedules: their bounds, their ends and their shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.optimizers import OPTIMIZERS, SCHEDULES, adam, adamw, constant, cosine, one_cycle, scheduler, sgd

STEPS = st.integers(1, 500)


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=STEPS, part=st.floats(0, 1))
def test_a_schedule_stays_between_zero_and_one(name: str, steps: int, part: float) -> None:
    assert 0 <= SCHEDULES[name](part * steps, steps) <= 1


@given(STEPS)
def test_the_ends_of_the_schedules(steps: int) -> None:
    assert constant(0, steps) == constant(steps, steps) == 1
    assert cosine(0, steps) == 1
    assert cosine(steps, steps) == pytest.approx(0, abs=1e-12)
    assert one_cycle(0, steps) == pytest.approx(1 / 25)
    assert one_cycle(steps, steps) == pytest.approx(0, abs=1e-12)


@given(STEPS)
def test_cosine_falls_all_the_way_and_is_symmetric(steps: int) -> None:
    factors = [cosine(step, steps) for step in range(steps + 1)]
    assert all(a > b for a, b in itertools.pairwise(factors))
    assert [1 - factor for factor in reversed(factors)] == pytest.approx(factors)


@given(st.floats(0.05, 0.95), st.integers(20, 500))
def test_one_cycle_rises_to_its_peak_and_falls(warm_up: float, steps: int) -> None:
    factors = np.array([one_cycle(step, steps, warm_up=warm_up) for step in range(steps + 1)])
    up = np.arange(steps + 1) <= warm_up * steps
    assert (np.diff(factors[up]) > 0).all()
    assert (np.diff(factors[~up]) < 0).all()
    assert one_cycle(warm_up * steps, steps, warm_up=warm_up) == pytest.approx(1)
    assert np.abs(np.diff(factors)).max() < 2 / (steps * min(warm_up, 1 - warm_up))  # no jumps: a cosine's slope is below 2


def test_one_cycle_is_that_of_torch() -> None:
    ours, theirs = (optim.SGD([nn.Parameter(torch.zeros(1))], 0.5) for _ in range(2))
    mine = scheduler(ours, one_cycle, 100, warm_up=0.3)
    torchs = optim.lr_scheduler.OneCycleLR(
        theirs, 0.5, total_steps=101, pct_start=31 / 101, final_div_factor=1e12, cycle_momentum=False
    )
    for _ in range(100):
        assert mine.get_last_lr() == pytest.approx(torchs.get_last_lr(), abs=1e-9)
        for thing in (ours, theirs, mine, torchs):
            thing.step()
    assert mine.get_last_lr() == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_finds_the_bottom_of_a_bowl(name: str) -> None:
    place = nn.Parameter(torch.tensor([3.0, -2.0]))
    settings = complete(Component(name=name, settings={"lr": 0.05, "weight_decay": 0.0}), OPTIMIZERS, "f").settings
    optimizer = OPTIMIZERS[name]([place], **settings)
    for _ in range(300):
        optimizer.zero_grad()
        ((place - 1) ** 2).sum().backward()
        optimizer.step()
    assert place.tolist() == pytest.approx([1, 1], abs=0.05)


def test_settings_reach_the_optimizers() -> None:
    weights = [nn.Parameter(torch.zeros(2))]
    for function, kind in ((sgd, optim.SGD), (adam, optim.Adam), (adamw, optim.AdamW)):
        optimizer = function(weights, lr=0.3, weight_decay=0.2)
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)


def test_sgd_without_momentum_is_plain() -> None:
    place = nn.Parameter(torch.tensor([2.0]))
    optimizer = sgd([place], lr=0.1, momentum=0.0, weight_decay=0.0)
    (place * 3).sum().backward()
    optimizer.step()
    assert place.item() == pytest.approx(2 - 0.1 * 3)


@pytest.mark.parametrize(
    ("family", "name", "settings"),
    [
        (OPTIMIZERS, "adamw", {"lr": 0}),
        (OPTIMIZERS, "adamw", {"lr": 11}),
        (OPTIMIZERS, "adam", {"weight_decay": -1}),
        (OPTIMIZERS, "sgd", {"momentum": 1}),
        (OPTIMIZERS, "adam", {"momentum": 0.9}),
        (SCHEDULES, "one_cycle", {"warm_up": 0}),
        (SCHEDULES, "one_cycle", {"warm_up": 1}),
        (SCHEDULES, "cosine", {"warm_up": 0.1}),
        (SCHEDULES, "constant", {"steps": 1}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], family: Any, name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), family, "members.0.x")
    assert f"members.0.x.{name}.{next(iter(settings))}" in sentence
