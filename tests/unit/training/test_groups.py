"""Frozen parameters and rates by pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.errors import TrainingError
from fuseline.partition import Share
from fuseline.training.groups import freeze, groups, rest_frozen
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.train import train

CNN = {"cnn": {"channels": [3, 4], "convolutions": 1, "features": 6, "dropout": 0.0}}
ROWS = Share(np.arange(24))


def plain() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 4), "c": nn.Linear(4, 1, bias=False)})


def sgd(lr: float) -> Component:
    settings = {"lr": lr, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}
    return complete(Component(name="sgd", settings=settings), OPTIMIZERS, "optimizer")


@pytest.fixture
def pictures(dataset_of: Callable[..., Dataset]) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 1, 6, 6), dtype=np.uint8)
    return dataset_of(images, {"y": (images.mean((1, 2, 3)) > 127).astype(np.int64)})


@pytest.fixture
def weights(pictures: Dataset, spec_of: Callable[..., Any]) -> Callable[..., dict[str, torch.Tensor]]:
    """A small CNN's state after some training; after no epoch, its start."""

    def after(lr: float = 0.1, epochs: int = 1, optimizer: Component | None = None, **changes: Any) -> dict[str, torch.Tensor]:
        settings = {"optimizer": optimizer or sgd(lr), "schedule": Component(name="constant"), "batch_size": 24}
        return train(pictures, spec_of(pictures, CNN, epochs=epochs, **settings | changes), ROWS, 0).network.state_dict()

    return after


# ---------------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("average", [None, "ema", "swa"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_frozen_parameters_and_their_statistics_stay_to_the_bit(
    weights: Callable[..., Any], optimizer: str, average: str | None
) -> None:
    """Weight decay, momentum and fresh statistics for an average must not reach them either."""
    start = weights(epochs=0)
    chosen = complete(Component(name=optimizer), OPTIMIZERS, "optimizer")
    settings = {"epochs": 3, "batch_size": 8, "average": None if average is None else Component(name=average)}
    after = weights(optimizer=chosen, freeze=["backbone.layers.0.*", "backbone.layers.1.*"], **settings)
    free = weights(optimizer=chosen, **settings)
    frozen = [name for name in after if name.startswith(("backbone.layers.0.", "backbone.layers.1."))]
    assert "backbone.layers.1.running_mean" in frozen
    untouched = {name: t for name, t in start.items() if name in frozen and "running" not in name and "tracked" not in name}
    assert all(torch.equal(after[name], tensor) for name, tensor in untouched.items())
    assert (after["backbone.layers.1.running_mean"] == 0).all()
    assert (after["backbone.layers.1.running_var"] == 1).all()
    assert not torch.equal(after["heads.0.module.weight"], start["heads.0.module.weight"])
    assert not torch.equal(free["backbone.layers.1.running_mean"], after["backbone.layers.1.running_mean"])


def test_batch_norm_rests_only_if_all_of_it_is_frozen() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    freeze(net, ["0.*", "1.weight"])
    rest_frozen(net.train())
    assert [module.training for module in net] == [False, True, True]


def test_a_pattern_freezes_what_it_matches_and_nothing_else() -> None:
    net = plain()
    freeze(net, ["a.*", "?.bias"])
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["b.weight", "c.weight"]


# ------------------------------------------------------------------------------------------------------------------- rates


def test_the_first_pattern_that_matches_counts() -> None:
    net = plain()
    made = groups(net, {"a.weight": 0.1, "a.*": 10.0, "*.weight": 2.0}, 0.5)
    rates = {id(p): group["lr"] for group in made for p in group["params"]}  # type: ignore[index, call-overload]
    names = {name: rates[id(p)] for name, p in net.named_parameters()}
    expected = {"a.weight": 0.05, "a.bias": 5.0, "b.weight": 1.0, "b.bias": 0.5, "c.weight": 1.0}
    assert names == pytest.approx(expected)


def test_without_rates_there_is_one_list_of_what_learns() -> None:
    net = plain()
    freeze(net, ["b.*"])
    assert [id(p) for p in groups(net, {}, 0.1)] == [id(p) for n, p in net.named_parameters() if n[0] != "b"]


def test_frozen_parameters_are_in_no_group() -> None:
    net = plain()
    freeze(net, ["b.*"])
    made = groups(net, {"a.*": 3.0}, 0.1)
    assert [[tuple(p.shape) for p in group["params"]] for group in made] == [[(3, 2), (3,)], [(1, 4)]]  # type: ignore[index, call-overload]


def test_a_rate_scales_the_first_step_of_plain_gradient_descent(weights: Callable[..., Any]) -> None:
    start, even, uneven = weights(epochs=0), weights(0.1), weights(0.1, rates={"heads.*": 4.0, "*.0.weight": 0.25})
    for name, tensor in start.items():
        if name.endswith(("weight", "bias")):
            factor = 4.0 if name.startswith("heads.") else 0.25 if name.endswith(".0.weight") else 1.0
            step = (even[name] - tensor).numpy()
            assert np.abs(step).max() > 0
            assert (uneven[name] - tensor).numpy() == pytest.approx(factor * step, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_the_rates_through_the_schedule(weights: Callable[..., Any], optimizer: str) -> None:
    """A group of a rate of next to nothing stays; the others move."""
    chosen = complete(Component(name=optimizer), OPTIMIZERS, "optimizer")
    settings = {"optimizer": chosen, "epochs": 2, "batch_size": 8, "schedule": Component(name="one_cycle")}
    start, after = weights(epochs=0), weights(rates={"backbone.*": 1e-30}, **settings)
    learnt = [name for name in start if name.endswith(("weight", "bias"))]
    moved = {name.split(".")[0] for name in learnt if (start[name] - after[name]).abs().max() > 1e-20}
    assert moved == {"heads"}


# ---------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("call", "field", "pattern"),
    [
        (lambda net: freeze(net, ["a.*", "encoder.*"]), "freeze", "encoder.*"),
        (lambda net: groups(net, {"a.*": 2.0, "encoder.*": 2.0}, 0.1), "rates", "encoder.*"),
        (lambda net: groups(net, {"*": 2.0, "a.*": 3.0}, 0.1), "rates", "a.*"),  # all are taken by the first
        (lambda net: (freeze(net, ["a.*"]), groups(net, {"a.*": 3.0}, 0.1)), "rates", "a.*"),
    ],
)
def test_a_pattern_without_a_match_is_named_with_some_names(call: Callable[[nn.Module], Any], field: str, pattern: str) -> None:
    with pytest.raises(TrainingError) as caught:
        call(plain())
    assert str(caught.value).startswith(f"{field}: ")
    assert repr(pattern) in str(caught.value)
    assert "a.weight" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_where_all_is_frozen_it_says_so() -> None:
    net = plain()
    with pytest.raises(TrainingError, match=r"freeze: .*nothing"):
        freeze(net, ["*"])
