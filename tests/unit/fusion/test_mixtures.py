"""Rules that weigh members: against scipy's SLSQP, a grid, a naive Caruana, and the laws of a mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from fuseline.data.schema import TargetSchema
from fuseline.fusion import mixtures
from fuseline.fusion.combine import Mixture, Outputs, Vote
from fuseline.fusion.mixtures import greedy, greedy_counts, mean, vote, weights
from fuseline.fusion.scores import row_losses
from fuseline.fusion.simplex import simplex_log_loss, simplex_squared_error

LAWS = settings(derandomize=True, deadline=None, max_examples=25)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 12))
RULES = {"mean": mean, "vote": vote, "weights": weights, "greedy": greedy}
NO_RANDOMNESS = torch.Generator().manual_seed(0)


def log_loss(w, true):
    return -np.log(w @ true).mean()


def squared_error(w, errors):
    return ((w @ errors) ** 2).mean()


def on_the_simplex(w):
    return w.min() >= 0 and w.sum() == pytest.approx(1, abs=1e-12)


def slsqp(loss, scores):
    """The lowest loss that scipy finds on the simplex."""
    m = len(scores)
    total = {"type": "eq", "fun": lambda w: w.sum() - 1}
    found = minimize(loss, np.full(m, 1 / m), args=(scores,), bounds=[(0, 1)] * m, constraints=[total], tol=1e-12)
    w = np.clip(found.x, 0, None)
    return loss(w / w.sum(), scores)


def naive_greedy(scores, loss, steps):
    """Caruana et al. 2004, figure 1, in plain Python: ``loss`` takes the bag's mean over members, one number a row."""
    bag = []
    for _ in range(steps):
        losses = []
        for candidate in range(len(scores)):
            trial = [*bag, candidate]
            losses.append(loss([sum(scores[m][row] for m in trial) / len(trial) for row in range(len(scores[0]))]))
        bag.append(losses.index(min(losses)))
    return [bag.count(m) for m in range(len(scores))]


def classes_said(seed, members=4, rows=30, classes=3):
    """Members of different quality, and codes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    signal = rng.uniform(0, 4, (members, 1, 1))
    logits = rng.normal(size=(members, rows, classes)) + signal * np.eye(classes)[y]
    return Outputs(torch.from_numpy(logits).softmax(2)), torch.from_numpy(y)


def values_said(seed, members=4, rows=30):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    values = y + rng.normal(size=(members, rows)) * rng.uniform(0.3, 2, (members, 1)) + rng.normal(size=(members, 1)) * 0.3
    return Outputs(torch.from_numpy(values)[:, :, None], torch.ones(members, rows, 1).double()), torch.from_numpy(y)


def labels_said(seed, members=4, rows=30, labels=3):
    """Members of different quality, and labels of which a fifth are unknown, but at least one in a row known."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (rows, labels)).astype(float)
    logits = rng.normal(size=(members, rows, labels)) + rng.uniform(0, 3, (members, 1, 1)) * (2 * y - 1)
    y[:, 1:][rng.random((rows, labels - 1)) < 0.2] = np.nan
    task = TargetSchema(kind="multilabel", classes=list(range(labels)))
    return Outputs(torch.from_numpy(logits).sigmoid(), task=task), torch.from_numpy(y)


def quantiles_said(seed, members=4, rows=30, levels=(0.1, 0.5, 0.8)):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    center = y + rng.normal(size=(members, rows)) * rng.uniform(0.3, 2, (members, 1))
    quantiles = center[:, :, None] + rng.uniform(0.2, 2, (members, 1, 1)) * (np.array(levels) - 0.5)
    return Outputs(torch.from_numpy(quantiles), task=TargetSchema(kind="quantile", levels=levels)), torch.from_numpy(y)


def ordinal_said(seed, members=4, rows=30):
    outputs, y = classes_said(seed, members, rows)
    return outputs._replace(task=TargetSchema(kind="ordinal", classes=[0, 1, 2])), y


