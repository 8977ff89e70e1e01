"""Heads and losses against scipy, scikit-learn and their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import norm
from sklearn.metrics import log_loss, mean_squared_error
from torch import Tensor, nn

from fuseline.data.schema import TargetSchema
from fuseline.models.heads import HEADS, LOSSES, Head, cross_entropy, gaussian_nll, hidden, linear, squared_error

THREE = TargetSchema(kind="classification", classes=["a", "b", "c"])
VALUE = TargetSchema(kind="regression")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(schema: TargetSchema, features: int = 4) -> Head:
    return Head(schema, linear(features, Head.outputs(schema)))


# --------------------------------------------------------------------------------------------------------------- losses


@given(st.integers(0, 999), st.sampled_from([0.0, 0.1, 0.5]))
def test_cross_entropy_is_the_mean_log_loss_of_the_smoothed_targets(seed: int, smoothing: float) -> None:
    logits, codes = normal(seed, 8, 3), torch.arange(8) % 3
    wanted = (1 - smoothing) * np.eye(3)[codes] + smoothing / 3
    expected = -(wanted * log_softmax(logits.numpy(), axis=1)).sum(1).mean()
    assert float(cross_entropy(logits, codes, smoothing=smoothing)) == pytest.approx(expected)
    if smoothing == 0:
        assert expected == pytest.approx(log_loss(codes, logits.softmax(1)))


@given(st.integers(0, 999))
def test_squared_error_looks_at_the_mean_only(seed: int) -> None:
    raw, target = normal(seed, 8, 2), normal(seed + 1, 8)
    assert float(squared_error(raw, target)) == pytest.approx(mean_squared_error(target, raw[:, 0]))
    assert float(squared_error(raw, target)) == float(squared_error(raw * torch.tensor([1.0, 9.0]), target))


@given(st.integers(0, 999))
def test_gaussian_nll_is_the_negative_log_density_up_to_its_constant(seed: int) -> None:
    raw, target = normal(seed, 8, 2), normal(seed + 1, 8)
    mean, deviation = raw[:, 0].numpy(), np.exp(raw[:, 1].numpy() / 2)
    expected = -norm.logpdf(target.numpy(), mean, deviation).mean() - 0.5 * np.log(2 * np.pi)
    assert float(gaussian_nll(raw, target)) == pytest.approx(expected)


@pytest.mark.parametrize("log_variance", [-1e4, 1e4])
def test_gaussian_nll_stays_finite_far_out(log_variance: float) -> None:
    assert gaussian_nll(torch.tensor([[1.0, log_variance]]), torch.tensor([3.0])).isfinite()


def test_the_first_loss_of_each_kind_takes_what_a_head_gives() -> None:
    for kind, schema, target in (("classification", THREE, torch.tensor([0, 1, 2])), ("regression", VALUE, torch.rand(3))):
        raw = head(schema)(torch.rand(3, 4))
        for loss in LOSSES[kind].values():
            assert loss(raw, target).shape == ()


# ---------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("name", HEADS)
def test_a_head_module_has_the_shape_it_is_asked_for(name: str) -> None:
    assert HEADS[name](6, 5)(torch.zeros(3, 6)).shape == (3, 5)


def test_the_hidden_layer_is_as_wide_as_it_is_told() -> None:
    module = hidden(6, 5, width=11)
    assert [layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)] == [11, 5]


def test_a_regression_head_says_two_numbers() -> None:
    assert (Head.outputs(THREE), Head.outputs(VALUE)) == (3, 2)


@given(st.integers(0, 999))
def test_probabilities_sum_to_one_in_float64(seed: int) -> None:
    raw = (normal(seed, 8, 3) * 30).float()
    probabilities, variance = head(THREE).predict(raw)
    assert variance is None
    assert probabilities.dtype == torch.float64
    assert probabilities.sum(1).numpy() == pytest.approx(np.ones(8), abs=1e-12)
    assert (probabilities >= 0).all()
    assert (probabilities.argmax(1) == raw.argmax(1)).all()


@given(st.integers(0, 999), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_values_come_back_in_their_own_units(seed: int, center: float, spread: float) -> None:
    values = normal(seed, 20) * spread + center
    module = head(VALUE)
    module.fit(values)
    standard = module.standardise(values)
    assert standard.dtype == torch.float32
    assert float(standard.double().mean()) == pytest.approx(0, abs=1e-5)
    assert float(standard.double().std(correction=0)) == pytest.approx(1, rel=1e-5)
    raw = torch.stack([standard, torch.linspace(-2, 2, 20)], 1)
    back, variance = module.predict(raw)
    assert variance is not None
    assert back.shape == variance.shape == (20, 1)
    assert back[:, 0].numpy() == pytest.approx(values.numpy(), abs=1e-5 * spread + 1e-9 * abs(center))
    assert variance[:, 0].numpy() == pytest.approx(np.exp(np.linspace(-2, 2, 20)) * float(values.var(correction=0)), rel=1e-5)


def test_a_residual_takes_the_place_of_a_variance_that_was_not_learnt() -> None:
    module = head(VALUE)
    module.fit(torch.tensor([0.0, 4.0]))
    module.residual.fill_(0.25)
    _, variance = module.predict(torch.tensor([[0.0, 5.0], [1.0, -5.0]]))
    assert variance is not None
    assert variance.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e-9, 123456.789])
@pytest.mark.parametrize("rows", [1, 3, 10])
def test_a_target_of_one_value_keeps_its_units(value: float, rows: int) -> None:
    module = head(VALUE)
    module.fit(torch.full((rows,), value, dtype=torch.float64))
    assert float(module.spread) == 1.0
    assert float(module.standardise(torch.tensor([value + 1], dtype=torch.float64))) == pytest.approx(1.0)


def test_codes_are_not_standardised() -> None:
    codes = torch.tensor([0, 2, 1])
    module = head(THREE)
    module.fit(codes)
    assert module.standardise(codes).equal(codes)


def test_units_survive_saving() -> None:
    fitted, fresh = head(VALUE), head(VALUE)
    fitted.fit(torch.tensor([1.0, 5.0, 9.0]))
    fitted.residual.fill_(0.5)
    raw = normal(0, 4, 2)
    fresh.load_state_dict(fitted.state_dict())
    for one, other in zip(fresh.predict(raw), fitted.predict(raw), strict=True):
        assert one is not None
        assert other is not None
        assert one.equal(other)
