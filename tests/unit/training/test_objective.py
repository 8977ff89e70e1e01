"""The objective, against a loop over rows, and an expert's view of the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.losses import LOSSES, class_weights
from fuseline.models.network import Branch, Network, NetworkSpec
from fuseline.training.mixing import Mixed
from fuseline.training.objective import Goal, Objective, apart, goal

TASKS = {
    "kind": TargetSchema(kind="classification", classes=["a", "b", "c"]),
    "grade": TargetSchema(kind="ordinal", classes=[0, 1, 2, 3]),
    "signs": TargetSchema(kind="multilabel", classes=["u", "v"]),
    "size": TargetSchema(kind="regression"),
    "range": TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9]),
}
SCHEMA = Schema(numeric=["x0", "x1"], targets=TASKS)
OUTPUTS = {"kind": 3, "grade": 3, "signs": 2, "size": 2, "range": 3}
B = 6


def network(copies: int | None = None) -> Network:
    architecture = {"mlp": {"hidden": []}} if copies is None else {"tabm": {"copies": copies, "width": 4, "layers": 1}}
    heads = {name: Component(name="linear") for name in TASKS}
    net = Network(SCHEMA, NetworkSpec(architecture=Component.model_validate(architecture), heads=heads))
    net.head("size").fit(torch.tensor([10.0, 14.0]))  # centre 12, spread 2
    net.head("range").fit(torch.tensor([10.0, 14.0]))
    return net


class Judge:
    """An objective that takes raw targets, as the formulas below do."""

    def __init__(self, net: Network, own: tuple[int, ...] = (), **changes: Any) -> None:
        losses = {name: Component(name=next(iter(LOSSES[task.kind]))) for name, task in TASKS.items()}
        settings: dict[str, Any] = {"losses": losses, "weights": dict.fromkeys(TASKS, 1.0)} | changes
        self.class_weights = settings.pop("class_weights", {})
        self.heads = {name: net.head(name) for name in TASKS}
        self.objective = Objective(self.heads, SCHEMA, own=torch.tensor(own, dtype=torch.int64), **settings)

    def goals(self, targets: Mapping[str, Tensor], rows: Mapping[str, Tensor] | None = None) -> dict[str, Goal]:
        return {n: goal(self.heads[n], t, self.class_weights.get(n), (rows or {}).get(n)) for n, t in targets.items()}

    def __call__(
        self,
        branches: list[Branch],
        targets: Mapping[str, Tensor],
        rows: Mapping[str, Tensor] | None = None,
        mixed: Mixed | None = None,
    ) -> Tensor:
        return self.objective(branches, self.goals(targets, rows), mixed)


def objective(net: Network, own: tuple[int, ...] = (), **changes: Any) -> Judge:
    return Judge(net, own, **changes)


def drawn(seed: int = 0, copies: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Raw outputs of six rows, and targets of which some are unknown."""
    random = torch.Generator().manual_seed(seed)
    shape = (B,) if copies is None else (B, copies)
    raw = {name: torch.randn(*shape, width, generator=random) for name, width in OUTPUTS.items()}
    gap = math.nan
    targets = {
        "kind": torch.tensor([0, 1, 2, -1, 1, 0]),
        "grade": torch.tensor([3, -1, 0, 1, 2, 2]),
        "signs": torch.tensor([[0, 1], [1, gap], [gap, gap], [1, 1], [0, 0], [gap, 0]]),
        "size": torch.tensor([9.0, gap, 12.0, 15.0, gap, 11.0], dtype=torch.float64),
        "range": torch.tensor([gap, 10.0, 12.0, 13.0, 9.5, 11.0], dtype=torch.float64),
    }
    return raw, targets