KINDS = {
    "classification": classes_said,
    "ordinal": ordinal_said,
    "multilabel": labels_said,
    "regression": values_said,
    "quantile": quantiles_said,
}


def mean_loss(combiner, outputs, y):
    """The mean row loss; over the known labels alike, as the fits weigh them."""
    losses = row_losses(combiner(outputs), y)
    if outputs.kind != "multilabel":
        return float(losses.mean())
    known = (~y.isnan()).sum(1)
    return float((losses * known).sum() / known.sum())


def true_probabilities(outputs, y):
    return outputs.values.numpy()[:, np.arange(len(y)), y.numpy()]


def brier(probabilities, y):
    return ((probabilities - np.eye(probabilities.shape[-1])[y.numpy()]) ** 2).sum(-1).mean(-1)


@LAWS
@given(SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.sampled_from([1e-7, 0.01, 0.3, 0.5, 0.9, 1.0]))))
def test_weights_of_least_log_loss_are_not_beaten_by_slsqp_or_any_member(true):
    w = simplex_log_loss(true)
    assert on_the_simplex(w)
    assert log_loss(w, true) <= slsqp(log_loss, true) + 1e-6
    assert log_loss(w, true) <= min(log_loss(alone, true) for alone in np.eye(len(true))) + 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_weights_of_least_log_loss_meet_the_optimality_conditions(seed):
    outputs, y = classes_said(seed, members=6, rows=200)
    true = true_probabilities(outputs, y)
    w = simplex_log_loss(true)
    ratios = (true / (w @ true)).mean(1)
    assert ratios.max() <= 1 + 1e-9
    assert w @ ratios == pytest.approx(1)


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("seed", range(5))
def test_weights_of_least_log_loss_are_never_worse_than_greedy_ones(seed, steps):
    outputs, y = classes_said(seed)
    true = true_probabilities(outputs, y)
    best, picked = (
        rule.weights.numpy() for rule in (weights(outputs, y, NO_RANDOMNESS), greedy(outputs, y, NO_RANDOMNESS, steps=steps))
    )
    assert log_loss(best, true) <= log_loss(picked, true) + 1e-10


@LAWS
@given(SHAPES, st.integers(0, 9999), st.sampled_from([1e-6, 1.0, 1e6]))
def test_weights_of_least_squared_error_are_not_beaten_by_slsqp_or_any_member(shape, seed, unit):
    errors = np.random.default_rng(seed).normal(0.2, 1, shape)
    w = simplex_squared_error(errors * unit)
    assert on_the_simplex(w)
    assert squared_error(w, errors) <= slsqp(squared_error, errors) + 1e-9
    assert squared_error(w, errors) <= (errors**2).mean(1).min() + 1e-12


@pytest.mark.parametrize("exploded", [1e2, 1e4, 1e6, 1e8, 1e10])
def test_a_member_that_diverged_gets_no_weight_and_does_not_spoil_the_others(exploded):
    rng = np.random.default_rng(0)
    sane = rng.normal(size=(3, 40)) * np.array([[0.3], [1.0], [2.0]])
    w = simplex_squared_error(np.vstack([sane, exploded * rng.normal(1, 0.1, size=(1, 40))]))
    assert on_the_simplex(w)
    assert w[3] * exploded < 1e-2
    assert squared_error(w[:3] / w[:3].sum(), sane) <= slsqp(squared_error, sane) * 1.01


def test_members_without_error_share_the_weight():
    assert simplex_squared_error(np.zeros((4, 3))).tolist() == [0.25] * 4


