"""The gate: even at its start, on the simplex always, able to find who is right where, and harmless where nobody is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from fuseline.data.schema import TargetSchema
from fuseline.fusion.combine import Outputs
from fuseline.fusion.experts import Gate
from fuseline.fusion.gating import gate
from fuseline.fusion.scores import row_losses

LAWS = settings(derandomize=True, deadline=None, max_examples=10)
LABELS = TargetSchema(kind="multilabel", classes=["a", "b", "c"])
QUANTILES = TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9])
VALUE = TargetSchema(kind="regression")
KINDS = ["classification", "ordinal", "multilabel", "regression", "quantile"]


def fit(outputs, y, seed=0, **choices):
    return gate(outputs, y, torch.Generator().manual_seed(seed), **choices)


def regions(kind, seed, rows=300, noise=0):
    """Three members, each right in its third of the plane; the features are the place and some noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2 + noise))
    home = np.floor((np.arctan2(x[:, 1], x[:, 0]) / np.pi + 1) * 1.5).clip(0, 2)
    right = 3.0 * (home == np.arange(3)[:, None])[:, :, None]
    said, features = rng.normal(size=(3, rows, 3)), torch.from_numpy(x)
    if kind == "multilabel":
        y = rng.integers(0, 2, (rows, 3)).astype(float)
        values = 1 / (1 + np.exp(-(said + right * (2 * y - 1))))
        y[rng.random((rows, 3)) < 0.1] = np.nan
        return Outputs(torch.from_numpy(values), None, features, task=LABELS), torch.from_numpy(y)
    if kind in ("regression", "quantile"):
        y = rng.normal(size=rows)
        values = y[:, None] + said[:, :, :1] / (1 + right)
        if kind == "regression":
            return Outputs(torch.from_numpy(values), torch.ones(3, rows, 1).double(), features, task=VALUE), torch.from_numpy(y)
        values = values + np.array([-0.2, 0.0, 0.2])
        return Outputs(torch.from_numpy(values), None, features, task=QUANTILES), torch.from_numpy(y)
    y = rng.integers(0, 3, rows)
    task = TargetSchema(kind=kind, classes=["a", "b", "c"])
    return Outputs(torch.from_numpy(softmax(said + right * np.eye(3)[y], 2)), None, features, task=task), torch.from_numpy(y)


def shuffled(outputs, y, seed):
    return outputs, y[torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))]


def loss(fused, y):
    return float(row_losses(fused, y).mean())


def of_mean(outputs, y):
    return loss(outputs.fused(outputs.values.mean(0)), y)


def of_best_static_mixture(outputs, y):
    """The lowest loss of weights on a grid over the simplex, chosen on the very rows that judge."""
    grid = [(i / 20, j / 20, 1 - (i + j) / 20) for i in range(21) for j in range(21 - i)]
    mixed = (torch.einsum("m,mbc->bc", torch.tensor(w).double(), outputs.values) for w in grid)
    return min(loss(outputs.fused(values), y) for values in mixed)


@pytest.mark.parametrize("kind", KINDS)
def test_members_right_in_regions_of_their_own_are_found_there(kind):
    (outputs, y), (fresh, truth) = regions(kind, 0), regions(kind, 1)
    assert loss(fit(outputs, y, lr=0.03, steps=100)(fresh), truth) < 0.75 * of_best_static_mixture(fresh, truth)


def test_the_weight_is_highest_where_a_member_is_at_home():
    outputs, y = regions("classification", 2)
    shares = fit(outputs, y, lr=0.03, steps=100).shares(outputs)[:, :, 0]
    x = outputs.features
    home = ((torch.atan2(x[:, 1], x[:, 0]) / math.pi + 1) * 1.5).floor().clamp(0, 2)
    assert (shares.argmax(0) == home).double().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [30, 150])
def test_a_target_that_nobody_knows_leaves_about_the_mean(kind, rows):
    outputs, y = shuffled(*regions(kind, 3, rows, noise=30), seed=4)
    fresh, truth = shuffled(*regions(kind, 5, 500, noise=30), seed=6)
    assert loss(fit(outputs, y, steps=100)(fresh), truth) < 1.07 * of_mean(fresh, truth)


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_before_it_learns_it_is_the_mean_exactly(kind, hidden):
    outputs, y = regions(kind, 7, 20)
    said = fit(outputs, y, hidden=hidden, lr=1e-300, steps=1)(outputs)
    assert torch.allclose(said.values, outputs.values.mean(0), rtol=0, atol=1e-12)


