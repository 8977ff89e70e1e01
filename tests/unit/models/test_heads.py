"""Heads against scipy, the formulas of their papers written out, and laws that hold for any raw output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.data.schema import TargetSchema
from fuseline.models.heads import HEADS, Head, hidden, layer_of, linear
from fuseline.models.losses import cross_entropy

THREE = TargetSchema(kind="classification", classes=["a", "b", "c"])
STEPS = TargetSchema(kind="ordinal", classes=[1, 2, 3, 4])
MARKS = TargetSchema(kind="multilabel", classes=["p", "q", "r"])
VALUE = TargetSchema(kind="regression")
LEVELS = TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9])
ALL = [THREE, STEPS, MARKS, VALUE, LEVELS]
SEEDS = st.integers(0, 999)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(schema: TargetSchema, features: int = 4, copies: int | None = None) -> Head:
    return Head(schema, linear(features, Head.outputs(schema), layer_of(copies)))


def ids(value: Any) -> str | None:
    return value.kind if isinstance(value, TargetSchema) else None


# -------------------------------------------------------------------------------------------------------------- modules


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("copies", [None, 4])
def test_a_head_module_has_the_shape_it_is_asked_for(name: str, copies: int | None) -> None:
    several = () if copies is None else (copies,)
    assert HEADS[name](6, 5, layer_of(copies))(torch.zeros(3, *several, 6)).shape == (3, *several, 5)


def test_the_hidden_layer_is_as_wide_as_it_is_told() -> None:
    module = hidden(6, 5, nn.Linear, width=11, dropout=0.25)
    assert [layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)] == [11, 5]
    assert [layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)] == [0.25]


@pytest.mark.parametrize("name", HEADS)
def test_every_copy_has_a_head_of_its_own(name: str) -> None:
    module = HEADS[name](6, 5, layer_of(3)).eval()
    row = normal(0, 6).float()
    one = module(row.expand(1, 3, 6))[0]
    assert not one[0].equal(one[1])
    other = torch.stack([row, row + 1, row])[None]
    changed = module(other)[0] != one
    assert changed.any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(("task", "outputs"), list(zip(ALL, [3, 3, 3, 2, 3], strict=True)), ids=ids)
def test_a_raw_output_is_as_wide_as_its_kind_needs(task: TargetSchema, outputs: int) -> None:
    assert Head.outputs(task) == outputs
    assert head(task)(torch.zeros(2, 4)).shape == (2, outputs)


@pytest.mark.parametrize("task", ALL, ids=ids)
def test_the_copies_of_a_row_are_read_one_by_one(task: TargetSchema) -> None:
    module = head(task, copies=4)
    features = normal(0, 5, 4, 4).float()
    raw = module(features)
    assert raw.shape == (5, 4, Head.outputs(task))
    values, variances = module.predict(raw)
    assert values.shape == (5, 4, task.width)
    assert (variances is not None) == (task.kind == "regression")
    for k in range(4):
        alone, variance = module.predict(raw[:, k])
        torch.testing.assert_close(values[:, k], alone)
        if variance is not None:
            assert variances is not None
            torch.testing.assert_close(variances[:, k], variance)


# ---------------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("task", [THREE, STEPS], ids=ids)
@given(seed=SEEDS)
def test_probabilities_sum_to_one_in_float64(task: TargetSchema, seed: int) -> None:
    probabilities, variance = head(task).predict((normal(seed, 8, 3) * 30).float())
    assert variance is None
    assert probabilities.dtype == torch.float64
    assert probabilities.sum(1).numpy() == pytest.approx(np.ones(8), abs=1e-12)
    assert (probabilities >= 0).all()


@given(SEEDS)
def test_classes_have_the_softmax_of_their_logits(seed: int) -> None:
    raw = normal(seed, 8, 3)
    assert head(THREE).predict(raw)[0].numpy() == pytest.approx(scipy_softmax(raw.numpy(), 1))
    torch.testing.assert_close(head(THREE).link(raw).exp().sum(1), torch.ones(8, dtype=torch.float64))


@given(SEEDS)
def test_labels_have_a_probability_each(seed: int) -> None:
    raw = normal(seed, 8, 3)
    assert head(MARKS).predict(raw)[0].numpy() == pytest.approx(expit(raw.numpy()))
    assert head(MARKS).link(raw).equal(raw)


# ---------------------------------------------------------------------------------------------------------------- ordinal


@given(SEEDS, st.integers(2, 6))
def test_an_ordinal_class_is_reached_step_by_step(seed: int, classes: int) -> None:
    """p_k = (1 − s_k) s_0 … s_{k−1}, where s_k is the probability of passing on from class k."""
    task = TargetSchema(kind="ordinal", classes=list(range(classes)))
    raw = normal(seed, classes - 1) * 3
    passing = expit(raw.numpy())
    expected = []
    for k in range(classes):
        product = 1.0 if k == classes - 1 else 1 - passing[k]
        for j in range(k):
            product *= passing[j]
        expected.append(product)
    assert head(task).predict(raw[None])[0][0].tolist() == pytest.approx(expected)


@given(SEEDS)
def test_what_passes_on_is_the_continuation_ratio(seed: int) -> None:
    """P(y > k | y ≥ k), found from the probabilities alone, is the sigmoid of the k-th logit."""
    raw = normal(seed, 3)
    p = head(STEPS).predict(raw[None])[0][0].numpy()
    ratios = [p[k + 1 :].sum() / p[k:].sum() for k in range(3)]
    assert ratios == pytest.approx(expit(raw.numpy()))


@given(SEEDS)
def test_the_cross_entropy_of_an_ordinal_target_is_that_of_corn(seed: int) -> None:
    """Shi et al. 2023: task k sees the rows of class k or above, and says whether they are above it."""
    raw, target = normal(seed, 10, 3), torch.arange(10) % 4
    expected = torch.zeros(10, dtype=torch.float64)
    for k in range(3):
        seen = target >= k
        above = (target > k).double()
        expected[seen] += F.binary_cross_entropy_with_logits(raw[seen, k], above[seen], reduction="none")
    torch.testing.assert_close(cross_entropy(head(STEPS).link(raw), target, STEPS), expected)


def test_an_ordinal_target_of_two_classes_is_a_logistic_regression() -> None:
    task, raw = TargetSchema(kind="ordinal", classes=[False, True]), normal(0, 5, 1)
    assert head(task).predict(raw)[0][:, 1].numpy() == pytest.approx(expit(raw[:, 0].numpy()))


# -------------------------------------------------------------------------------------------------------------- quantiles


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=4), st.booleans())
def test_quantiles_ascend_whatever_the_raw_output(raw: list[list[float]], double: bool) -> None:
    module = head(LEVELS)
    module.fit(torch.tensor([-3.0, 1.0, 8.0]))
    given_ = torch.tensor(raw, dtype=torch.float64 if double else torch.float32)
    for quantiles in (module.link(given_), module.predict(given_)[0], module.predict(given_)[0].float()):
        assert quantiles.isfinite().all()
        assert (quantiles.diff(dim=-1) >= 0).all()


@given(SEEDS)
def test_quantiles_are_the_lowest_and_the_steps_up_from_it(seed: int) -> None:
    raw = normal(seed, 3)
    lowest, first, second = raw.numpy()
    up = np.log1p(np.exp([first, second]))
    said = head(LEVELS).link(raw[None])[0]
    assert said.tolist() == pytest.approx([lowest, lowest + up[0], lowest + up[0] + up[1]])


@given(SEEDS, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_quantiles_come_back_in_their_own_units(seed: int, center: float, spread: float) -> None:
    module, raw = head(LEVELS), normal(seed, 6, 3)
    values = normal(seed + 1, 20) * spread + center
    module.fit(values)
    quantiles, variance = module.predict(raw)
    assert variance is None
    standard = module.standardise(quantiles).double()
    torch.testing.assert_close(standard, module.link(raw), rtol=1e-5, atol=1e-5)
    expected = module.link(raw) * values.std(correction=0) + values.mean()
    torch.testing.assert_close(quantiles, expected)


# ----------------------------------------------------------------------------------------------------------------- values


@given(SEEDS, st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
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


@pytest.mark.parametrize("task", [VALUE, LEVELS], ids=ids)
def test_unknown_values_are_left_out_of_the_units(task: TargetSchema) -> None:
    known = torch.tensor([1.0, 5.0, 9.0])
    with_gaps, without = head(task), head(task)
    with_gaps.fit(torch.tensor([torch.nan, 1.0, 5.0, torch.nan, 9.0]))
    without.fit(known)
    assert (float(with_gaps.center), float(with_gaps.spread)) == (float(without.center), float(without.spread))
    assert float(without.spread) == pytest.approx(float(np.std(known.numpy())))
    assert with_gaps.standardise(torch.tensor([torch.nan, 5.0])).isnan().tolist() == [True, False]


def test_a_residual_takes_the_place_of_a_variance_that_was_not_learnt() -> None:
    module = head(VALUE)
    module.fit(torch.tensor([0.0, 4.0]))
    module.residual.fill_(0.25)
    _, variance = module.predict(torch.tensor([[0.0, 5.0], [1.0, -5.0]]))
    assert variance is not None
    assert variance.tolist() == [[1.0], [1.0]]


def test_a_variance_has_the_bounds_that_its_loss_has() -> None:
    _, variance = head(VALUE).predict(torch.tensor([[0.0, 1e4], [0.0, -1e4]]))
    assert variance is not None
    assert variance[:, 0].tolist() == pytest.approx([np.exp(10), np.exp(-10)])


@pytest.mark.parametrize("task", [VALUE, LEVELS], ids=ids)
@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e-9, 123456.789])
@pytest.mark.parametrize("rows", [1, 3, 10])
def test_a_target_of_one_value_keeps_its_units(task: TargetSchema, value: float, rows: int) -> None:
    module = head(task)
    module.fit(torch.full((rows,), value, dtype=torch.float64))
    assert float(module.spread) == 1.0
    assert float(module.standardise(torch.tensor([value + 1], dtype=torch.float64))) == pytest.approx(1.0)


@pytest.mark.parametrize("task", [THREE, STEPS], ids=ids)
def test_codes_are_not_standardised(task: TargetSchema) -> None:
    codes = torch.tensor([0, 2, -1])
    module = head(task)
    module.fit(codes)
    assert module.standardise(codes).equal(codes)
    assert [name for name, _ in module.named_buffers()] == ["own"]


def test_labels_are_not_standardised() -> None:
    marks = torch.tensor([[0.0, 1.0, torch.nan]])
    module = head(MARKS)
    module.fit(marks)
    torch.testing.assert_close(module.standardise(marks), marks, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("task", [VALUE, LEVELS], ids=ids)
def test_units_survive_saving(task: TargetSchema) -> None:
    fitted, fresh = head(task), head(task)
    fitted.fit(torch.tensor([1.0, 5.0, 9.0]))
    if task.kind == "regression":
        fitted.residual.fill_(0.5)
    raw = normal(0, 4, Head.outputs(task))
    fresh.load_state_dict(fitted.state_dict())
    for one, other in zip(fresh.predict(raw), fitted.predict(raw), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (other is not None and one.equal(other))
