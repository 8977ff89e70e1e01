"""Optimizers: what their settings do, groups with rates of their own, and two optimizers that look like one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.optimizers import OPTIMIZERS, adam, adamw, muon, outer_apart, sgd
from fuseline.training.schedules import Schedule, cosine


class Net(nn.Module):
    """An embedding, a hidden layer, a convolution and a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding = nn.Embedding(5, 4)
            self.hidden = nn.Linear(4, 6)
            self.convolution = nn.Conv1d(1, 2, 3, padding=1)
            self.heads = nn.ModuleList([nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))])

    def forward(self, codes: Tensor) -> Tensor:
        features = self.convolution(self.hidden(self.embedding(codes))[:, None].relu()).flatten(1)
        out: Tensor = self.heads[0](features)
        return out


def learn(network: Net, optimizer: optim.Optimizer, steps: int) -> None:
    codes = torch.arange(5)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(codes) - torch.eye(5)[:, :3]).square().sum().backward()
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("grouped", [False, True])
def test_every_optimizer_finds_the_bottom_of_a_bowl(name: str, grouped: bool) -> None:
    place = nn.Parameter(torch.tensor([3.0, -2.0]))
    settings = complete(Component(name=name, settings={"lr": 0.05, "weight_decay": 0.0}), OPTIMIZERS, "f").settings
    optimizer = OPTIMIZERS[name]([{"params": [place]}] if grouped else [place], **settings)
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
        assert (group["lr"], group["weight_decay"], group["fused"]) == (0.3, 0.2, True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_keeps_its_rate_and_others_take_the_settings(name: str) -> None:
    network = Net()
    groups = [
        {"params": network.hidden.parameters(), "lr": 0.5},
        {"params": [*network.heads.parameters(), *network.embedding.parameters(), *network.convolution.parameters()]},
    ]
    rates = {id(p): g["lr"] for g in OPTIMIZERS[name](groups, lr=0.25).param_groups for p in g["params"]}
    assert rates == {id(p): 0.25 for p in network.parameters()} | {id(p): 0.5 for p in network.hidden.parameters()}


def test_sgd_without_momentum_is_plain() -> None:
    place = nn.Parameter(torch.tensor([2.0]))
    optimizer = sgd([place], lr=0.1, momentum=0.0, weight_decay=0.0)
    (place * 3).sum().backward()
    optimizer.step()
    assert place.item() == pytest.approx(2 - 0.1 * 3)


# ----------------------------------------------------------------------------------------------------------------- muon


def test_muon_makes_the_singular_values_of_a_step_about_equal() -> None:
    """Jordan et al. 2024: between 0.68 and 1.13, here times 0.2 √12, for a gradient whose own differ a thousandfold."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 8))[0] for n in (12, 8))
    weight = nn.Parameter(torch.zeros(12, 8))
    optimizer = muon([weight], lr=0.1, weight_decay=0.0)
    weight.grad = u @ torch.logspace(0, -1.5, 8).diag() @ v.T
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach()) / (0.1 * 0.2 * 12**0.5)
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert (u * (weight.detach() @ v)).sum(0).max() < 0  # against the gradient in each of its directions


def test_muon_is_torchs_muon_on_matrices_and_torchs_adamw_on_the_rest() -> None:
    ours, theirs = Net(), Net()
    matrices = [theirs.embedding.weight, theirs.hidden.weight, theirs.heads[0][0].weight, theirs.heads[0][2].weight]
    rest = [p for p in theirs.parameters() if p.ndim != 2]
    both = [
        optim.Muon(matrices, 0.02, 0.01, 0.9, adjust_lr_fn="match_rms_adamw"),
        optim.AdamW(rest, 0.02, weight_decay=0.01, fused=True),
    ]
    learn(ours, muon(ours.parameters(), lr=0.02, momentum=0.9), 5)
    codes = torch.arange(5)
    for _ in range(5):
        theirs.zero_grad()
        (theirs(codes) - torch.eye(5)[:, :3]).square().sum().backward()
        for optimizer in both:
            optimizer.step()
    assert same(ours, theirs)
    assert not same(ours, Net())


def test_embeddings_and_last_layers_go_to_adamw() -> None:
    network = Net()
    network.frozen = nn.Linear(2, 2)  # not among the parameters given
    head = network.heads[0]
    given = [
        {"params": [*network.embedding.parameters(), *network.hidden.parameters()], "lr": 0.1},
        {"params": [*network.convolution.parameters(), *head.parameters()]},
    ]
    groups = outer_apart(given, network, network.heads)
    assert [{id(p) for p in g["params"]} for g in groups if g["outer"]] == [{id(network.embedding.weight)}, {id(head[2].weight)}]
    assert [g.get("lr") for g in groups] == [0.1, 0.1, None, None]
    optimizer = muon(groups, lr=0.01)
    by_muon = {id(p): g["lr"] for g in optimizer.param_groups if "ns_steps" in g for p in g["params"]}
    assert by_muon == {id(network.hidden.weight): 0.1, id(head[0].weight): 0.01}
    by_adamw = {id(p) for g in optimizer.param_groups if "betas" in g for p in g["params"]}
    assert by_adamw == {id(p) for group in given for p in group["params"]} - set(by_muon)
    before = copy.deepcopy(network)
    learn(network, optimizer, 1)
    now, then = dict(network.named_parameters()), dict(before.named_parameters())
    assert {name for name in now if now[name].equal(then[name])} == {"frozen.weight", "frozen.bias"}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_groups_that_stand_apart_change_no_other_optimizer(name: str) -> None:
    one, other = Net(), Net()
    learn(one, OPTIMIZERS[name](one.parameters()), 3)
    learn(other, OPTIMIZERS[name](outer_apart(other.parameters(), other, other.heads)), 3)
    assert same(one, other)


def test_a_schedule_reaches_both_parts_of_muon() -> None:
    network = Net()
    optimizer = muon(network.parameters(), lr=0.1)
    schedule = Schedule(optimizer, cosine, 4)
    learn(network, optimizer, 1)
    for _ in range(4):
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0, 0])
    before = copy.deepcopy(network)
    learn(network, optimizer, 1)
    assert same(network, before)


def test_muon_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    network = Net()
    optimizer = muon(network.parameters())
    schedule = Schedule(optimizer, cosine, 20)
    learn(network, optimizer, 4)
    schedule.step()
    other = copy.deepcopy(network)
    again = muon(other.parameters())
    rest = Schedule(again, cosine, 20)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    rest.go_to(schedule.done)
    for one, its, plan in ((network, optimizer, schedule), (other, again, rest)):
        for _ in range(3):
            learn(one, its, 2)
            plan.step()
    assert same(network, other)
    fresh, restarted = Net(), Net()
    restarted.load_state_dict(fresh.state_dict())
    learn(fresh, muon(fresh.parameters()), 2)
    for _ in range(2):
        learn(restarted, muon(restarted.parameters()), 1)
    assert not same(fresh, restarted)  # a state that were lost would be seen


def test_every_parameter_of_muon_has_a_state_under_its_own_number() -> None:
    network = Net()
    optimizer = muon(network.parameters())
    learn(network, optimizer, 1)
    state = optimizer.state_dict()["state"]
    order = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(state) == list(range(len(list(network.parameters())))) == list(range(len(order)))
    kinds = [{"momentum_buffer"} if p.ndim == 2 else {"step", "exp_avg", "exp_avg_sq"} for p in order]
    assert [set(state[k]) for k in sorted(state)] == kinds


def test_a_closure_is_asked_once_and_its_loss_returned() -> None:
    network, asked = Net(), []

    def closure() -> float:
        loss = network(torch.arange(5)).square().sum()
        loss.backward()
        asked.append(loss.item())
        return asked[-1]

    loss = muon(network.parameters()).step(closure)
    assert asked == [loss]
    assert not same(network, Net())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adamw", {"lr": 0}),
        ("adamw", {"lr": 11}),
        ("adam", {"weight_decay": -1}),
        ("sgd", {"momentum": 1}),
        ("adam", {"momentum": 0.9}),
        ("muon", {"momentum": 1}),
        ("muon", {"nesterov": True}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), OPTIMIZERS, "members.0.optimizer")
    assert f"members.0.optimizer.{name}.{next(iter(settings))}" in sentence