@LAWS
@given(st.integers(0, 9999), st.sampled_from(KINDS), st.sampled_from([0, 3]), st.sampled_from(["features", "outputs"]))
def test_shares_are_on_the_simplex_and_outputs_keep_their_kinds_laws(seed, kind, hidden, sees):
    (outputs, y), (ask, _) = regions(kind, seed, 20), regions(kind, seed + 1, 20)
    combiner = fit(outputs, y, sees=sees, hidden=hidden, lr=0.5, steps=10)
    shares, fused = combiner.shares(ask), combiner(ask)
    assert shares.shape == (3, 20, 1)
    assert (shares >= 0).all()
    assert torch.allclose(shares.sum(0), torch.ones(()).double())
    assert torch.allclose(fused.values, torch.einsum("mb,mbc->bc", shares[:, :, 0], ask.values))
    if kind in ("classification", "ordinal"):
        assert torch.allclose(fused.values.sum(1), torch.ones(20).double())
    if kind == "quantile":
        assert (fused.values.diff(dim=1) >= 0).all()
    if kind == "regression":
        second = (shares * (ask.variances + ask.values**2)).sum(0)
        assert torch.allclose(fused.variances, second - fused.values**2)


@pytest.mark.parametrize("hidden", [0, 4])
def test_the_combiner_is_the_network_that_its_tensors_describe(hidden):
    outputs, y = regions("classification", 8, 40)
    combiner = fit(outputs, y, hidden=hidden, steps=10)
    kept = {name: tensor.numpy() for name, tensor in combiner.tensors().items()}
    x = outputs.features.numpy()
    x = (x - x.mean(0)) / x.std(0)
    x = np.tanh(x @ kept["w"].T + kept["b"]) if hidden else x
    expected = softmax(x @ kept["v"].T + kept["c"], 1)
    assert expected.std() > 1e-3
    assert combiner.shares(outputs)[:, :, 0].T.numpy() == pytest.approx(expected)
    assert torch.equal(Gate(combiner.tensors())(outputs).values, combiner(outputs).values)


def test_the_generator_alone_decides():
    outputs, y = regions("classification", 9, 40)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fit(outputs, y, steps=5).tensors()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (fit(outputs, y, seed, steps=5).tensors() for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["w"], other["w"])


@pytest.mark.parametrize("kind", ["regression", "quantile"])
@pytest.mark.parametrize("unit", [1e-4, 1e5])
def test_the_targets_unit_changes_no_weight(kind, unit):
    outputs, y = regions(kind, 10, 60)
    variances = None if outputs.variances is None else outputs.variances * unit**2
    scaled = outputs._replace(values=outputs.values * unit, variances=variances)
    before, after = fit(outputs, y, steps=20).shares(outputs), fit(scaled, y * unit, steps=20).shares(scaled)
    assert before.std() > 0.01
    assert torch.allclose(before, after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sees", ["outputs", "features", "inputs"])
def test_a_row_is_seen_by_what_the_setting_says_whatever_its_units(sees):
    outputs, y = regions("regression", 11, 60)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 60, 3)))
    outputs = outputs._replace(features=noise[0], inputs=noise[1])
    seen = {"outputs": outputs.values.transpose(0, 1).flatten(1), "features": noise[0], "inputs": noise[1]}[sees]
    moved = outputs._replace(features=seen * torch.tensor([1e-9, 1e3, 1.0]) + 7e-9)
    alone = outputs._replace(**{name: None for name in ("features", "inputs") if name != sees})
    expected = fit(moved, y, steps=10)(moved).values
    assert torch.allclose(fit(alone, y, sees=sees, steps=10)(alone).values, expected, rtol=1e-6)
    others = [fit(outputs, y, sees=other, steps=10)(outputs).values for other in {"outputs", "features", "inputs"} - {sees}]
    assert not any(torch.allclose(other, expected, rtol=1e-6) for other in others)


def test_evenness_holds_the_weights_together_and_more_so_with_fewer_rows():
    outputs, y = regions("classification", 12, 20)

    def unevenness(times, evenness):
        part = outputs.rows(torch.arange(20).repeat(times))
        return float(fit(part, y.repeat(times), dropout=0.0, steps=60, evenness=evenness).shares(outputs).std())

    free, some, much = (unevenness(1, evenness) for evenness in (0.0, 3.0, 100.0))
    assert free > 1.2 * some > 10 * much
    assert unevenness(10, 3.0) > 1.2 * some
    assert unevenness(9, 3.0) == pytest.approx(unevenness(1, 1.0), rel=1e-6)  # 3 / √9: the rows are the same nine times over


def test_what_does_not_vary_gives_no_nan():
    outputs, y = regions("regression", 13, 20)
    outputs.features[:, 0] = 0.1
    assert torch.isfinite(fit(outputs, y, steps=5)(outputs).values).all()
    exact = outputs._replace(values=torch.full_like(outputs.values, 0.3))
    said = fit(exact, torch.full_like(y, 0.3), steps=5)(exact)
    assert torch.allclose(said.values, exact.values[0])
    alone = outputs._replace(values=outputs.values[:1], variances=outputs.variances[:1])
    assert torch.allclose(fit(alone, y, steps=5)(alone).values, alone.values[0])
    assert fit(outputs, y, steps=5)(outputs.rows(torch.arange(0))).values.shape == (0, 1)