@pytest.mark.parametrize("find", [simplex_log_loss, simplex_squared_error])
def test_identical_members_and_a_single_one_have_weights_on_the_simplex(find):
    row = np.random.default_rng(0).uniform(0.1, 0.9, 20)
    assert find(row[None]).tolist() == pytest.approx([1.0])
    same = find(np.stack([row] * 5))
    assert on_the_simplex(same)
    assert same @ np.stack([row] * 5) == pytest.approx(row)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_counts_equal_a_naive_caruana(seed):
    outputs, y = classes_said(seed, rows=12)
    expected = naive_greedy(true_probabilities(outputs, y).tolist(), lambda row: -np.log(row).mean(), 10)
    assert greedy(outputs, y, NO_RANDOMNESS, steps=10).weights.tolist() == pytest.approx([n / 10 for n in expected])


@pytest.mark.parametrize("seed", range(8))
def test_greedy_counts_of_values_equal_a_naive_caruana(seed):
    outputs, y = values_said(seed, rows=12)
    errors = (outputs.values[:, :, 0] - y).tolist()
    expected = naive_greedy(errors, lambda row: np.square(row).mean(), 10)
    assert greedy(outputs, y, NO_RANDOMNESS, steps=10).weights.tolist() == pytest.approx([n / 10 for n in expected])


def test_greedy_starts_with_the_best_member():
    scores = np.array([[1.0, 1.0], [0.1, 0.2], [0.5, -0.5]])
    assert greedy_counts(scores, lambda total, n: ((total / n) ** 2).mean(-1), 1).tolist() == [0, 1, 0]


def test_greedy_takes_a_member_that_helps_the_mean_though_it_is_worse_alone():
    scores = np.array([[1.0, 1.0], [1.1, 1.1], [-1.2, -1.2]])
    assert greedy_counts(scores, lambda total, n: ((total / n) ** 2).mean(-1), 2).tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", ["mean", "weights", "greedy"])
@LAWS
@given(seed=st.integers(0, 9999), members=st.integers(1, 6))
def test_fitted_mixtures_have_weights_on_the_simplex(name, seed, members):
    for outputs, y in (classes_said(seed, members), values_said(seed, members)):
        combiner = RULES[name](outputs, y, NO_RANDOMNESS)
        assert isinstance(combiner, Mixture)
        assert combiner.weights.dtype == torch.float64
        assert on_the_simplex(combiner.weights.numpy())


@LAWS
@given(st.integers(0, 9999), st.integers(1, 6), st.integers(2, 4))
def test_the_mean_is_never_worse_than_the_members_mean_log_loss_and_brier_score(seed, members, classes):
    outputs, y = classes_said(seed, members, classes=classes)
    fused = mean(outputs, y, NO_RANDOMNESS)(outputs).values.numpy()
    assert fused == pytest.approx(outputs.values.numpy().mean(0))
    assert brier(fused, y) <= brier(outputs.values.numpy(), y).mean() + 1e-12
    true = true_probabilities(outputs, y)
    assert -np.log(fused[np.arange(len(y)), y]).mean() <= -np.log(true).mean() + 1e-12


@LAWS
@given(st.integers(0, 9999), st.integers(1, 6))
def test_the_mean_is_never_worse_than_the_members_mean_squared_error(seed, members):
    outputs, y = values_said(seed, members)
    fused = mean(outputs, y, NO_RANDOMNESS)(outputs).values
    assert ((fused[:, 0] - y) ** 2).mean() <= ((outputs.values[:, :, 0] - y) ** 2).mean() + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_never_worse_than_the_mean_or_any_member_on_the_rows_they_learn_from(seed):
    outputs, y = classes_said(seed)
    true = true_probabilities(outputs, y)
    assert (
        log_loss(weights(outputs, y, NO_RANDOMNESS).weights.numpy(), true) <= -np.log([true.mean(0), *true]).mean(1).min() + 1e-9
    )
    outputs, y = values_said(seed)
    errors = (outputs.values[:, :, 0] - y).numpy()
    found = squared_error(weights(outputs, y, NO_RANDOMNESS).weights.numpy(), errors)
    assert found <= np.square([errors.mean(0), *errors]).mean(1).min() + 1e-12


