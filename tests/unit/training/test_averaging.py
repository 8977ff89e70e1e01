"""Averages of weights against their formulas, torch's own averages, and what must come out bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import swa_utils

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.averaging import AVERAGES, Average, ema, statistics_anew, swa


class Net(nn.Module):
    """Preprocessing that never changes, batch norm, and a buffer of whole numbers that does change."""

    def __init__(self) -> None:
        super().__init__()
        awkward = [0.1, -0.0, 1e-310, float("inf"), float("-inf"), float("nan"), 1 / 3, -1e300]
        self.register_buffer("mean", torch.tensor(awkward, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([0.0, -0.0, float("-inf")]), persistent=False)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("known", torch.tensor([True, False]))
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.norm(self.layer(batch["x"]))
        return out


def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def move(net: Net, step: int) -> None:
    """Change all that training may change."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*net.parameters(), net.norm.running_mean, net.norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    net.seen += step
    assert net.norm.num_batches_tracked is not None
    net.norm.num_batches_tracked += 1


def never() -> Iterator[Any]:
    raise AssertionError("no batch is needed")
    yield


def batches(count: int = 3) -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(16, 3, generator=torch.Generator().manual_seed(k))} for k in range(count)]


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def finished(average: Average, given: Iterable[Any]) -> Net:
    module = average.module(given)
    assert isinstance(module, Net)
    return module


def run(average: Average, net: Net, epochs: int, steps: int = 4) -> list[list[dict[str, Tensor]]]:
    """Train without learning; returns the state after every step of every epoch."""
    states, count = [], 0
    for epoch in range(1, epochs + 1):
        states.append([])
        for _ in range(steps):
            count += 1
            move(net, count)
            average.after_step(net)
            states[-1].append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        average.after_epoch(net, epoch / epochs)
    return states


AVERAGED = ["layer.weight", "layer.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]


@pytest.mark.parametrize("decay", [0.5, 0.15, 0.999])
def test_ema_is_its_formula_with_the_decay_warmed_up(decay: float) -> None:
    average = ema(decay=decay)
    states = [state for epoch in run(average, network(), 5) for state in epoch]
    expected = {name: states[0][name].double() for name in AVERAGED}
    for t, state in enumerate(states[1:], 1):
        d = min(decay, (1 + t) / (10 + t))
        expected = {name: d * value + (1 - d) * state[name].double() for name, value in expected.items()}
    out = finished(average, never()).state_dict()
    for name, value in expected.items():
        assert out[name].numpy() == pytest.approx(value.numpy(), rel=1e-5), name


def test_ema_is_torchs_once_the_decay_is_warm() -> None:
    ours, net = ema(decay=0.1), network()  # (1 + t) / (10 + t) is 0.1 at its least
    theirs = swa_utils.AveragedModel(net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.1))
    for step in range(1, 8):
        move(net, step)
        ours.after_step(net)
        theirs.update_parameters(net)
    out = finished(ours, never())
    for mine, torchs in zip(out.parameters(), theirs.module.parameters(), strict=True):
        assert mine.detach().numpy() == pytest.approx(torchs.detach().numpy(), rel=1e-6)


def test_the_first_step_is_taken_whole() -> None:
    average, net = ema(), network()
    move(net, 1)
    average.after_step(net)
    assert all(bits(a) == bits(b) for a, b in zip(finished(average, never()).parameters(), net.parameters(), strict=True))


@given(st.integers(1, 12), st.floats(0, 1))
def test_swa_is_the_mean_of_the_weights_at_the_ends_of_the_last_epochs(epochs: int, start: float) -> None:
    average = swa(start=start)
    states = run(average, network(), epochs, steps=2)
    ends = [epoch[-1] for number, epoch in enumerate(states, 1) if number / epochs >= start]
    out = finished(average, batches())
    for name, parameter in out.named_parameters():
        expected = np.mean([end[name].double().numpy() for end in ends], 0)
        assert parameter.detach().numpy() == pytest.approx(expected, rel=1e-5)


def test_swa_of_four_epochs_from_three_quarters_takes_the_last_two() -> None:
    average, net = swa(), network()
    for epoch, value in enumerate([100.0, 10.0, 2.0, 4.0], 1):
        nn.init.constant_(net.layer.weight, value)
        average.after_step(net)
        average.after_epoch(net, epoch / 4)
    assert finished(average, batches()).layer.weight.unique().tolist() == [3.0]


def test_swa_computes_batch_norm_statistics_anew() -> None:
    average, net = swa(start=0.5), network()
    run(average, net, 4)
    given = batches(5)
    out = finished(average, iter(given))
    with torch.no_grad():
        outputs = [out.layer(batch["x"]).double() for batch in given]
    assert out.norm.running_mean is not None
    assert out.norm.running_var is not None
    assert out.norm.running_mean.numpy() == pytest.approx(torch.stack([y.mean(0) for y in outputs]).mean(0).numpy(), rel=1e-4)
    assert out.norm.running_var.numpy() == pytest.approx(torch.stack([y.var(0) for y in outputs]).mean(0).numpy(), rel=1e-4)
    assert out.norm.momentum == net.norm.momentum == 0.1


