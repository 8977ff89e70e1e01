"""The heads on features: reproducible, able to learn, and free of the features' and the target's units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuseline.data.schema import TargetSchema
from fuseline.fusion.attention import AttentionHead
from fuseline.fusion.combine import Outputs
from fuseline.fusion.combiners import COMBINERS, combiner_name
from fuseline.fusion.features import _labels_loss, features
from fuseline.fusion.scores import row_losses

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


LEVELS = [0.1, 0.5, 0.9]
WIDTHS = (2, 3, 1)
MERGES = ["concatenate", "attention"]
TASKS = {
    "classification": TargetSchema(kind="classification", classes=[0, 1, 2]),
    "ordinal": TargetSchema(kind="ordinal", classes=[0, 1, 2]),
    "multilabel": TargetSchema(kind="multilabel", classes=["a", "b"]),
    "regression": TargetSchema(kind="regression"),
    "quantile": TargetSchema(kind="quantile", levels=LEVELS),
}


def signals(kind, seed, rows=250):
    """Features of three members, the target in the first two of the second member's three, and members that know nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6))
    signal = x[:, 2:4]
    task = TASKS[kind]
    y = signal[:, 0] + 0.3 * rng.normal(size=rows)
    if task.exclusive:
        y = np.digitize(y, [-0.5, 0.5])
    if kind == "multilabel":
        y = (signal > 0).astype(float)
        y[rng.random(y.shape) < 0.3] = np.nan
        y[np.isnan(y).all(1), 0] = signal[np.isnan(y).all(1), 0] > 0
    values = np.full((3, rows, task.width), 1 / 3 if task.exclusive else 0.5)
    variances = torch.ones(3, rows, 1).double() if kind == "regression" else None
    said = Outputs(torch.from_numpy(values), variances, torch.from_numpy(x), task=task, widths=WIDTHS)
    return said, torch.from_numpy(y)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kind", TASKS)
def test_every_kind_is_learnt(kind, merge):
    (outputs, y), (fresh, truth) = signals(kind, 20), signals(kind, 21)
    combiner = fit(outputs, y, merge=merge, hidden=16, dropout=0.1, lr=0.02, steps=120)
    fused = combiner(fresh)
    if outputs.exclusive:
        chance = np.log(3)
    elif kind == "multilabel":
        chance = np.log(2)
        assert (fused.values - fused.values.round()).abs().max() < 0.5
    else:
        constant = torch.quantile(truth, torch.tensor(LEVELS).double()) if kind == "quantile" else truth.mean()[None]
        chance = row_losses(fresh.fused(constant.expand(len(truth), -1), fresh.variances), truth).mean()
    assert row_losses(fused, truth).mean() < 0.6 * chance
    assert fused.task == outputs.task


@pytest.mark.parametrize("merge", MERGES)
def test_quantiles_are_in_order_and_cover_as_they_say(merge):
    (outputs, y), (fresh, truth) = signals("quantile", 22, rows=600), signals("quantile", 23, rows=600)
    said = fit(outputs, y, merge=merge, dropout=0.0, lr=0.02, steps=150)(fresh).values
    assert (said.diff(dim=1) >= 0).all()
    assert (truth[:, None] < said).double().mean(0).tolist() == pytest.approx(LEVELS, abs=0.1)


def test_the_labels_loss_is_the_mean_row_loss_of_the_known_ones():
    outputs, y = signals("multilabel", 24)
    raw = torch.from_numpy(np.random.default_rng(24).normal(size=y.shape))
    expected = row_losses(outputs.fused(raw.sigmoid()), y).mean()
    assert float(_labels_loss(y)(raw.float())) == pytest.approx(float(expected), rel=1e-5)


def test_an_unknown_label_teaches_nothing():
    outputs, y = signals("multilabel", 25)
    y[:, 1] = torch.nan
    y[:, 0] = y[:, 0].nan_to_num()
    combiner = fit(outputs, y, weight_decay=0.0, steps=30)
    assert float(combiner.tensors()["b2"][1]) == 0
    assert float(combiner.tensors()["b2"][0]) != 0


@pytest.mark.parametrize("kind", TASKS)
def test_attention_sums_to_one_in_every_row(kind):
    outputs, y = signals(kind, 26)
    combiner = fit(outputs, y, merge="attention", hidden=8, steps=20)
    assert isinstance(combiner, AttentionHead)
    shares = combiner.attention(outputs)
    assert shares.shape == (len(y), 3)
    assert (shares > 0).all()
    assert torch.allclose(shares.sum(1), torch.ones(len(y)).double(), rtol=0, atol=1e-12)


def test_attention_turns_to_the_only_member_that_knows():
    outputs, y = signals("classification", 27, rows=400)
    fresh, truth = signals("classification", 28, rows=400)
    combiner = fit(outputs, y, merge="attention", hidden=16, lr=0.02, steps=200)
    shares = combiner.attention(fresh).mean(0)
    assert shares.argmax() == 1
    assert shares[1] > 0.5
    correct = (combiner(fresh).values.argmax(1) == truth).double().mean()
    assert correct > 0.65 > truth.bincount().max() / len(truth) + 0.2


def test_an_attention_head_is_what_its_formula_says():
    outputs, y = signals("regression", 29, rows=12)
    tensors = fit(outputs, y, merge="attention", hidden=5, activation="tanh", steps=3).tensors()
    t = {name: tensor.numpy() for name, tensor in tensors.items()}
    x = (outputs.features.numpy() - t["mean"]) / t["scale"]
    for row in range(12):
        ends = np.cumsum(WIDTHS)
        h = [t["w1"][:, e - w : e] @ x[row, e - w : e] + t["b1"][m] for m, (e, w) in enumerate(zip(ends, WIDTHS, strict=True))]
        scores = np.exp([t["q"] @ np.tanh(t["v"] @ one) for one in h])
        pooled = sum(share * one for share, one in zip(scores / scores.sum(), h, strict=True))
        expected = (t["w2"] @ np.tanh(pooled) + t["b2"]) * t["unit"] + t["center"]
        assert COMBINERS["attention_head"](tensors)(outputs).values[row].numpy() == pytest.approx(expected)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("kind", TASKS)
def test_a_rebuilt_head_says_the_same_to_the_bit_and_needs_no_widths(kind, merge):
    outputs, y = signals(kind, 30, rows=40)
    combiner = fit(outputs, y, merge=merge, steps=3)
    rebuilt = COMBINERS[combiner_name(combiner)]({name: t.clone() for name, t in combiner.tensors().items()})
    assert torch.equal(combiner(outputs).values, rebuilt(outputs._replace(widths=None)).values)
    rows = torch.tensor([4, 0])
    assert torch.allclose(rebuilt(outputs.rows(rows)).values, combiner(outputs).values[rows], rtol=1e-9)


def test_attention_is_decided_by_the_generator_alone():
    outputs, y = signals("classification", 31)
    first, again, other = (fit(outputs, y, seed, merge="attention", steps=5).tensors() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["q"], other["q"])
