"""Networks, replicas and the law of total variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.network import Network, NetworkSpec, Replicated, Said, batches, mean_said, mixture_variance, parameters

TARGETS = {"y": TargetSchema(kind="classification", classes=[0, 1, 2]), "v": TargetSchema(kind="regression")}
SCHEMA = Schema(numeric=["a", "b"], categorical={"c": ["x", "y"]}, targets=TARGETS)
SPEC = NetworkSpec(
    architecture=Component(name="mlp", settings={"hidden": [5]}),
    heads={"y": Component(name="linear"), "v": Component(name="hidden", settings={"width": 3})},
)


def network(seed: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(SCHEMA, SPEC).eval()


def batch(rows: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, 2, generator=generator)
    return {"numeric": numbers, "categorical": torch.randint(0, 4, (rows, 1), generator=generator)}


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_network_says_something_of_every_target() -> None:
    said = network(0).say(batch(7))
    assert {name: tuple(values.shape) for name, values in said.values.items()} == {"y": (7, 3), "v": (7, 1)}
    assert {name: tuple(values.shape) for name, values in said.variances.items()} == {"v": (7, 1)}
    assert said.features.shape == (7, 5)
    assert {t.dtype for t in (*said.values.values(), *said.variances.values(), said.features)} == {torch.float32}
    assert said.values["y"].sum(1).detach().numpy() == pytest.approx(np.ones(7))
    assert (said.variances["v"] > 0).all()


def test_forward_gives_the_features_that_the_heads_see() -> None:
    net = network(0)
    features, raw = net(batch(4))
    assert raw["y"].equal(net.head("y")(features))
    assert raw["v"].equal(net.head("v")(features))


def test_a_row_does_not_depend_on_the_others_in_its_batch() -> None:
    net, whole = network(0), batch(6)
    parts = [net.say(part) for part in batches(whole, 1)]
    for name, values in net.say(whole).values.items():
        assert torch.cat([part.values[name] for part in parts]).detach().numpy() == pytest.approx(values.detach().numpy())


def test_a_saved_network_says_the_same() -> None:
    one, other = network(0), network(1)
    assert (one.say(batch(4)).values["y"] != other.say(batch(4)).values["y"]).any()
    other.load_state_dict(one.state_dict())
    assert one.say(batch(4)).values["y"].equal(other.say(batch(4)).values["y"])


def test_pictures_go_through_a_network_as_bytes() -> None:
    schema = Schema(image=(1, 7, 5), targets=TARGETS)
    spec = SPEC.model_copy(update={"architecture": Component(name="cnn", settings={"channels": [2, 3], "features": 4})})
    said = Network(schema, spec).eval().say({"image": torch.arange(70, dtype=torch.uint8).reshape(2, 1, 7, 5)})
    assert said.features.shape == (2, 4)
    assert said.values["y"].shape == (2, 3)


# ------------------------------------------------------------------------------------------------------------- replicas


def test_replicas_say_their_mean() -> None:
    networks = [network(seed) for seed in range(3)]
    rows = batch(5)
    said = Replicated(networks)(rows)
    each = [net.say(rows) for net in networks]
    for name in ("y", "v"):
        expected = np.mean([s.values[name].detach().double().numpy() for s in each], axis=0)
        assert said.values[name].detach().numpy() == pytest.approx(expected, rel=1e-6)
    means = np.stack([s.values["v"].detach().double().numpy() for s in each])
    variances = np.stack([s.variances["v"].detach().double().numpy() for s in each])
    assert said.variances["v"].detach().numpy() == pytest.approx(variances.mean(0) + means.var(0))
    assert said.features.equal(torch.cat([s.features for s in each], 1))


def test_one_replica_says_what_the_network_says() -> None:
    net, rows = network(0), batch(5)
    said, alone = Replicated([net])(rows), net.say(rows)
    assert said.values["y"].detach().numpy() == pytest.approx(alone.values["y"].detach().numpy())
    assert said.variances["v"].detach().numpy() == pytest.approx(alone.variances["v"].detach().numpy())


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