def test_new_statistics_are_those_of_torch() -> None:
    ours, theirs = network(), network()
    ours.norm.momentum = theirs.norm.momentum = 0.3
    statistics_anew(ours, batches(4))
    swa_utils.update_bn(batches(4), theirs)
    assert all(bits(a) == bits(b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert ours.norm.momentum == 0.3


def test_frozen_batch_norm_keeps_its_statistics_and_acts_by_them() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    frozen, _, last = net
    nn.init.constant_(frozen.running_mean, 5.0)
    frozen.requires_grad_(False)
    batch = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    statistics_anew(net, [batch])
    assert frozen.running_mean.tolist() == [5.0] * 3
    assert last.running_mean.numpy() == pytest.approx(net[:2](batch).mean(0).detach().numpy(), rel=1e-5)
    statistics_anew(nn.Sequential(frozen), never())


def test_new_statistics_draw_nothing_though_there_is_dropout() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    batch, state = torch.ones(10, 3), torch.get_rng_state()
    statistics_anew(net, [batch])
    assert net[1].running_mean.tolist() == [1.0] * 3
    assert torch.get_rng_state().equal(state)
    assert not any(module.training for module in net.modules())


def test_without_batch_norm_no_batch_is_asked_for() -> None:
    average, net = swa(start=0.0), nn.Linear(2, 2)
    average.after_epoch(net, 1.0)
    assert average.module(never()) is not None


@pytest.mark.parametrize("name", AVERAGES)
def test_what_never_changes_comes_out_bit_by_bit(name: str) -> None:
    average, net = AVERAGES[name](), network()
    start = {key: bits(buffer) for key, buffer in net.named_buffers()}
    run(average, net, 40)
    out = dict(finished(average, batches()).named_buffers())
    for key in ("mean", "mask", "known"):
        assert bits(out[key]) == start[key], key


@pytest.mark.parametrize("name", AVERAGES)
def test_parameters_that_never_change_keep_their_value(name: str) -> None:
    average, net = AVERAGES[name](), network()
    frozen = net.layer.weight.detach().clone()
    for step in range(1, 50):
        move(net, step)
        with torch.no_grad():
            net.layer.weight.copy_(frozen)
        average.after_step(net)
        average.after_epoch(net, 1.0)
    assert bits(finished(average, batches()).layer.weight) == bits(frozen)


@pytest.mark.parametrize("name", AVERAGES)
def test_whole_numbers_are_the_networks_last(name: str) -> None:
    average, net = AVERAGES[name](), network()
    run(average, net, 8)
    assert finished(average, batches()).seen.equal(net.seen)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_network_itself_is_left_alone_and_the_average_evaluates(name: str) -> None:
    average, net, alone = AVERAGES[name](), network(), network()
    net(batches()[0]).sum().backward()
    run(average, net, 4)
    run(Average(), alone, 4)
    net.norm.reset_running_stats()
    alone.norm.reset_running_stats()
    out = finished(average, batches())
    assert all(bits(a) == bits(b) for a, b in zip(net.state_dict().values(), alone.state_dict().values(), strict=True))
    assert net.training
    assert not any(module.training for module in out.modules())
    assert all(parameter.grad is None for parameter in out.parameters())
    shared = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in out.state_dict().values()}


@pytest.mark.parametrize("name", AVERAGES)
def test_asking_between_epochs_changes_nothing_later(name: str) -> None:
    asked, quiet = AVERAGES[name](), AVERAGES[name]()
    nets = network(), network()
    for epoch in range(1, 9):
        for average, net in zip((asked, quiet), nets, strict=True):
            move(net, epoch)
            average.after_step(net)
            average.after_epoch(net, epoch / 8)
        asked.module(batches())
    one, other = (finished(average, batches()).state_dict().values() for average in (asked, quiet))
    assert all(bits(a) == bits(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", AVERAGES)
def test_before_the_first_average_there_is_none(name: str) -> None:
    average = AVERAGES[name]()
    average.after_epoch(network(), 0.5)
    assert average.module(never()) is None


@pytest.mark.parametrize(
    ("name", "settings"), [("ema", {"decay": 1}), ("ema", {"decay": 0}), ("swa", {"start": 1.1}), ("swa", {"decay": 0.9})]
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), AVERAGES, "members.0.average")
    assert f"members.0.average.{name}.{next(iter(settings))}" in sentence


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("at", [0, 1, 5, 11])
def test_it_goes_on_bit_by_bit_from_what_was_saved(name: str, at: int) -> None:
    """Another average, of a network of other numbers that are changed by the same steps, from the state at some step."""
    settings = {"start": 0.3} if name == "swa" else {"decay": 0.9}
    whole, net = AVERAGES[name](**settings), network()
    resumed: Average = whole
    for step in range(12):
        if step == at:
            resumed = AVERAGES[name](**settings)
            saved = {
                key: ({n: t.clone() for n, t in part.items()} if isinstance(part, dict) else part)
                for key, part in whole.saved().items()
            }
            resumed.restore(saved, net)
            assert (resumed.module(batches()) is None) == (whole.module(batches()) is None)
        move(net, step)
        for average in {whole, resumed}:
            average.after_step(net)
            if step % 4 == 3:
                average.after_epoch(net, (step + 1) / 12)
    mine, its = finished(resumed, batches()), finished(whole, batches())
    assert resumed is not whole
    for (one, tensor), (other, expected) in zip(
        [*mine.named_parameters(), *mine.named_buffers()], [*its.named_parameters(), *its.named_buffers()], strict=True
    ):
        assert one == other
        assert bits(tensor) == bits(expected), one


@pytest.mark.parametrize("name", AVERAGES)
def test_what_was_saved_of_another_network_is_refused(name: str) -> None:
    average = AVERAGES[name]()
    average.after_step(network())
    average.after_epoch(network(), 1.0)
    with pytest.raises(ValueError, match="another network"):
        AVERAGES[name]().restore(average.saved(), nn.Linear(2, 2))