def by_hand(name: str, raw: Any, target: Any) -> float | None:
    """A row's loss from its raw output and target, with nothing but numpy; None where the target is unknown."""
    raw = np.asarray(raw, np.float64)
    if name == "kind":
        return None if target < 0 else float(np.log(np.exp(raw).sum()) - raw[int(target)])
    if name == "grade":
        if target < 0:
            return None
        passed = 1 / (1 + np.exp(-raw))
        chance = [np.prod(passed[:k]) * (1 - passed[k] if k < 3 else 1) for k in range(4)]
        return -math.log(chance[int(target)])
    if name == "signs":
        each = [-math.log(1 / (1 + math.exp(-r if t else r))) for r, t in zip(raw, target, strict=True) if not math.isnan(t)]
        return float(np.mean(each)) if each else None
    if math.isnan(target):
        return None
    y = (float(target) - 12) / 2
    if name == "size":
        return float((y - raw[0]) ** 2)
    quantiles = raw[0] + np.r_[0, np.log1p(np.exp(raw[1:])).cumsum()]
    levels = TASKS["range"].levels
    return float(np.mean([max(t * (y - q), (t - 1) * (y - q)) for t, q in zip(levels, quantiles, strict=True)]))


def weighed(name: str, raw: Tensor, target: Tensor, weights: Any, classes: Any = None, shares: Any = None) -> tuple[float, float]:
    """Σ s r c ℓ and Σ s c of a loop over rows: r what a row weighs, c what its class does, s the share of it that counts."""
    total = weight = 0.0
    for i in range(B):
        loss = by_hand(name, raw[i].tolist(), target[i].tolist())
        if loss is not None:
            c = (1.0 if classes is None else float(classes[int(target[i])])) * (1.0 if shares is None else float(shares[i]))
            total, weight = total + float(weights[i]) * c * loss, weight + c
    return total, weight


