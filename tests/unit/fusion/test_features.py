"""The feature head: reproducible, able to learn, and free of the features' and the target's units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuseline.fusion.combine import Outputs
from fuseline.fusion.features import features

MEMBERS = 2


def fit(outputs, y, seed=0, **settings):
    return features(outputs, y, torch.Generator().manual_seed(seed), **settings)


def two_rings(seed, rows=300):
    """Features around the origin, and whether they lie outside a circle: not separable by a line."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2))
    radius = np.linalg.norm(x, axis=1)
    x = x[abs(radius - 1.2) > 0.15]
    y = (np.linalg.norm(x, axis=1) > 1.2).astype(int)
    return Outputs(torch.full((MEMBERS, len(y), 2), 0.5).double(), None, torch.from_numpy(x)), torch.from_numpy(y)


def line(seed, rows=200, unit=1.0, center=0.0):
    """Values that are linear in the features, while the members themselves know nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    y = unit * (x @ [1.0, -1.0, 0.5]) + center
    shape = (MEMBERS, rows, 1)
    return Outputs(torch.zeros(shape).double(), torch.ones(shape).double(), torch.from_numpy(x)), torch.from_numpy(y)


def r2(values, y):
    return 1 - float(((values[:, 0] - y) ** 2).mean() / y.var(correction=0))


def test_the_generator_alone_decides():
    outputs, y = two_rings(0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fit(outputs, y, steps=10).tensors()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = (fit(outputs, y, seed, steps=10).tensors() for seed in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["w1"], other["w1"])


def test_a_problem_that_no_line_separates_is_learnt():
    outputs, y = two_rings(1)
    fresh, truth = two_rings(2)
    said = fit(outputs, y, dropout=0.0)(fresh).values
    assert (said.argmax(1) == truth).double().mean() > 0.93
    assert max(truth.double().mean(), 1 - truth.double().mean()) < 0.7
    assert torch.allclose(said.sum(1), torch.ones(len(truth)).double())


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "silu"])
def test_each_activation_learns_the_function_that_it_is_used_with(activation):
    outputs, y = line(3)
    fresh, truth = line(4)
    assert r2(fit(outputs, y, activation=activation, dropout=0.0, lr=0.02, steps=100)(fresh).values, truth) > 0.9


@pytest.mark.parametrize(("unit", "center"), [(1000.0, 5e4), (1e-4, 0.3)])
def test_values_come_back_in_the_targets_unit(unit, center):
    plain, scaled = ((line(5, unit=u, center=c), line(6, unit=u, center=c)) for u, c in ((1.0, 0.0), (unit, center)))
    (learn, y), (fresh, _) = plain
    (same, scaled_y), _ = scaled
    expected = fit(learn, y, steps=60)(fresh).values * unit + center
    assert torch.allclose(fit(same, scaled_y, steps=60)(fresh).values, expected, rtol=0, atol=1e-3 * unit)
    assert expected.std() > 0.3 * unit


def test_the_units_of_the_features_change_nothing():
    outputs, y = two_rings(7)
    moved = outputs._replace(features=outputs.features * torch.tensor([1e3, 1e-3]) + torch.tensor([5e3, -7.0]))
    before, after = (fit(o, y, steps=60)(o).values for o in (outputs, moved))
    assert torch.allclose(before, after, rtol=0, atol=1e-3)
    assert before.std() > 0.05


def test_a_feature_that_does_not_vary_and_a_target_that_does_not_give_no_nan():
    outputs, y = line(8)
    outputs.features[:, 1] = 3.0
    assert torch.isfinite(fit(outputs, y, steps=5)(outputs).values).all()
    constant = fit(outputs, torch.full_like(y, 0.1), steps=5)(outputs).values
    assert torch.allclose(constant, torch.full_like(constant, 0.1))


def test_the_variance_is_that_of_the_members_even_mixture():
    outputs, y = line(9)
    outputs.values[1] = 4.0
    assert fit(outputs, y, steps=2)(outputs).variances.unique().tolist() == pytest.approx([1 + 4])


def test_classes_that_the_rows_lack_are_still_given_a_probability():
    outputs, y = two_rings(10)
    wide = outputs._replace(values=torch.full((MEMBERS, len(y), 4), 0.25).double())
    said = fit(wide, y, steps=30)(wide).values
    assert said.shape == (len(y), 4)
    assert (said > 0).all()


def test_settings_shape_the_head():
    outputs, y = two_rings(11)
    tensors = fit(outputs, y, hidden=5, activation="silu", steps=1).tensors()
    assert tensors["w1"].shape == (5, 2)
    assert tensors["w2"].shape == (2, 5)
    assert int(tensors["activation"]) == 3


def test_weight_decay_holds_the_weights_down():
    outputs, y = two_rings(12)
    free, held = (fit(outputs, y, weight_decay=d, lr=0.05).tensors()["w1"].norm() for d in (0.0, 10.0))
    assert held < free / 2