@pytest.mark.parametrize("name", RULES)
@settings(LAWS, max_examples=12)
@given(seed=st.integers(0, 9999), random=st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(name, seed, random):
    order = random.sample(range(4), 4)
    outputs, y = classes_said(seed)
    permuted = Outputs(outputs.values[order])
    before, after = (RULES[name](o, y, NO_RANDOMNESS)(o).values for o in (outputs, permuted))
    assert torch.allclose(before, after, rtol=0, atol=1e-6)
    assert torch.allclose(after.sum(1), torch.ones(30).double(), rtol=0, atol=1e-12)


def test_a_probability_of_zero_for_the_true_class_rules_no_member_out_with_nan():
    outputs, y = Outputs(torch.eye(2).double()[:, None].repeat(1, 6, 1)), torch.tensor([0, 0, 0, 0, 1, 1])
    assert weights(outputs, y, NO_RANDOMNESS).weights.tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-5)
    assert greedy(outputs, y, NO_RANDOMNESS, steps=30).weights.tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.04)


def test_a_vote_has_nothing_to_fit():
    outputs, y = classes_said(0)
    combiner = vote(outputs, y, NO_RANDOMNESS)
    assert isinstance(combiner, Vote)
    assert combiner.tensors() == {}


@pytest.mark.parametrize("kind", KINDS)
@settings(LAWS, max_examples=10)
@given(seed=st.integers(0, 9999), members=st.integers(1, 6), steps=st.sampled_from([1, 7, 25]))
def test_fitted_weights_are_never_worse_than_greedy_ones_or_a_member_or_the_mean(kind, seed, members, steps):
    outputs, y = KINDS[kind](seed, members)
    found = weights(outputs, y, NO_RANDOMNESS)
    assert on_the_simplex(found.weights.numpy())
    rivals = [
        greedy(outputs, y, NO_RANDOMNESS, steps=steps),
        greedy(outputs, y, seeded(seed), bags=3),
        mean(outputs, y, NO_RANDOMNESS),
    ]
    rivals += [Mixture({"weights": alone}) for alone in torch.eye(members).double()]
    best = mean_loss(found, outputs, y)
    assert best <= min(mean_loss(rival, outputs, y) for rival in rivals) + 1e-6  # what expectation maximisation may leave


@pytest.mark.parametrize("kind", ["multilabel", "quantile"])
@pytest.mark.parametrize("seed", range(3))
def test_no_weights_on_a_grid_have_less_loss(kind, seed):
    outputs, y = KINDS[kind](seed, members=3)
    steps = np.arange(21) / 20
    grid = [Mixture({"weights": torch.tensor([a, b, 1 - a - b])}) for a in steps for b in steps if a + b <= 1 + 1e-9]
    losses = [mean_loss(combiner, outputs, y) for combiner in grid]
    found = weights(outputs, y, NO_RANDOMNESS)
    assert mean_loss(found, outputs, y) <= min(losses) + 1e-9
    assert (found.weights - grid[int(np.argmin(losses))].weights).abs().max() < 0.3


