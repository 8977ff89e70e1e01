"""Uncertainty: the decomposition's laws, scipy's entropy and sampling from the mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bernoulli
from scipy.stats import entropy as scipy_entropy

from fuseline.data.schema import TargetSchema
from fuseline.evaluation.uncertainty import decompose, entropy, label_entropy
from fuseline.fusion.combine import Outputs

LAWS = settings(derandomize=True, deadline=None, max_examples=40)


def classes_said(seed, members=4, rows=6, classes=3, concentration=1.0):
    rng = np.random.default_rng(seed)
    return Outputs(torch.from_numpy(rng.dirichlet(np.full(classes, concentration), (members, rows))))


def values_said(seed, members=4, rows=6, scale=1.0):
    rng = np.random.default_rng(seed)
    shape = (members, rows, 1)
    return Outputs(torch.from_numpy(scale * rng.normal(size=shape)), torch.from_numpy(scale**2 * rng.exponential(size=shape)))


LABELS = TargetSchema(kind="multilabel", classes=["u", "v", "w"])
LEVELS = TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.8, 0.9])


def labels_said(seed, members=4, rows=6, sharpness=1.0):
    logit = sharpness * np.random.default_rng(seed).normal(size=(members, rows, 3))
    return Outputs(torch.from_numpy(logit).sigmoid(), task=LABELS)


def quantiles_said(seed, members=4, rows=6, scale=1.0):
    rng = np.random.default_rng(seed)
    return Outputs(torch.from_numpy(scale * rng.normal(size=(members, rows, 4))).sort(2).values, task=LEVELS)


EITHER = st.one_of(
    st.builds(labels_said, st.integers(0, 999), st.integers(1, 6), sharpness=st.sampled_from([0.1, 1.0, 50.0])),
    st.builds(quantiles_said, st.integers(0, 999), st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 1e3])),
    st.builds(classes_said, st.integers(0, 999), st.integers(1, 6), concentration=st.sampled_from([0.02, 1.0, 50.0])),
    st.builds(values_said, st.integers(0, 999), st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 1e3])),
)


@LAWS
@given(EITHER)
def test_total_is_aleatoric_plus_epistemic_and_none_is_negative(outputs):
    total, aleatoric, epistemic = decompose(outputs)
    assert total.shape == aleatoric.shape == epistemic.shape == (6,)
    assert torch.allclose(total, aleatoric + epistemic, rtol=1e-12, atol=1e-12)
    assert all((part >= 0).all() for part in (total, aleatoric, epistemic))
    assert (total >= epistemic).all()


@LAWS
@given(EITHER)
def test_a_weight_of_one_asks_one_member_alone_and_even_weights_are_no_weights(outputs):
    members = len(outputs.values)
    for weights, same in (
        (torch.eye(members).double()[0], outputs._replace(values=outputs.values[:1], variances=_first(outputs))),
        (torch.full((members,), 1 / members, dtype=torch.float64), outputs),
    ):
        for ours, theirs in zip(decompose(outputs, weights), decompose(same), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def _first(outputs):
    return None if outputs.variances is None else outputs.variances[:1]


@LAWS
@given(EITHER, st.randoms(use_true_random=False))
def test_the_order_of_members_changes_nothing(outputs, random):
    order = torch.tensor(random.sample(range(len(outputs.values)), len(outputs.values)))
    variances = None if outputs.variances is None else outputs.variances[order]
    permuted = outputs._replace(values=outputs.values[order], variances=variances)
    for before, after in zip(decompose(outputs), decompose(permuted), strict=True):
        assert torch.allclose(before, after, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_classes_have_scipys_entropies(seed):
    outputs = classes_said(seed)
    p = outputs.values.numpy()
    total, aleatoric, epistemic = decompose(outputs)
    divergences = np.mean([[scipy_entropy(row, mixed) for row, mixed in zip(m, p.mean(0), strict=True)] for m in p], axis=0)
    assert total.numpy() == pytest.approx(scipy_entropy(p.mean(0), axis=1))
    assert aleatoric.numpy() == pytest.approx(scipy_entropy(p, axis=2).mean(0))
    assert epistemic.numpy() == pytest.approx(divergences)


@pytest.mark.parametrize("classes", [2, 5])
def test_entropy_is_zero_for_certainty_and_the_logarithm_of_c_for_ignorance(classes):
    assert entropy(torch.eye(classes)).tolist() == [0] * classes
    assert float(entropy(torch.full((1, classes), 1 / classes, dtype=torch.float64))) == pytest.approx(np.log(classes))


@pytest.mark.parametrize(
    "outputs", [classes_said(1, members=1), values_said(1, members=1), labels_said(1, members=1), quantiles_said(1, members=1)]
)
def test_members_that_agree_have_no_epistemic_uncertainty(outputs):
    variances = None if outputs.variances is None else outputs.variances.repeat(5, 1, 1)
    repeated = outputs._replace(values=outputs.values.repeat(5, 1, 1), variances=variances)
    total, aleatoric, epistemic = decompose(repeated)
    assert epistemic.numpy() == pytest.approx(np.zeros(6), abs=1e-14)
    assert total.numpy() == pytest.approx(decompose(outputs).aleatoric.numpy())
    assert (aleatoric > 0).all()


def test_members_that_are_certain_and_at_odds_are_only_epistemically_uncertain():
    total, aleatoric, epistemic = decompose(Outputs(torch.eye(3).double()[:, None]))
    assert float(aleatoric) == 0
    assert float(total) == float(epistemic) == pytest.approx(np.log(3))


@LAWS
@given(st.integers(0, 999), st.integers(1, 6))
def test_values_have_the_moments_of_the_mixture(seed, members):
    outputs = values_said(seed, members)
    means, variances = outputs.values.numpy()[:, :, 0], outputs.variances.numpy()[:, :, 0]
    second_moment = (variances + means**2).mean(0)
    assert decompose(outputs).total.numpy() == pytest.approx(second_moment - means.mean(0) ** 2)
    assert decompose(outputs).aleatoric.numpy() == pytest.approx(variances.mean(0))


def test_the_total_of_values_is_the_variance_of_draws_from_the_mixture():
    outputs = values_said(5, members=3, rows=2)
    rng = np.random.default_rng(5)
    which = rng.integers(0, 3, 400_000)
    draws = rng.normal(outputs.values.numpy()[which, :, 0], outputs.variances.numpy()[which, :, 0] ** 0.5)
    assert decompose(outputs).total.numpy() == pytest.approx(draws.var(0), rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_labels_have_scipys_entropies_added_up(seed):
    outputs = labels_said(seed)
    p = outputs.values.numpy()
    total, aleatoric, epistemic = decompose(outputs)
    assert total.numpy() == pytest.approx(bernoulli.entropy(p.mean(0)).sum(1))
    assert aleatoric.numpy() == pytest.approx(bernoulli.entropy(p).sum(2).mean(0))
    assert epistemic.numpy() == pytest.approx((total - aleatoric).numpy())


def test_one_label_is_as_uncertain_as_two_classes():
    p = torch.rand(3, 5, 1, generator=torch.Generator().manual_seed(0)).double()
    label = Outputs(p, task=TargetSchema(kind="multilabel", classes=["u"]))
    for ours, theirs in zip(decompose(label), decompose(Outputs(torch.cat([1 - p, p], 2))), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_labels_that_members_are_certain_of_and_at_odds_about_are_only_epistemically_uncertain():
    total, aleatoric, epistemic = decompose(Outputs(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]).double(), task=LABELS))
    assert float(aleatoric) == 0
    assert float(total) == float(epistemic) == pytest.approx(np.log(2))  # of the first label; of the second they are sure
    assert label_entropy(torch.tensor([[0.5, 0.5, 1.0]])).tolist() == pytest.approx([2 * np.log(2)])


def test_quantiles_by_hand():
    """The widths are 4 and 6, the middle ones 1 and 3: their mean is 2, and each is 1 away from it."""
    said = torch.tensor([[[-1.0, 1.0, 2.0, 3.0]], [[0.0, 3.0, 4.0, 6.0]]]).double()
    assert [float(part) for part in decompose(Outputs(said, task=LEVELS))] == [6.0, 5.0, 1.0]
    weights = torch.tensor([0.75, 0.25]).double()  # 4.5; the mean is 1.5, and the variance 0.75·0.25 + 0.25·2.25
    assert [float(part) for part in decompose(Outputs(said, task=LEVELS), weights)] == pytest.approx(
        [4.5 + 0.75**0.5, 4.5, 0.75**0.5]
    )


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_uncertainty_of_quantiles_is_in_the_targets_units(unit):
    outputs = quantiles_said(3)
    for ours, theirs in zip(decompose(outputs), decompose(outputs._replace(values=unit * outputs.values + 7)), strict=True):
        torch.testing.assert_close(unit * ours, theirs)
