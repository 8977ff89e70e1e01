"""Combiners: what each computes, laws that all keep, and their tensors' round trip; tempering and the mixture's variance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.nn import functional

from fuseline.data.schema import TargetSchema
from fuseline.fusion.combine import ACTIVATIONS, TINY, Combiner, Fused, Outputs, calibrate, link, temper, temper_labels, widen
from fuseline.fusion.combiners import COMBINERS, combiner_name
from fuseline.fusion.linear import log_probabilities
from fuseline.models.network import mixture_variance

LAWS = settings(derandomize=True, deadline=None, max_examples=30)
SEEDS = st.integers(0, 9999)
TEMPERATURES = st.floats(0.05, 50)
MEMBERS, ROWS, CLASSES, WIDTH, HIDDEN = 3, 7, 4, 5, 6


def classes_said(seed, members=MEMBERS, rows=ROWS, classes=CLASSES):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), (members, rows))
    return Outputs(torch.from_numpy(p), None, torch.from_numpy(rng.normal(size=(rows, WIDTH))))


def values_said(seed, members=MEMBERS, rows=ROWS):
    rng = np.random.default_rng(seed)
    shape = (members, rows, 1)
    features = torch.from_numpy(rng.normal(size=(rows, WIDTH)))
    return Outputs(torch.from_numpy(rng.normal(size=shape)), torch.from_numpy(rng.exponential(size=shape)), features)


def random_tensors(kind, seed, outputs=CLASSES):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(rng.normal(size=shape))

    return {
        "mixture": lambda: {"weights": torch.from_numpy(rng.dirichlet(np.ones(MEMBERS)))},
        "vote": dict,
        "logistic": lambda: {"coefficients": normal(CLASSES, MEMBERS * CLASSES), "intercept": normal(CLASSES)},
        "linear": lambda: {"coefficients": normal(MEMBERS), "intercept": normal()},
        "feature_head": lambda: {
            "mean": normal(WIDTH),
            "scale": normal(WIDTH).exp(),
            "w1": normal(HIDDEN, WIDTH),
            "b1": normal(HIDDEN),
            "w2": normal(outputs, HIDDEN),
            "b2": normal(outputs),
            "center": normal(),
            "unit": normal().exp(),
            "activation": torch.tensor(rng.integers(len(ACTIVATIONS))),
        },
    }[kind]()


def random_combiner(kind, seed, outputs=CLASSES):
    return COMBINERS[kind](random_tensors(kind, seed, outputs))


def vote(probabilities):
    return COMBINERS["vote"]({})(Outputs(torch.tensor(probabilities, dtype=torch.float64))).values


CASES = [
    *[(kind, classes_said(1), CLASSES) for kind in ("mixture", "vote", "logistic", "feature_head")],
    *[(kind, values_said(1), 1) for kind in ("mixture", "linear", "feature_head")],
]


@pytest.mark.parametrize("kind", ["mixture", "vote", "logistic", "feature_head"])
@LAWS
@given(seed=SEEDS)
def test_probabilities_sum_to_one(kind, seed):
    fused = random_combiner(kind, seed)(classes_said(seed))
    assert fused.variances is None
    assert fused.values.shape == (ROWS, CLASSES)
    assert fused.values.dtype == torch.float64
    assert (fused.values >= 0).all()
    assert torch.allclose(fused.values.sum(1), torch.ones(ROWS).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["mixture", "linear", "feature_head"])
def test_values_have_positive_variances(kind):
    fused = random_combiner(kind, 0, outputs=1)(values_said(0))
    assert fused.values.shape == fused.variances.shape == (ROWS, 1)
    assert fused.values.dtype == fused.variances.dtype == torch.float64
    assert (fused.variances > 0).all()


@pytest.mark.parametrize(("kind", "outputs", "width"), CASES)
def test_saved_tensors_rebuild_an_equal_combiner(kind, outputs, width):
    combiner = random_combiner(kind, 3, width)
    rebuilt = COMBINERS[combiner_name(combiner)](load(save(combiner.tensors())))
    assert type(rebuilt) is type(combiner)
    assert combiner.tensors().keys() == random_tensors(kind, 3, width).keys()
    for before, after in zip(combiner(outputs), rebuilt(outputs), strict=True):
        assert (before is None and after is None) or torch.equal(before, after)


@pytest.mark.parametrize(("kind", "outputs", "width"), CASES)
def test_each_row_is_combined_by_itself(kind, outputs, width):
    combiner, index = random_combiner(kind, 4, width), torch.tensor([5, 0, 2])
    for whole, part in zip(combiner(outputs), combiner(outputs.rows(index)), strict=True):
        assert (whole is None and part is None) or torch.allclose(whole[index], part, rtol=1e-12)


def test_the_base_class_does_not_combine():
    with pytest.raises(TypeError, match="combines"):
        Combiner({})(classes_said(0))


def test_rows_are_taken_from_every_part():
    outputs, index = values_said(2), torch.tensor([4, 1])
    part = outputs.rows(index)
    assert torch.equal(part.values[:, 0], outputs.values[:, 4])
    assert torch.equal(part.variances[:, 1], outputs.variances[:, 1])
    assert torch.equal(part.features, outputs.features[[4, 1]])
    assert set(Outputs(outputs.values).rows(index)[1:]) == {None}
    full = outputs._replace(inputs=outputs.features + 1, task=TargetSchema(kind="regression"), widths=(2, 3))
    assert torch.equal(full.rows(index).inputs, outputs.features[[4, 1]] + 1)
    assert (full.rows(index).task, full.rows(index).widths) == (full.task, full.widths)


@LAWS
@given(SEEDS, st.integers(1, 7), st.integers(2, 4))
def test_the_majority_wins_a_vote_and_the_mean_breaks_ties(seed, members, classes):
    outputs = classes_said(seed, members, classes=classes)
    p = outputs.values.numpy()
    said = COMBINERS["vote"]({})(outputs).values.argmax(1)
    for row in range(ROWS):
        votes = Counter(p[:, row].argmax(1).tolist())
        leaders = [c for c in range(classes) if votes[c] == max(votes.values())]
        assert said[row] == max(leaders, key=lambda c: p[:, row, c].mean())


def test_a_majority_outvotes_a_higher_mean():
    assert vote([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]]).argmax() == 0


def test_a_tied_vote_goes_to_the_higher_mean_and_not_to_the_first_class():
    assert vote([[[0.6, 0.4]], [[0.1, 0.9]]]).argmax() == 1


def test_no_class_is_impossible_after_a_unanimous_vote():
    assert vote([[[0.9, 0.1]], [[0.7, 0.3]]])[0].tolist() == pytest.approx([2.8 / 3, 0.2 / 3])


def test_a_mixture_is_the_weighted_mean():
    outputs, weights = classes_said(5), np.array([0.2, 0.3, 0.5])
    fused = COMBINERS["mixture"]({"weights": torch.from_numpy(weights)})(outputs)
    assert fused.values.numpy() == pytest.approx(np.average(outputs.values.numpy(), axis=0, weights=weights))


@LAWS
@given(SEEDS)
def test_a_mixtures_log_loss_and_brier_score_are_never_above_the_weighted_mean_of_its_members(seed):
    outputs, combiner = classes_said(seed), random_combiner("mixture", seed)
    y = np.random.default_rng(seed).integers(0, CLASSES, ROWS)
    p, fused, weights = outputs.values.numpy(), combiner(outputs).values.numpy(), combiner.weights.numpy()

    def log_loss(q):
        return -np.log(np.clip(q[..., np.arange(ROWS), y], 1e-300, None)).mean(-1)

    def brier(q):
        return ((q - np.eye(CLASSES)[y]) ** 2).sum(-1).mean(-1)

    assert log_loss(fused) <= weights @ log_loss(p) + 1e-12
    assert brier(fused) <= weights @ brier(p) + 1e-12


@LAWS
@given(SEEDS)
def test_a_mixture_of_values_has_the_mixtures_moments(seed):
    outputs, combiner = values_said(seed), random_combiner("mixture", seed)
    weights, means, variances = combiner.weights.numpy(), outputs.values.numpy()[:, :, 0], outputs.variances.numpy()[:, :, 0]
    fused = combiner(outputs)
    mean = weights @ means
    assert fused.values[:, 0].numpy() == pytest.approx(mean)
    assert fused.variances[:, 0].numpy() == pytest.approx(weights @ (variances + means**2) - mean**2)


def test_a_mixture_of_values_has_the_variance_of_its_draws():
    outputs, combiner = values_said(6, rows=2), random_combiner("mixture", 6)
    rng = np.random.default_rng(6)
    which = rng.choice(MEMBERS, 400_000, p=combiner.weights.numpy())
    draws = rng.normal(outputs.values.numpy()[which, :, 0], outputs.variances.numpy()[which, :, 0] ** 0.5)
    assert combiner(outputs).variances[:, 0].numpy() == pytest.approx(draws.var(0), rel=0.02)


def test_mixture_variance_is_even_without_weights_and_exact_far_from_zero():
    outputs = values_said(7)
    even = torch.full((MEMBERS,), 1 / MEMBERS).double()
    expected = mixture_variance(outputs.values, outputs.variances, even)
    assert torch.allclose(mixture_variance(outputs.values, outputs.variances), expected)
    assert torch.allclose(mixture_variance(outputs.values + 1e8, outputs.variances), expected, rtol=1e-6)


def test_a_linear_combiner_adds_up_and_takes_the_even_mixtures_variance():
    outputs = values_said(8)
    tensors = {"coefficients": torch.tensor([2.0, 0.0, -1.0]).double(), "intercept": torch.tensor(0.5).double()}
    fused = COMBINERS["linear"](tensors)(outputs)
    assert torch.allclose(fused.values, 2 * outputs.values[0] - outputs.values[2] + 0.5)
    assert torch.allclose(fused.variances, outputs.variances.mean(0) + outputs.values.var(0, correction=0))


def test_log_probabilities_stand_member_by_member_and_are_clipped():
    p = torch.tensor([[[0.25, 0.75]], [[0.0, 1.0]]]).double()
    assert log_probabilities(Outputs(p))[0].tolist() == pytest.approx([np.log(0.25), np.log(0.75), np.log(TINY), 0])


def test_a_logistic_combiner_that_copies_one_member_says_what_it_says():
    outputs = classes_said(9)
    outputs = outputs._replace(values=outputs.values.clamp(min=1e-3))
    coefficients = torch.zeros(CLASSES, MEMBERS * CLASSES).double()
    coefficients[:, CLASSES : 2 * CLASSES] = torch.eye(CLASSES)
    fused = COMBINERS["logistic"]({"coefficients": coefficients, "intercept": torch.zeros(CLASSES).double()})(outputs)
    second = outputs.values[1]
    assert torch.allclose(fused.values, second / second.sum(1, keepdim=True))


@pytest.mark.parametrize(("position", "name"), list(enumerate(["relu", "gelu", "tanh", "silu"])))
def test_a_feature_head_is_two_layers_on_standardised_features(position, name):
    tensors, outputs = random_tensors("feature_head", 10, 1), values_said(10)
    tensors["activation"] = torch.tensor(position)
    hidden = torch.nn.Linear(WIDTH, HIDDEN).double()
    last = torch.nn.Linear(HIDDEN, 1).double()
    for layer, which in ((hidden, "1"), (last, "2")):
        layer.load_state_dict({"weight": tensors[f"w{which}"], "bias": tensors[f"b{which}"]})
    x = (outputs.features - tensors["mean"]) / tensors["scale"]
    with torch.no_grad():
        expected = last(getattr(functional, name)(hidden(x))) * tensors["unit"] + tensors["center"]
    fused = COMBINERS["feature_head"](tensors)(outputs)
    assert torch.allclose(fused.values, expected)
    assert torch.allclose(fused.variances, mixture_variance(outputs.values, outputs.variances))


@LAWS
@given(SEEDS, TEMPERATURES)
def test_tempered_rows_sum_to_one(seed, temperature):
    tempered = temper(classes_said(seed).values[0], temperature)
    assert torch.allclose(tempered.sum(1), torch.ones(ROWS).double(), rtol=0, atol=1e-12)
    assert (tempered >= 0).all()


@LAWS
@given(SEEDS, TEMPERATURES)
def test_tempering_keeps_the_most_probable_class(seed, temperature):
    p = classes_said(seed).values[0]
    top = p.topk(2).values
    assume(bool((top[:, 0] - top[:, 1] > 1e-6).all()))
    assert torch.equal(temper(p, temperature).argmax(1), p.argmax(1))


@LAWS
@given(SEEDS)
def test_a_temperature_of_one_changes_nothing_but_what_is_clipped(seed):
    p = classes_said(seed).values[0]
    assert torch.allclose(temper(p, 1.0), p, rtol=1e-12 if p.min() > TINY else 1e-6, atol=TINY)


@LAWS
@given(SEEDS, st.floats(0.2, 50))
def test_tempering_is_the_power_one_over_t_normalised(seed, temperature):
    power = classes_said(seed).values[0].clamp(min=TINY).numpy() ** (1 / temperature)
    tempered = temper(classes_said(seed).values[0], temperature)
    assert tempered.numpy() == pytest.approx(power / power.sum(1, keepdims=True), rel=1e-9)


def test_temperatures_sharpen_below_one_and_flatten_above():
    p = torch.tensor([[0.7, 0.2, 0.1]])
    assert temper(p, 0.5).max() > 0.7 > temper(p, 2.0).max()
    assert temper(p, 1e6)[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_calibration_tempers_probabilities():
    p = classes_said(11).values[0]
    calibrated = calibrate(Fused(p), 2.0)
    assert calibrated.variances is None
    assert torch.equal(calibrated.values, temper(p, 2.0))


def test_calibration_leaves_values_and_scales_their_variances():
    outputs = values_said(12)
    calibrated = calibrate(Fused(outputs.values[0], outputs.variances[0]), 3.0)
    assert torch.equal(calibrated.values, outputs.values[0])
    assert torch.equal(calibrated.variances, outputs.variances[0] * 3)


LABELS = TargetSchema(kind="multilabel", classes=["a", "b", "c"])
QUANTILES = TargetSchema(kind="quantile", levels=[0.1, 0.45, 0.9])


def test_the_kind_is_the_tasks_or_told_by_the_variances():
    assert [said(0).kind for said in (classes_said, values_said)] == ["classification", "regression"]
    assert classes_said(0).exclusive
    labels = classes_said(0)._replace(task=LABELS)
    assert (labels.kind, labels.exclusive) == ("multilabel", False)
    assert labels.fused(labels.values[0]).kind == "multilabel"
    assert Outputs(labels.values, task=TargetSchema(kind="ordinal", classes=[1, 2])).exclusive


def test_rows_of_a_fusion_keep_the_task():
    fused = values_said(1).fused(torch.arange(3.0)[:, None], torch.ones(3, 1))._replace(task=TargetSchema(kind="regression"))
    part = fused.rows(torch.tensor([2, 0]))
    assert part.values[:, 0].tolist() == [2.0, 0.0]
    assert part.variances.shape == (2, 1)
    assert part.task == fused.task


def test_a_head_links_its_raw_output_by_the_kind():
    raw, two, ten = torch.tensor([[3.0, -1.0, 0.5]]).double(), torch.tensor(2.0).double(), torch.tensor(10.0).double()
    outputs = Outputs(torch.zeros(2, 1, 3).double())
    assert torch.allclose(link(outputs, raw, ten, two).values, raw.softmax(1))
    assert torch.allclose(link(outputs._replace(task=LABELS), raw, ten, two).values, raw.sigmoid())
    assert link(outputs._replace(task=QUANTILES), raw, ten, two).values[0].tolist() == [8.0, 11.0, 16.0]


@LAWS
@given(SEEDS, TEMPERATURES)
def test_a_tempered_label_is_the_tempered_pair_of_it_and_its_absence(seed, temperature):
    p = torch.from_numpy(np.random.default_rng(seed).uniform(0.001, 0.999, 9))
    pairs = temper(torch.stack([p, 1 - p], 1), temperature)
    assert torch.allclose(temper_labels(p, temperature), pairs[:, 0], rtol=1e-9, atol=1e-12)


def test_calibration_tempers_labels_and_widens_quantiles_about_the_middle_one():
    p = classes_said(13, classes=3).values[0]
    assert torch.equal(calibrate(Fused(p, None, LABELS), 2.0).values, temper_labels(p, 2.0))
    q = torch.tensor([[1.0, 2.0, 5.0]])
    assert calibrate(Fused(q, None, QUANTILES), 2.0).values.tolist() == widen(q, 1, 2.0).tolist() == [[0.0, 2.0, 8.0]]