@pytest.mark.parametrize("kind", ["multilabel", "quantile"])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_counts_of_labels_and_quantiles_equal_a_naive_caruana(kind, seed):
    outputs, y = KINDS[kind](seed, rows=12)
    bag = []
    for _ in range(8):
        shares = [np.bincount([*bag, m], minlength=4) / (len(bag) + 1) for m in range(4)]
        bag.append(int(np.argmin([mean_loss(Mixture({"weights": torch.from_numpy(w)}), outputs, y) for w in shares])))
    assert (greedy(outputs, y, NO_RANDOMNESS, steps=8).weights * 8).tolist() == pytest.approx(np.bincount(bag, minlength=4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_members_changes_nothing_for_any_kind(kind):
    outputs, y = KINDS[kind](5)
    order = [2, 0, 3, 1]
    variances = None if outputs.variances is None else outputs.variances[order]
    permuted = outputs._replace(values=outputs.values[order], variances=variances)
    for rule in (mean, weights, greedy):
        before, after = (rule(o, y, NO_RANDOMNESS)(o).values for o in (outputs, permuted))
        assert torch.allclose(before, after, rtol=0, atol=1e-5)


@LAWS
@given(st.integers(0, 9999), st.integers(1, 6))
def test_the_mean_is_never_worse_than_the_members_mean_on_labels_and_quantiles(seed, members):
    for outputs, y in (labels_said(seed, members), quantiles_said(seed, members)):
        alone = [mean_loss(Mixture({"weights": w}), outputs, y) for w in torch.eye(members).double()]
        assert mean_loss(mean(outputs, y, NO_RANDOMNESS), outputs, y) <= np.mean(alone) + 1e-12


def test_fused_quantiles_stay_in_order():
    outputs, y = quantiles_said(3)
    for rule in (mean, weights, greedy):
        assert (rule(outputs, y, NO_RANDOMNESS)(outputs).values.diff(dim=1) > 0).all()


def test_a_vote_on_labels_counts_the_members_that_are_for_each():
    outputs, y = labels_said(6, members=5)
    p = outputs.values.numpy()
    expected = ((p > 0.5).sum(0) + p.mean(0)) / 6
    assert vote(outputs, y, NO_RANDOMNESS)(outputs).values.numpy() == pytest.approx(expected)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_one_bag_draws_nothing_from_the_generator():
    outputs, y = classes_said(1)
    generator = seeded(0)
    before = generator.get_state()
    greedy(outputs, y, generator, bags=1, fraction=0.1)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("members", "fraction", "size"), [(6, 0.5, 3), (5, 0.5, 3), (4, 0.01, 1), (3, 1.0, 3)])
def test_bags_average_selections_from_random_parts_of_the_members(members, fraction, size):
    outputs, y = classes_said(2, members)
    got = greedy(outputs, y, seeded(4), steps=6, bags=5, fraction=fraction).weights
    generator, expected = seeded(4), torch.zeros(members).double()
    for _ in range(5):
        part = torch.randperm(members, generator=generator)[:size]
        expected[part] += greedy(outputs._replace(values=outputs.values[part]), y, NO_RANDOMNESS, steps=6).weights / 5
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert on_the_simplex(got.numpy())


def test_bags_spread_the_weight_over_members_that_one_selection_leaves_out():
    outputs, y = classes_said(3, members=8)
    single, bagged = (greedy(outputs, y, seeded(0), steps=5, bags=bags).weights for bags in (1, 40))
    assert (bagged > 0).sum() > (single > 0).sum()


@LAWS
@given(
    st.integers(0, 9999),
    st.integers(1, 7),
    st.sampled_from([1, 31, 32, 33, 100, 320]),
    st.integers(1, 1000),
)
def test_the_log_loss_of_sums_is_that_of_each_number(seed, members, rows, count):
    sums = 10.0 ** np.random.default_rng(seed).uniform(-7, 0, (members, rows)) * count
    assert mixtures.log_loss(sums, count) == pytest.approx(-np.log(sums / count).mean(1), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("extreme", [1e-7, 1.0, 1000.0])
def test_the_log_loss_of_extreme_sums_is_exact(extreme):
    assert mixtures.log_loss(np.full((1, 500), extreme), 1)[0] == pytest.approx(-np.log(extreme), rel=1e-12)


@pytest.mark.parametrize("summed", [1, 100, 10**6])
def test_greedy_chooses_the_same_however_many_sums_are_made_at_a_time(monkeypatch, summed):
    outputs, y = classes_said(0, members=9, rows=70)
    expected = naive_greedy(true_probabilities(outputs, y).tolist(), lambda row: -np.log(row).mean(), 25)
    monkeypatch.setattr(mixtures, "SUMMED", summed)
    assert greedy(outputs, y, NO_RANDOMNESS, steps=25).weights.tolist() == pytest.approx([n / 25 for n in expected])
