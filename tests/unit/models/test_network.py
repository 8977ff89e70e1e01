"""Networks of every kind of target, their auxiliary branches and copies, replicas and the law of total variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.data.schema import FIRST, Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.network import (
    Network,
    NetworkSpec,
    Replicated,
    Said,
    batches,
    blank,
    mean_said,
    mixture_variance,
    parameters,
)
from fuseline.models.preprocessing import NUMBERS

TARGETS = {
    "y": TargetSchema(kind="classification", classes=[0, 1, 2]),
    "steps": TargetSchema(kind="ordinal", classes=["low", "middle", "high", "top"]),
    "marks": TargetSchema(kind="multilabel", classes=["p", "q"]),
    "v": TargetSchema(kind="regression"),
    "levels": TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9]),
}
WIDTHS = {"y": 3, "steps": 4, "marks": 2, "v": 1, "levels": 3}
TABLE = Schema(numeric=["a", "b"], categorical={"c": ["x", "y"]}, targets=TARGETS)
PICTURES = Schema(image=(2, 7, 5), targets=TARGETS)
HEADS = {
    "y": Component(name="linear"),
    "steps": Component(name="hidden", settings={"width": 4}),
    "marks": Component(name="linear"),
    "v": Component(name="hidden", settings={"width": 3}),
    "levels": Component(name="linear"),
}
SMALL: list[tuple[str, dict[str, Any], Schema]] = [
    ("mlp", {"hidden": [5]}, TABLE),
    ("ft_transformer", {"width": 8, "layers": 1, "heads": 2}, TABLE),
    ("tabm", {"copies": 3, "width": 6, "layers": 1}, TABLE),
    ("graph", {"anchors": 12, "neighbours": 3, "width": 6}, TABLE),
    ("cnn", {"channels": [2, 3], "features": 4}, PICTURES),
    ("resnet", {"widths": [3, 4], "blocks": [1]}, PICTURES),
]
OWN = pytest.mark.parametrize(("name", "settings", "schema"), SMALL, ids=[name for name, _, _ in SMALL])


def spec_of(name: str, settings: dict[str, Any], numbers: str | dict[str, Any] = "standard") -> NetworkSpec:
    scaling = complete(Component.model_validate(numbers), NUMBERS, "numbers")
    return NetworkSpec(architecture=Component(name=name, settings=settings), heads=HEADS, numbers=scaling)


SPEC = spec_of("mlp", {"hidden": [5]})


def made(seed: int, schema: Schema = TABLE, spec: NetworkSpec = SPEC) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(schema, spec).eval()


def batch(rows: int, seed: int = 0, schema: Schema = TABLE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if schema.image is not None:
        return {"image": torch.randint(256, (rows, *schema.image), generator=generator, dtype=torch.uint8)}
    numbers = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return {"numeric": numbers, "categorical": torch.randint(0, FIRST + 2, (rows, 1), generator=generator)}


def goals(rows: int) -> dict[str, Tensor]:
    values = numbers(5, rows) * 7 + 30
    return {
        "y": torch.arange(rows) % 3,
        "steps": torch.arange(rows) % 4,
        "marks": (torch.arange(2 * rows).reshape(rows, 2) % 3 == 0).float(),
        "v": values,
        "levels": -values,
    }


def fitted(seed: int, schema: Schema, spec: NetworkSpec) -> Network:
    """A network whose buffers hold what it took from some rows."""
    net = made(seed, schema, spec)
    net.fit(batch(30, seed, schema), goals(30), torch.Generator().manual_seed(seed))
    net.head("v").residual.fill_(0.25)
    return net


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def array(tensor: Tensor) -> Any:
    return tensor.detach().double().numpy()


# --------------------------------------------------------------------------------------------- every architecture, every kind


def test_all_own_architectures_are_tried_here() -> None:
    assert [name for name, _, _ in SMALL] == list(ARCHITECTURES.own)


@OWN
def test_a_network_says_something_of_every_target(name: str, settings: dict[str, Any], schema: Schema) -> None:
    net = fitted(0, schema, spec_of(name, settings))
    said = net.say(batch(7, 1, schema))
    assert {target: tuple(values.shape) for target, values in said.values.items()} == {t: (7, w) for t, w in WIDTHS.items()}
    assert {target: tuple(values.shape) for target, values in said.variances.items()} == {"v": (7, 1)}
    assert said.features.shape == (7, net.backbone.features)
    assert {t.dtype for t in (*said.values.values(), *said.variances.values(), said.features)} == {torch.float32}
    for target in ("y", "steps"):
        assert array(said.values[target]).sum(1) == pytest.approx(np.ones(7))
    assert ((said.values["marks"] > 0) & (said.values["marks"] < 1)).all()
    assert (said.values["levels"].diff(dim=1) >= 0).all()
    assert (said.variances["v"] > 0).all()


@OWN
def test_a_saved_network_says_the_same(name: str, settings: dict[str, Any], schema: Schema) -> None:
    spec = spec_of(name, settings)
    one, other = fitted(0, schema, spec), made(1, schema, spec)
    rows = batch(6, 3, schema)
    said, before = one.say(rows), other.say(rows)
    assert all((said.values[target] != before.values[target]).any() for target in TARGETS)
    other.load_state_dict(one.state_dict())
    after = other.say(rows)
    assert after.features.equal(said.features)
    assert all(after.values[target].equal(said.values[target]) for target in TARGETS)
    assert after.variances["v"].equal(said.variances["v"])


@OWN
def test_a_blank_network_is_as_large_as_a_real_one(name: str, settings: dict[str, Any], schema: Schema) -> None:
    spec = spec_of(name, settings)
    real, empty = made(0, schema, spec), blank(schema, spec)
    assert {p.device.type for p in (*empty.parameters(), *empty.buffers())} == {"meta" if schema.image else "cpu"}
    assert parameters(empty) == parameters(real)
    shapes = {key: (value.shape, value.dtype) for key, value in real.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in empty.state_dict().items()} == shapes


@OWN
def test_a_row_does_not_depend_on_the_others_in_its_batch(name: str, settings: dict[str, Any], schema: Schema) -> None:
    net, whole = fitted(0, schema, spec_of(name, settings)), batch(6, 1, schema)
    parts = [net.say(part) for part in batches(whole, 1)]
    for target, values in net.say(whole).values.items():
        together = torch.cat([part.values[target] for part in parts])
        assert array(together) == pytest.approx(array(values), rel=1e-4, abs=1e-5)


@OWN
def test_gradients_reach_every_head(name: str, settings: dict[str, Any], schema: Schema) -> None:
    net = fitted(0, schema, spec_of(name, settings)).train()
    (branch,) = net.branches(net.preprocessing(batch(6, 1, schema)))
    assert branch.weight == 1.0
    torch.stack([raw.square().mean() for raw in branch.raw.values()]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.heads.parameters())
    assert any((p.grad != 0).any() for p in net.backbone.parameters() if p.grad is not None)


def test_forward_gives_the_features_that_the_heads_see() -> None:
    net = made(0)
    features, raw = net(batch(4))
    assert list(raw) == list(TARGETS)
    assert all(raw[target].equal(net.head(target)(features)) for target in TARGETS)


def test_a_target_may_be_called_like_a_method_of_a_module() -> None:
    awkward = dict.fromkeys(("forward", "keys", "say", "a-b", "0", "training"), TARGETS["v"])
    schema = Schema(numeric=["a"], targets=awkward)
    spec = SPEC.model_copy(update={"heads": dict.fromkeys(awkward, Component(name="linear"))})
    said = Network(schema, spec).eval().say({"numeric": torch.zeros(2, 1, dtype=torch.float64)})
    assert list(said.values) == list(awkward)


# -------------------------------------------------------------------------------------------------- what a network is fitted on


def test_a_network_scales_numbers_as_its_specification_says() -> None:
    """A skewed column comes out by its ranks, or by its mean and standard deviation."""
    x = torch.arange(1, 12, dtype=torch.float64).exp()[:, None].expand(-1, 2).contiguous()
    rows = {"numeric": x, "categorical": torch.full((11, 1), FIRST)}
    plain, ranked = made(0), made(0, spec=spec_of("mlp", {"hidden": [5]}, {"quantile": {"quantiles": 11}}))
    for net in (plain, ranked):
        net.fit(rows, {}, torch.Generator())
    z = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(plain.preprocessing(rows)["numeric"][:, :2], z.float())
    by_rank = ranked.preprocessing(rows)["numeric"][1:-1, 0]
    expected = torch.special.ndtri(torch.arange(1, 10) / 10)
    torch.testing.assert_close(by_rank, expected, rtol=1e-4, atol=1e-5)
    assert parameters(plain) == parameters(ranked)


def test_unknown_ways_to_scale_numbers_are_refused(refusal: Callable[..., str]) -> None:
    wrong = SPEC.model_copy(update={"numbers": Component(name="quantiles")})
    assert "did you mean 'quantile'?" in refusal(RecipeError, Network, TABLE, wrong)


def test_the_heads_take_their_units_from_the_training_rows() -> None:
    net, targets = fitted(0, TABLE, SPEC), goals(30)
    for name in ("v", "levels"):
        assert float(net.head(name).center) == pytest.approx(float(targets[name].mean()))
        assert float(net.head(name).spread) == pytest.approx(float(targets[name].std(correction=0)))


# ------------------------------------------------------------------------------------------------------- auxiliary branches


class Branching(nn.Module):
    """Numbers through a linear layer; while it trains, two further layers give features of their own."""

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.main, self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 3), nn.Linear(4, 2)
        self.features = 6
        self.auxiliary = [(3, 0.4), (2, 0.1)]
        self.seen: list[str] = []

    def fit(self, rows: dict[str, Tensor], generator: torch.Generator) -> None:
        assert rows["numeric"].dtype == torch.float32  # they have been through the preprocessing
        self.seen.append("fit")

    def load_pretrained(self) -> None:
        self.seen.append("load_pretrained")

    def forward(self, rows: dict[str, Tensor]) -> Any:
        x = rows["numeric"]
        return (self.main(x), [self.first(x), self.second(x)]) if self.training else self.main(x)


@pytest.fixture
def branching(monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(ARCHITECTURES, "own", {**ARCHITECTURES.own, "branching": lambda schema: Branching(schema)})
    return made(0, spec=spec_of("branching", {}))


def test_each_branch_has_heads_of_its_own_while_it_trains(branching: Network) -> None:
    rows = batch(5)
    main, *aside = branching.train().branches(branching.preprocessing(rows))
    assert [branch.weight for branch in (main, *aside)] == [1.0, 0.4, 0.1]
    for branch in (main, *aside):
        assert {name: raw.shape[1] for name, raw in branch.raw.items()} == {"y": 3, "steps": 3, "marks": 2, "v": 2, "levels": 3}
    x = branching.preprocessing(rows)["numeric"]
    backbone = branching.backbone
    linear = [i for i, name in enumerate(TARGETS) if HEADS[name].name == "linear"]  # which have no dropout
    for i in linear:
        name = branching.targets[i]
        assert main.raw[name].equal(branching.heads[i](backbone.main(x)))
        for branch, layer, heads in zip(aside, (backbone.first, backbone.second), branching.auxiliary, strict=True):
            assert branch.raw[name].equal(heads[i](layer(x)))  # type: ignore[index, operator]


def test_branches_are_there_while_it_trains_only(branching: Network) -> None:
    rows = batch(5)
    (alone,) = branching.eval().branches(branching.preprocessing(rows))
    features, raw = branching(rows)
    assert alone.weight == 1.0
    assert all(alone.raw[name].equal(raw[name]) for name in TARGETS)
    assert features.equal(branching.train()(rows)[0])
    assert features.shape == (5, 6)


def test_auxiliary_heads_are_saved_and_counted(branching: Network) -> None:
    spec = spec_of("branching", {})
    other = made(1, spec=spec)
    other.load_state_dict(branching.state_dict())
    one, same = (net.train().branches(net.preprocessing(batch(5))) for net in (branching, other))
    assert all(a.raw["y"].equal(b.raw["y"]) for a, b in zip(one, same, strict=True))
    assert any(key.startswith("auxiliary.1.4.") for key in branching.state_dict())
    assert parameters(blank(TABLE, spec)) == parameters(branching)


def test_a_backbone_is_fitted_before_it_reads_its_weights(branching: Network) -> None:
    branching.fit(batch(9), goals(9), torch.Generator())
    assert branching.backbone.seen == ["fit", "load_pretrained"]


# ------------------------------------------------------------------------------------------------------------------ copies


def test_copies_say_their_mean_and_how_far_they_are_apart() -> None:
    net, rows = fitted(0, TABLE, spec_of("tabm", SMALL[2][1])), batch(5)
    net.head("v").residual.zero_()  # so that each copy has a variance of its own
    features, raw = net(rows)
    assert features.shape == (5, 3, 6)
    said = net.say(rows)
    for name in TARGETS:
        each = [net.head(name).predict(raw[name][:, k]) for k in range(3)]
        values = np.stack([array(value) for value, _ in each])
        assert array(said.values[name]) == pytest.approx(values.mean(0), rel=1e-6)
        if name == "v":
            variances = np.stack([array(variance) for _, variance in each if variance is not None])
            assert variances.std(0).min() > 0
            expected = (variances + values**2).mean(0) - values.mean(0) ** 2
            assert array(said.variances[name]) == pytest.approx(expected, rel=1e-5)
    assert said.features.equal(features.mean(1))


def test_copies_train_side_by_side() -> None:
    net = made(0, spec=spec_of("tabm", SMALL[2][1])).train()
    (branch,) = net.branches(net.preprocessing(batch(5)))
    assert {name: tuple(raw.shape) for name, raw in branch.raw.items()} == {
        "y": (5, 3, 3),
        "steps": (5, 3, 3),
        "marks": (5, 3, 2),
        "v": (5, 3, 2),
        "levels": (5, 3, 3),
    }
    assert net.copies == 3
    assert made(0).copies is None


# ------------------------------------------------------------------------------------------------------------- replicas


def test_replicas_say_their_mean() -> None:
    networks = [made(seed) for seed in range(3)]
    rows = batch(5)
    said = Replicated(networks)(rows)
    each = [net.say(rows) for net in networks]
    for name in TARGETS:
        expected = np.mean([array(s.values[name]) for s in each], axis=0)
        assert array(said.values[name]) == pytest.approx(expected, rel=1e-6)
    means = np.stack([array(s.values["v"]) for s in each])
    variances = np.stack([array(s.variances["v"]) for s in each])
    assert array(said.variances["v"]) == pytest.approx(variances.mean(0) + means.var(0))
    assert said.features.equal(torch.cat([s.features for s in each], 1))


def test_one_replica_says_what_the_network_says() -> None:
    net, rows = made(0), batch(5)
    said, alone = Replicated([net])(rows), net.say(rows)
    assert all(array(said.values[name]) == pytest.approx(array(alone.values[name])) for name in TARGETS)
    assert array(said.variances["v"]) == pytest.approx(array(alone.variances["v"]))


@given(st.permutations(range(4)))
def test_the_order_of_replicas_does_not_change_what_they_say(order: list[int]) -> None:
    said = [Said({"v": numbers(i, 3, 1)}, {"v": numbers(9 + i, 3, 1) ** 2}, numbers(i, 3, 2)) for i in range(4)]
    one, other = mean_said(said), mean_said([said[i] for i in order])
    assert one.values["v"].numpy() == pytest.approx(other.values["v"].numpy())
    assert one.variances["v"].numpy() == pytest.approx(other.variances["v"].numpy())


# ------------------------------------------------------------------------------------------------------------- variance


@given(st.integers(0, 999), st.integers(1, 5), st.booleans())
def test_a_mixtures_variance_is_its_second_moment_less_its_mean_squared(seed: int, count: int, weighted: bool) -> None:
    means, variances = numbers(seed, count, 4, 1), numbers(seed + 1, count, 4, 1) ** 2
    weights = numbers(seed + 2, count).softmax(0) if weighted else None
    w = (np.full(count, 1 / count) if weights is None else weights.numpy())[:, None, None]
    expected = (w * (variances.numpy() + means.numpy() ** 2)).sum(0) - (w * means.numpy()).sum(0) ** 2
    assert mixture_variance(means, variances, weights).numpy() == pytest.approx(expected, abs=1e-12)


def test_a_mixtures_variance_is_that_of_its_draws() -> None:
    random = np.random.default_rng(0)
    means, deviations, weights = np.array([-2.0, 1.0, 3.0]), np.array([0.5, 1.0, 2.0]), np.array([0.2, 0.5, 0.3])
    which = random.choice(3, 200_000, p=weights)
    draws = random.normal(means[which], deviations[which])
    variance = mixture_variance(torch.tensor(means), torch.tensor(deviations**2), torch.tensor(weights))
    assert float(variance) == pytest.approx(draws.var(), rel=0.02)


def test_equal_means_far_from_zero_lose_no_precision() -> None:
    variance = mixture_variance(torch.full((3, 1), 1e9, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64))
    assert variance.tolist() == pytest.approx([1.0])


# ----------------------------------------------------------------------------------------------------------------- rest


@given(st.integers(1, 20), st.integers(1, 25))
def test_batches_are_consecutive_and_complete(rows: int, size: int) -> None:
    arrays = {"a": torch.arange(rows), "b": torch.arange(rows)[:, None] * 2}
    parts = batches(arrays, size)
    assert [len(part["a"]) for part in parts] == [size] * (rows // size) + ([rows % size] if rows % size else [])
    assert torch.cat([part["a"] for part in parts]).equal(arrays["a"])
    assert torch.cat([part["b"] for part in parts]).equal(arrays["b"])


def test_parameters_are_counted() -> None:
    assert parameters(nn.Linear(3, 4)) == 16
    assert parameters(nn.BatchNorm1d(5)) == 10


def test_a_mixtures_variance_is_where_its_parts_are() -> None:
    """Without a GPU, torch's ``meta`` device shows whether a function mixes devices."""
    parts = torch.ones(3, 4, 1, device="meta")
    assert mixture_variance(parts, parts).device.type == "meta"
