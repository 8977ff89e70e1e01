"""Embeddings of numbers against the package of their authors, and against the formula where the package stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rtdl_num_embeddings as package
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.models.embeddings import (
    EMBEDDINGS,
    PiecewiseLinear,
    PiecewiseLinearEncoding,
    embed_numbers,
    linear,
    periodic,
    piecewise_linear,
)


@pytest.fixture(autouse=True, scope="module")
def _own_chance() -> Iterator[None]:
    """Modules begin by the global generator; the tests after these find it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoding(x: Tensor, bins: int) -> PiecewiseLinearEncoding:
    module = PiecewiseLinearEncoding(x.shape[1], bins)
    module.fit(x, torch.ones_like(x, dtype=torch.bool))
    return module


def by_formula(x: float, edges: list[float]) -> list[float]:
    """Equation 1 of Gorishniy et al. 2022, bin by bin."""
    last = len(edges) - 2
    out = []
    for t in range(last + 1):
        if x < edges[t] and t > 0:
            out.append(0.0)
        elif x >= edges[t + 1] and t < last:
            out.append(1.0)
        else:
            out.append((x - edges[t]) / (edges[t + 1] - edges[t]))
    return out


# ------------------------------------------------------------------------------------------------------ piecewise linear


@given(st.integers(0, 9999), st.integers(1, 4), st.integers(2, 20), st.integers(40, 90))
@settings(max_examples=12)
def test_the_encoding_is_the_packages_where_edges_are_distinct(seed: int, columns: int, bins: int, rows: int) -> None:
    train = normal(seed, rows, columns) * 3
    oracle = package.PiecewiseLinearEncoding(package.compute_bins(train, bins))
    test = torch.cat([train, normal(seed + 1, 30, columns) * 6])  # inside the training rows' range and beyond
    out = encoding(train, bins)(test)
    assert out.shape == (rows + 30, columns, bins)
    assert out.flatten(1).detach().numpy() == pytest.approx(oracle(test).numpy(), rel=1e-3, abs=1e-3)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(2, 12))
def test_the_encoding_of_columns_with_ties_is_the_formula_over_distinct_edges(values: list[int], bins: int) -> None:
    train = torch.tensor(values, dtype=torch.float32)[:, None]
    edges = np.unique(np.quantile(np.array(values, dtype=float), np.linspace(0, 1, bins + 1)).astype(np.float32)).tolist()
    module = encoding(train, bins)
    assert module.edges.shape == (1, bins + 1)
    for x in (-5.0, -1.0, 0.25, 2.0, 7.5, *map(float, values)):
        out = module(torch.tensor([[x]]))[0, 0].tolist()
        expected = by_formula(x, edges) if len(edges) > 1 else []
        assert out == pytest.approx(expected + [0.0] * (bins - len(expected)), rel=1e-4, abs=1e-4)


def test_the_package_agrees_on_ties() -> None:
    train = torch.tensor([0.0] * 60 + [1.0, 2.0, 3.0, 4.0] * 5)[:, None]
    test = torch.linspace(-2, 6, 33)[:, None]
    oracle = package.PiecewiseLinearEncoding(package.compute_bins(train, 10))(test)
    out = encoding(train, 10)(test)[:, 0]
    assert out[:, : oracle.shape[1]].numpy() == pytest.approx(oracle.numpy(), abs=1e-5)
    assert not out[:, oracle.shape[1] :].any()


@pytest.mark.parametrize("value", [0.0, -3.5, 1e6])
def test_a_column_of_one_value_encodes_to_nothing(value: float) -> None:
    out = encoding(torch.full((9, 1), value), 4)(torch.tensor([[value], [-1e6], [1e6]]))
    assert out.tolist() == [[[0.0] * 4]] * 3


def test_values_that_float32_can_hardly_tell_apart_stay_finite() -> None:
    train = torch.tensor([0.0, 1e-30, 2e-30, 1.0, 1.0 + 1e-7, 5.0])[:, None]
    module = encoding(train, 6)
    widths = module.edges.diff()
    assert (widths[widths > 0] > 1e-7).all()
    assert module(torch.tensor([[-1e3], [1e3], [1e-30]])).isfinite().all()


def test_missing_numbers_make_no_edges() -> None:
    x = normal(0, 50, 2)
    known = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    known[:, 1] = False
    module = PiecewiseLinearEncoding(2, 5)
    module.fit(torch.where(known, x, 99.0), known)
    assert module.edges[0].tolist() == pytest.approx(np.quantile(x[known[:, 0], 0].numpy(), np.linspace(0, 1, 6)), rel=1e-5)
    assert module.edges[1].tolist() == [0.0] * 6
    assert not module(x)[:, 1].any()


