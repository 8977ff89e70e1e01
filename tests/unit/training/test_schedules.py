"""Schedules: their ends, their shape, and torch's own schedulers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim
from torch.optim import lr_scheduler

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.schedules import SCHEDULES, Schedule, constant, cosine, cyclic, one_cycle, steps_down

STEPS = st.integers(1, 500)
WARM = ["constant", "cosine", "step"]


def rates(name: str, steps: int, **settings: Any) -> list[float]:
    """The rates of all steps, as a recipe's schedule gives them to an optimizer of rate 1."""
    filled = complete(Component(name=name, settings=settings), SCHEDULES, "schedule").settings
    return followed(lambda optimizer: Schedule(optimizer, SCHEDULES[name], steps, **filled), steps)


def followed(make: Callable[[optim.Optimizer], Any], steps: int) -> list[float]:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    schedule, out = make(optimizer), []
    for _ in range(steps):
        out.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return out


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=STEPS, part=st.floats(0, 1))
def test_a_schedule_stays_between_zero_and_one(name: str, steps: int, part: float) -> None:
    assert 0 <= SCHEDULES[name](part * steps, steps) <= 1


@pytest.mark.parametrize("name", WARM)
@given(steps=STEPS, part=st.floats(0, 1), warm_up=st.floats(0, 0.99))
def test_with_warm_up_too(name: str, steps: int, part: float, warm_up: float) -> None:
    assert 0 <= SCHEDULES[name](part * steps, steps, warm_up=warm_up) <= 1


@given(STEPS)
def test_the_ends_of_the_schedules(steps: int) -> None:
    assert constant(0, steps) == constant(steps, steps) == 1
    assert cosine(0, steps) == cyclic(0, steps) == steps_down(0, steps) == 1
    assert cosine(steps, steps) == pytest.approx(0, abs=1e-12)
    assert one_cycle(0, steps) == pytest.approx(1 / 25)
    assert one_cycle(steps, steps) == pytest.approx(0, abs=1e-12)
    assert steps_down(steps, steps) == pytest.approx(0.01)


@given(STEPS, st.integers(0, 500))
def test_without_warm_up_cosine_is_the_formula_bit_by_bit(steps: int, step: int) -> None:
    step = min(step, steps)
    assert cosine(step, steps) == cosine(step, steps, warm_up=0.0) == 0.5 * (1 + math.cos(math.pi * step / steps))


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


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 199))
def test_a_cyclic_schedule_repeats_itself(steps: int, cycles: int, step: int) -> None:
    length = -(-steps // cycles)
    factors = [cyclic(k, steps, cycles=cycles) for k in (step, step + length)]
    assert factors[0] == factors[1]
    assert cyclic(step - step % length, steps, cycles=cycles) == 1


@given(st.integers(1, 60), st.integers(1, 12))
def test_a_cyclic_schedule_is_that_of_snapshot_ensembles(steps: int, cycles: int) -> None:
    """Huang et al. 2017, equation 2, with iterations from 1 on."""
    length = math.ceil(steps / cycles)
    expected = [1 / 2 * (math.cos(math.pi * ((t - 1) % length) / length) + 1) for t in range(1, steps + 1)]
    assert [cyclic(step, steps, cycles=cycles) for step in range(steps)] == pytest.approx(expected)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=4), st.floats(0.1, 0.9), st.integers(0, 99))
def test_each_fraction_lowers_the_rate_from_its_own_step_on(at: list[int], factor: float, step: int) -> None:
    """A fraction of whole hundredths falls on a step of 100, whatever rounding its product has."""
    expected = factor ** sum(step >= hundredths for hundredths in at)
    assert steps_down(step, 100, at=tuple(k / 100 for k in at), factor=factor) == pytest.approx(expected)


@pytest.mark.parametrize("name", WARM)
def test_warm_up_is_a_straight_line_and_then_the_schedule(name: str) -> None:
    factors = rates(name, 100, warm_up=0.2)
    assert factors[:20] == pytest.approx(np.arange(1, 21) / 20)
    rest = {"constant": rates("constant", 80), "cosine": rates("cosine", 80), "step": rates("step", 100)[20:]}
    assert factors[20:] == pytest.approx(rest[name])


def test_warm_up_shorter_than_a_step_does_nothing() -> None:
    assert rates("constant", 10, warm_up=0.05) == [1.0] * 10


# ------------------------------------------------------------------------------------------------------------ as in torch


def test_one_cycle_is_that_of_torch() -> None:
    ours, theirs = (optim.SGD([nn.Parameter(torch.zeros(1))], 0.5) for _ in range(2))
    mine = Schedule(ours, one_cycle, 100, warm_up=0.3)
    torchs = lr_scheduler.OneCycleLR(
        theirs, 0.5, total_steps=101, pct_start=31 / 101, final_div_factor=1e12, cycle_momentum=False
    )
    for _ in range(100):
        assert [ours.param_groups[0]["lr"]] == pytest.approx(torchs.get_last_lr(), abs=1e-9)
        for thing in (ours, theirs, mine, torchs):
            thing.step()
    assert [ours.param_groups[0]["lr"]] == pytest.approx([0.0], abs=1e-12)


def test_cosine_is_that_of_torch() -> None:
    assert rates("cosine", 70) == pytest.approx(followed(lambda o: lr_scheduler.CosineAnnealingLR(o, 70), 70), abs=1e-9)


def test_steps_down_are_those_of_torch() -> None:
    torchs = followed(lambda o: lr_scheduler.MultiStepLR(o, [30, 55, 90], gamma=0.3), 100)
    assert rates("step", 100, at=[0.3, 0.55, 0.9], factor=0.3) == pytest.approx(torchs)


@pytest.mark.parametrize(("steps", "cycles"), [(60, 4), (61, 4), (7, 1)])
def test_cyclic_is_torchs_cosine_with_restarts(steps: int, cycles: int) -> None:
    torchs = followed(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, -(-steps // cycles)), steps)
    assert rates("cyclic", steps, cycles=cycles) == pytest.approx(torchs, abs=1e-9)


def test_warm_up_is_that_of_torch() -> None:
    torchs = followed(lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 15, total_iters=14), 60)
    assert rates("constant", 60, warm_up=0.25) == pytest.approx(torchs)


def test_every_group_keeps_its_own_rate() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
    optimizer = optim.SGD(groups)
    schedule = Schedule(optimizer, cosine, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("one_cycle", {"warm_up": 0}),
        ("one_cycle", {"warm_up": 1}),
        ("cosine", {"warm_up": 1}),
        ("cosine", {"warm_up": -0.1}),
        ("constant", {"steps": 1}),
        ("step", {"at": []}),
        ("step", {"at": [1.0]}),
        ("step", {"factor": 1}),
        ("cyclic", {"cycles": 0}),
        ("cyclic", {"warm_up": 0.1}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), SCHEDULES, "members.0.schedule")
    assert f"members.0.schedule.{name}.{next(iter(settings))}" in sentence