def alone(targets: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The same targets, all but one unknown."""
    unknown = {n: torch.full_like(t, -1 if TASKS[n].exclusive else math.nan) for n, t in targets.items()}
    return unknown | {name: targets[name]}


# ---------------------------------------------------------------------------------------------------------- weighted mean


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("weighs", [False, True])
def test_a_target_s_loss_is_the_weighted_sum_of_its_known_rows_over_their_number(name: str, weighs: bool) -> None:
    raw, targets = drawn()
    weights = torch.tensor([0.5, 3.0, 1.0, 2.0, 0.0, 4.0]) if weighs else torch.ones(B)
    rows = {name: weights} if weighs else None
    total, weight = weighed(name, raw[name], targets[name], weights)
    loss = objective(network())([Branch(1.0, raw)], alone(targets, name), rows)
    assert float(loss) == pytest.approx(total / weight, rel=1e-5)


@pytest.mark.parametrize("name", ["kind", "grade"])
def test_a_row_weighs_what_its_class_weighs(name: str) -> None:
    raw, targets = drawn()
    codes = targets[name]
    classes = class_weights(codes, TASKS[name], "balanced", {})
    rows = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
    total, weight = weighed(name, raw[name], codes, rows, classes)
    loss = objective(network(), class_weights={name: classes})([Branch(1.0, raw)], alone(targets, name), {name: rows})
    assert float(loss) == pytest.approx(total / weight, rel=1e-5)


def test_class_weights_are_those_of_torch_s_cross_entropy() -> None:
    raw, targets = drawn()
    weights = torch.tensor([0.2, 1.0, 3.0])
    expected = torch.nn.functional.cross_entropy(raw["kind"], targets["kind"], weights, ignore_index=-1)
    loss = objective(network(), class_weights={"kind": weights})([Branch(1.0, raw)], alone(targets, "kind"))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_targets_are_added_by_their_weights() -> None:
    raw, targets = drawn()
    weights = {name: 0.5 + i for i, name in enumerate(TASKS)}
    parts = {name: weighed(name, raw[name], targets[name], torch.ones(B)) for name in TASKS}
    expected = sum(weights[name] * total / weight for name, (total, weight) in parts.items())
    assert float(objective(network(), weights=weights)([Branch(1.0, raw)], targets)) == pytest.approx(expected, rel=1e-5)


def test_without_any_known_row_it_is_0_and_so_is_its_gradient() -> None:
    raw, targets = drawn()
    unknown = {n: torch.full_like(t, -1 if TASKS[n].exclusive else math.nan) for n, t in targets.items()}
    asked = {name: x.requires_grad_() for name, x in raw.items()}
    loss = objective(network(), class_weights={"kind": torch.tensor([1.0, 2.0, 3.0])})([Branch(1.0, asked)], unknown)
    loss.backward()
    assert loss.item() == 0
    assert all((x.grad == 0).all() for x in asked.values() if x.grad is not None)


@pytest.mark.parametrize("name", TASKS)
def test_an_unknown_row_teaches_nothing(name: str) -> None:
    raw, targets = drawn()
    asked = raw[name].requires_grad_()
    objective(network())([Branch(1.0, raw)], alone(targets, name)).backward()
    known = [by_hand(name, raw[name][i].tolist(), targets[name][i].tolist()) is not None for i in range(B)]
    assert asked.grad is not None
    assert ((asked.grad != 0).any(1)).tolist() == known


# ----------------------------------------------------------------------------------------------------------------- mixing


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("weighs", [False, True])
def test_a_mixed_row_has_two_targets(name: str, weighs: bool) -> None:
    raw, targets = drawn()
    partner, share = torch.tensor([2, 0, 1, 5, 4, 3]), torch.tensor([0.9, 0.4, 0.0, 0.7, 1.0, 0.5])
    weights = torch.tensor([0.5, 3.0, 1.0, 2.0, 0.5, 4.0]) if weighs else torch.ones(B)
    own, own_weight = weighed(name, raw[name], targets[name], weights, shares=share)
    other, other_weight = weighed(name, raw[name], targets[name][partner], weights[partner], shares=1 - share)
    mixed = Mixed(torch.empty(0), partner, share)
    loss = objective(network())([Branch(1.0, raw)], alone(targets, name), {name: weights} if weighs else None, mixed)
    assert float(loss) == pytest.approx((own + other) / (own_weight + other_weight), rel=1e-5)


def test_a_row_that_is_mixed_with_itself_is_as_unmixed() -> None:
    raw, targets = drawn()
    mixed = Mixed(torch.empty(0), torch.arange(B), torch.rand(B, generator=torch.Generator().manual_seed(0)))
    judge = objective(network())
    whole = float(judge([Branch(1.0, raw)], targets))
    assert float(judge([Branch(1.0, raw)], targets, None, mixed)) == pytest.approx(whole, rel=1e-5)


# ---------------------------------------------------------------------------------------------------- branches and copies


def test_auxiliary_branches_are_added_by_their_weight() -> None:
    (raw, targets), (aside, _), judge = drawn(0), drawn(1), objective(network())
    one, other = (float(judge([Branch(1.0, r)], targets)) for r in (raw, aside))
    assert float(judge([Branch(1.0, raw), Branch(0.3, aside)], targets)) == pytest.approx(one + 0.3 * other, rel=1e-5)


def test_the_loss_of_copies_is_the_mean_of_their_losses() -> None:
    raw, targets = drawn(copies=3)
    judge = objective(network(copies=3))
    rows = {"kind": torch.tensor([0.5, 3.0, 1.0, 2.0, 0.5, 4.0])}
    each = [float(objective(network())([Branch(1.0, {n: x[:, k] for n, x in raw.items()})], targets, rows)) for k in range(3)]
    assert float(judge([Branch(1.0, raw)], targets, rows)) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize("mixes", [False, True])
def test_several_networks_have_each_their_own_loss(copies: int | None, mixes: bool) -> None:
    """With a first axis of networks the losses are those of each network by itself."""
    judge = objective(network(copies), class_weights={"kind": torch.tensor([0.2, 1.0, 3.0])})
    drawns = [drawn(seed, copies) for seed in range(3)]
    random = torch.Generator().manual_seed(1)
    orders = [torch.randperm(B, generator=random) for _ in drawns]
    shares = torch.rand(3, B, generator=random)
    partners = torch.stack([torch.randperm(B, generator=random) for _ in drawns])
    mixed = [Mixed(torch.empty(0), *pair) if mixes else None for pair in zip(partners, shares, strict=True)]
    goals = [judge.goals({n: t[order] for n, t in targets.items()}) for (_, targets), order in zip(drawns, orders, strict=True)]
    each = [judge.objective([Branch(1.0, raw)], own, mix) for (raw, _), own, mix in zip(drawns, goals, mixed, strict=True)]
    raws = {n: torch.stack([raw[n] for raw, _ in drawns]) for n in TASKS}
    stacked = {n: Goal(torch.stack([g[n].value for g in goals]), torch.stack([g[n].weight for g in goals])) for n in TASKS}
    together = judge.objective([Branch(1.0, raws)], stacked, Mixed(torch.empty(0), partners, shares) if mixes else None)
    assert together.tolist() == pytest.approx([float(loss) for loss in each], rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------- experts


@st.composite
def opinions(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Log probabilities (B, C), codes (B,) and an expert's classes, some but not all."""
    classes = draw(st.integers(2, 6))
    own = sorted(draw(st.sets(st.integers(0, classes - 1), min_size=1, max_size=classes - 1)))
    rows = draw(st.integers(1, 4))
    scores = draw(st.lists(st.floats(-20, 20), min_size=rows * classes, max_size=rows * classes))
    codes = draw(st.lists(st.integers(-1, classes - 1), min_size=rows, max_size=rows))
    return torch.tensor(scores).reshape(rows, classes).double().log_softmax(1), torch.tensor(codes), own


@given(opinions())
def test_an_expert_s_probabilities_sum_to_1_and_the_others_are_one_event(given_: tuple[Tensor, Tensor, list[int]]) -> None:
    said, codes, own = given_
    merged, position = apart(said, codes, torch.tensor(own))
    chances = said.exp().numpy()
    assert merged.exp().sum(1).numpy() == pytest.approx(np.ones(len(said)), abs=1e-9)
    for row, (code, place) in enumerate(zip(codes.tolist(), position.tolist(), strict=True)):
        if code < 0:
            assert place < 0
            continue
        event = [code] if code in own else [c for c in range(said.shape[1]) if c not in own]
        assert math.exp(merged[row, place]) == pytest.approx(chances[row, event].sum(), rel=1e-6, abs=1e-12)


@given(opinions())
def test_an_expert_s_loss_is_that_of_the_summed_probability(given_: tuple[Tensor, Tensor, list[int]]) -> None:
    said, codes, own = given_
    names = [f"c{i}" for i in range(said.shape[1])]
    schema = Schema(numeric=["x"], targets={"y": TargetSchema(kind="classification", classes=names)})
    spec = NetworkSpec(architecture=Component(name="mlp", settings={"hidden": []}), heads={"y": Component(name="linear")})
    head = Network(schema, spec).head("y")
    judge = Objective({"y": head}, schema, {"y": Component(name="cross_entropy")}, {"y": 1.0}, torch.tensor(own))
    losses = []
    for row, code in enumerate(codes.tolist()):
        event = [code] if code in own else [c for c in range(len(names)) if c not in own]
        losses += [-math.log(said[row, event].exp().sum())] if code >= 0 else []
    expected = float(np.mean(losses)) if losses else 0.0
    assert float(judge([Branch(1.0, {"y": said})], {"y": goal(head, codes)})) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_others_share_the_gradient_by_their_probability() -> None:
    """-ln(p_b + p_c) falls as either of them grows, so an expert for a class learns nothing that parts the others."""
    raw = torch.tensor([[0.1, 0.7, -0.4]], requires_grad=True)
    judge = objective(network(), own=(0,))
    _, targets = drawn()
    one = {name: alone(targets, "kind")[name][2:3] for name in TASKS}  # a row of class c
    judge([Branch(1.0, {"kind": raw} | {n: r[:1] for n, r in drawn()[0].items() if n != "kind"})], one).backward()
    p = raw.detach().softmax(1)[0].tolist()
    assert raw.grad is not None
    assert raw.grad[0].numpy() == pytest.approx([p[0], p[1] - p[1] / (p[1] + p[2]), p[2] - p[2] / (p[1] + p[2])], abs=1e-6)


def test_only_the_first_target_with_exclusive_classes_has_experts() -> None:
    raw, targets = drawn()
    expert, all_round = objective(network(), own=(0,)), objective(network())
    for name in TASKS:
        same = float(expert([Branch(1.0, raw)], alone(targets, name))) == float(
            all_round([Branch(1.0, raw)], alone(targets, name))
        )
        assert same is (name != "kind")