def test_a_piecewise_linear_embedding_is_the_packages_version_b() -> None:
    train, test = normal(0, 80, 3), normal(1, 20, 3) * 2
    ours = PiecewiseLinear(3, 5, 8)
    ours.encoding.fit(train, torch.ones_like(train, dtype=torch.bool))
    oracle = package.PiecewiseLinearEmbeddings(package.compute_bins(train, 8), 5, activation=False, version="B")
    oracle.linear0.load_state_dict(ours.linear.state_dict())
    assert ours(test).detach().numpy() == pytest.approx(oracle(test).detach().numpy(), abs=1e-6)  # at first it is linear
    with torch.no_grad():
        ours.weight.copy_(normal(2, 3, 8, 5))
        oracle.linear.weight.copy_(ours.weight)
    assert ours(test).detach().numpy() == pytest.approx(oracle(test).detach().numpy(), rel=1e-3, abs=1e-3)


def test_a_piecewise_linear_embedding_that_was_not_fitted_is_linear() -> None:
    module = piecewise_linear(2, 4)
    nn.init.ones_(module.weight)
    assert module(normal(0, 5, 2)).equal(module.linear(normal(0, 5, 2)))


# ---------------------------------------------------------------------------------------------------------------- others


@pytest.mark.parametrize("lite", [False, True])
def test_a_periodic_embedding_is_the_formula(lite: bool) -> None:
    torch.manual_seed(0)
    module = periodic(3, 7, frequencies=5, sigma=0.5, lite=lite)
    x = normal(0, 11, 3)
    c = module.periodic.weight.detach().numpy()
    angle = 2 * np.pi * c * x.numpy()[..., None]
    waves = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    if lite:
        out = waves @ module.linear.weight.detach().numpy().T + module.linear.bias.detach().numpy()
    else:
        out = np.einsum("bpf,pfe->bpe", waves, module.linear.weight.detach().numpy()) + module.linear.bias.detach().numpy()
    assert module(x).detach().numpy() == pytest.approx(np.maximum(out, 0), abs=1e-5)


def test_a_periodic_embedding_has_the_packages_settings() -> None:
    torch.manual_seed(3)
    ours = periodic(4, 6, size=9, frequencies=200, sigma=0.3)
    torch.manual_seed(3)
    oracle = package.PeriodicEmbeddings(4, 9, n_frequencies=200, frequency_init_scale=0.3, lite=False)
    assert ours(normal(0, 5, 4)).equal(oracle(normal(0, 5, 4)))
    assert float(ours.periodic.weight.detach().std()) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("relu", [False, True])
def test_a_linear_embedding_is_a_line_for_each_column(relu: bool) -> None:
    module = linear(3, 4, relu=relu)
    lines = module.linear if relu else module
    x = normal(0, 6, 3)
    expected = x[..., None] * lines.weight + lines.bias
    assert module(x).detach().numpy() == pytest.approx((expected.relu() if relu else expected).detach().numpy(), abs=1e-6)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_embedding_has_its_size_and_gradients(name: str) -> None:
    for size, expected in ((None, 16), (5, 5)):
        module, told = embed_numbers(Component(name=name, settings={"size": size}), 3, 16)
        assert module is not None
        if isinstance(module, PiecewiseLinear):
            module.encoding.fit(normal(1, 60, 3), torch.ones(60, 3, dtype=torch.bool))
        out = module(normal(0, 8, 3))
        assert out.shape == (8, 3, expected)
        assert told == expected
        (out**2).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_columns_are_embedded_apart() -> None:
    """What one column says does not change another's embedding."""
    for name in EMBEDDINGS:
        module, _ = embed_numbers(Component(name=name), 3, 16)
        assert module is not None
        x = normal(0, 4, 3)
        other = x.clone()
        other[:, 1] += 5
        assert module(x)[:, [0, 2]].equal(module(other)[:, [0, 2]])
        assert not module(x)[:, 1].equal(module(other)[:, 1])


def test_no_numbers_or_no_embedding_is_none() -> None:
    assert embed_numbers(None, 3, 16) == (None, 1)
    assert embed_numbers(Component(name="periodic"), 0, 16) == (None, 1)


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ("periodc", "did you mean 'periodic'"),
        ({"periodic": {"sigma": 0}}, "numbers.periodic.sigma"),
        ({"piecewise_linear": {"bins": 1}}, "numbers.piecewise_linear.bins"),
        ({"linear": {"size": 0}}, "numbers.linear.size"),
    ],
)
def test_a_wrong_embedding_is_refused_even_without_numbers(refusal: Callable[..., str], numbers: Any, word: str) -> None:
    for columns in (0, 2):
        assert word in refusal(RecipeError, embed_numbers, Component.model_validate(numbers), columns, 16)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_settings_are_complete_after_once(name: str) -> None:
    once = complete(Component(name=name), EMBEDDINGS, "numbers")
    assert complete(once, EMBEDDINGS, "numbers") == once
