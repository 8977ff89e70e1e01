"""The product and the trimmed mean: against scipy, integration on a grid and plain Python, and the laws of a pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gmean, norm, trim_mean

from fuseline.data.schema import TargetSchema
from fuseline.fusion.combine import TINY, Outputs
from fuseline.fusion.combiners import COMBINERS, combiner_name
from fuseline.fusion.pools import Product, product, trimmed

LAWS = settings(derandomize=True, deadline=None, max_examples=30)
SEEDS = st.integers(0, 9999)
CUTS = st.sampled_from([0.0, 0.1, 0.2, 0.34, 0.49])
NO_RANDOMNESS = torch.Generator().manual_seed(0)
LEVELS = [0.1, 0.3, 0.5, 0.9]
RULES = {"product": product, "trimmed": trimmed}


def said(kind, seed, members=5, rows=7, classes=4):
    rng = np.random.default_rng(seed)
    if kind in ("classification", "ordinal"):
        task = TargetSchema(kind=kind, classes=list(range(classes)))
        return Outputs(torch.from_numpy(rng.dirichlet(np.full(classes, 0.5), (members, rows))), task=task)
    if kind == "multilabel":
        task = TargetSchema(kind=kind, classes=list(range(classes)))
        return Outputs(torch.from_numpy(rng.beta(0.5, 0.5, (members, rows, classes))), task=task)
    if kind == "quantile":
        quantiles = np.sort(rng.normal(size=(members, rows, len(LEVELS))), axis=2)
        return Outputs(torch.from_numpy(quantiles), task=TargetSchema(kind=kind, levels=LEVELS))
    shape = (members, rows, 1)
    variances = torch.from_numpy(rng.exponential(size=shape) + 0.1)
    return Outputs(torch.from_numpy(rng.normal(size=shape)), variances, task=TargetSchema(kind="regression"))


def pool(outputs, rule=product, **settings):
    return rule(outputs, torch.empty(0), NO_RANDOMNESS, **settings)(outputs)


@LAWS
@given(SEEDS, st.integers(1, 6), st.sampled_from(["classification", "ordinal"]))
def test_the_product_is_scipys_geometric_mean_normalised(seed, members, kind):
    outputs = said(kind, seed, members)
    power = gmean(outputs.values.clamp(min=TINY).numpy(), axis=0)
    assert pool(outputs).values.numpy() == pytest.approx(power / power.sum(1, keepdims=True), rel=1e-9)


@LAWS
@given(SEEDS)
def test_a_weighted_product_is_scipys_weighted_geometric_mean(seed):
    outputs, weights = said("classification", seed), np.random.default_rng(seed).dirichlet(np.ones(5))
    power = gmean(
        outputs.values.clamp(min=TINY).numpy(), axis=0, weights=np.broadcast_to(weights[:, None, None], outputs.values.shape)
    )
    fused = Product({"weights": torch.from_numpy(weights)})(outputs)
    assert fused.values.numpy() == pytest.approx(power / power.sum(1, keepdims=True), rel=1e-9)


@LAWS
@given(SEEDS, st.integers(1, 6))
def test_each_label_is_the_product_of_two_classes(seed, members):
    outputs = said("multilabel", seed, members)
    p = outputs.values.clamp(TINY, 1 - TINY).numpy()
    on, off = gmean(p, axis=0), gmean(1 - p, axis=0)
    assert pool(outputs).values.numpy() == pytest.approx(on / (on + off), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_product_of_densities_has_the_moments_of_an_integral(seed):
    outputs, weights = said("regression", seed, members=3, rows=2), np.random.default_rng(seed).dirichlet(np.ones(3))
    fused = Product({"weights": torch.from_numpy(weights)})(outputs)
    y = np.linspace(-30, 30, 200_001)
    for row in range(2):
        densities = norm.pdf(y, outputs.values[:, row].numpy(), outputs.variances[:, row].numpy() ** 0.5)
        density = np.exp(weights @ np.log(np.clip(densities, 1e-300, None)))
        density /= density.sum()
        mean = density @ y
        assert float(fused.values[row, 0]) == pytest.approx(mean, abs=1e-6)
        assert float(fused.variances[row, 0]) == pytest.approx(density @ (y - mean) ** 2, rel=1e-6)


def test_members_that_agree_are_no_surer_together_and_the_surer_one_counts_more():
    same = Outputs(torch.full((4, 1, 1), 3.0).double(), torch.full((4, 1, 1), 0.5).double())
    assert [float(part) for part in pool(same)[:2]] == pytest.approx([3.0, 0.5])
    values, variances = torch.tensor([[[0.0]], [[10.0]]]).double(), torch.tensor([[[1.0]], [[9.0]]]).double()
    assert [float(part) for part in pool(Outputs(values, variances))[:2]] == pytest.approx([1.0, 2 / (1 + 1 / 9)])


@pytest.mark.parametrize("size", [1e-300, 1e300, 0.0])
def test_extreme_variances_give_finite_values(size):
    outputs = said("regression", 0)
    outputs.variances[0] = size
    fused = pool(outputs)
    assert torch.isfinite(fused.values).all()
    assert (fused.values >= outputs.values.min(0).values - 1e-9).all()
    assert (fused.values <= outputs.values.max(0).values + 1e-9).all()


def test_one_member_can_veto_a_class_in_a_product_and_not_in_a_mean():
    outputs = Outputs(torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]], [[1e-6, 1 - 1e-6]]]).double())
    assert pool(outputs).values.argmax() == 1
    assert pool(outputs, trimmed, cut=0.4).values.argmax() == 0


def test_members_that_exclude_each_others_class_leave_even_odds():
    outputs = Outputs(torch.eye(3).double()[:, None])
    for fused in (pool(outputs), pool(outputs, trimmed, cut=0.4)):
        assert fused.values[0].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("kind", ["classification", "ordinal", "multilabel", "regression", "quantile"])
@settings(LAWS, max_examples=15)
@given(SEEDS, st.integers(1, 9), CUTS)
def test_the_trimmed_mean_is_scipys(kind, seed, members, cut):
    outputs = said(kind, seed, members)
    expected = trim_mean(outputs.values.numpy(), cut, axis=0)
    if outputs.exclusive:
        expected = expected.clip(TINY) / expected.clip(TINY).sum(1, keepdims=True)
    assert pool(outputs, trimmed, cut=cut).values.numpy() == pytest.approx(expected, rel=1e-12)


@LAWS
@given(SEEDS, st.integers(1, 9))
def test_a_cut_of_a_half_is_the_median(seed, members):
    outputs = said("regression", seed, members)
    expected = np.median(outputs.values.numpy(), axis=0)
    assert pool(outputs, trimmed, cut=0.5).values.numpy() == pytest.approx(expected)


@LAWS
@given(SEEDS, st.integers(1, 9), CUTS)
def test_the_trimmed_means_variance_is_that_of_the_kept_members_mixture(seed, members, cut):
    outputs = said("regression", seed, members)
    fused, count = pool(outputs, trimmed, cut=cut), int(cut * members)
    for row in range(outputs.values.shape[1]):
        pairs = zip(outputs.values[:, row, 0].tolist(), outputs.variances[:, row, 0].tolist(), strict=True)
        kept = np.array(sorted(pairs)[count : members - count])
        expected = (kept[:, 1] + kept[:, 0] ** 2).mean() - kept[:, 0].mean() ** 2
        assert float(fused.variances[row, 0]) == pytest.approx(expected)


def test_an_outlier_moves_the_trimmed_mean_by_nothing():
    outputs = said("regression", 1)
    outputs.values[2] = 50.0
    before = pool(outputs, trimmed).values
    outputs.values[2] = 1e9
    assert torch.equal(pool(outputs, trimmed).values, before)


@LAWS
@given(SEEDS, st.integers(1, 9), CUTS)
def test_trimmed_quantiles_stay_in_order(seed, members, cut):
    assert (pool(said("quantile", seed, members), trimmed, cut=cut).values.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("rule", RULES)
@LAWS
@given(SEEDS, st.integers(1, 6))
def test_probabilities_sum_to_one(rule, seed, members):
    outputs = said("classification", seed, members)
    values = pool(outputs, RULES[rule]).values
    assert (values > 0).all()
    assert torch.allclose(values.sum(1), torch.ones(len(values)).double(), rtol=0, atol=1e-12)


CASES = [(rule, kind) for rule in RULES for kind in ("classification", "ordinal", "multilabel", "regression", "quantile")]
CASES.remove(("product", "quantile"))


@pytest.mark.parametrize(("rule", "kind"), CASES)
@settings(LAWS, max_examples=10)
@given(seed=SEEDS, random=st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(rule, kind, seed, random):
    outputs, order = said(kind, seed), random.sample(range(5), 5)
    variances = None if outputs.variances is None else outputs.variances[order]
    permuted = outputs._replace(values=outputs.values[order], variances=variances)
    for before, after in zip(pool(outputs, RULES[rule])[:2], pool(permuted, RULES[rule])[:2], strict=True):
        assert (before is None and after is None) or torch.allclose(before, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_members_that_say_the_same_are_repeated(rule, kind):
    outputs = said(kind, 2, members=1)
    variances = None if outputs.variances is None else outputs.variances.repeat(6, 1, 1)
    fused = pool(outputs._replace(values=outputs.values.repeat(6, 1, 1), variances=variances), RULES[rule])
    assert torch.allclose(fused.values, outputs.values[0], rtol=1e-6, atol=1e-6)
    assert fused.variances is None or torch.allclose(fused.variances, outputs.variances[0])
    assert fused.task == outputs.task


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_a_rebuilt_combiner_says_the_same_to_the_bit(rule, kind):
    outputs = said(kind, 3)
    combiner = RULES[rule](outputs, torch.empty(0), NO_RANDOMNESS)
    rebuilt = COMBINERS[combiner_name(combiner)](combiner.tensors())
    for before, after in zip(combiner(outputs)[:2], rebuilt(outputs)[:2], strict=True):
        assert (before is None and after is None) or torch.equal(before, after)
