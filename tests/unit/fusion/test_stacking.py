"""Stacking against scikit-learn, the penalised optimum's own conditions and a least squares computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression, QuantileRegressor
from sklearn.preprocessing import StandardScaler

from fuseline.data.schema import TargetSchema
from fuseline.fusion import stacking as module
from fuseline.fusion.combine import Outputs
from fuseline.fusion.combiners import COMBINERS, combiner_name
from fuseline.fusion.scores import row_losses
from fuseline.fusion.stacking import stacking

LAWS = settings(derandomize=True, deadline=None, max_examples=20)
NO_RANDOMNESS = torch.Generator().manual_seed(0)


def classes_said(seed, members=3, rows=150, classes=3):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    logits = rng.normal(size=(members, rows, classes)) + rng.uniform(0, 2, (members, 1, 1)) * np.eye(classes)[y]
    return Outputs(torch.from_numpy(logits).softmax(2)), torch.from_numpy(y)


def values_said(seed, members=3, rows=40, unit=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    values = y * rng.uniform(0.5, 1.5, (members, 1)) + rng.normal(size=(members, rows)) + rng.normal(size=(members, 1))
    shape = (members, rows, 1)
    return Outputs(torch.from_numpy(unit * values + offset)[:, :, None], torch.ones(shape).double()), torch.from_numpy(
        unit * y + offset
    )


def log_features(outputs):
    return np.concatenate([np.log(np.clip(member, 1e-7, None)) for member in outputs.values.numpy()], axis=1)


def shrunk_least_squares(outputs, y, l2):
    """Least squares of y minus the members' mean, in units of y's spread, with rows of √l2 that pull coefficients to 0."""
    values, unit = outputs.values.numpy()[:, :, 0].T, y.numpy().std()
    even = values.mean(1)
    rows, members = values.shape
    design = np.vstack([np.column_stack([values / unit, np.ones(rows)]), np.eye(members, members + 1) * np.sqrt(l2)])
    found = np.linalg.lstsq(design, np.append((y.numpy() - even) / unit, np.zeros(members)), rcond=None)[0]
    return even + unit * (values / unit @ found[:members] + found[members])


@pytest.mark.parametrize("l2", [0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_stacking_equals_scikit_learn_on_log_probabilities(classes, l2):
    outputs, y = classes_said(classes, classes=classes)
    expected = LogisticRegression(C=1 / l2, max_iter=500).fit(log_features(outputs), y.numpy())
    got = stacking(outputs, y, NO_RANDOMNESS, l2=l2)(outputs).values.numpy()
    assert got == pytest.approx(expected.predict_proba(log_features(outputs)), abs=1e-6)


@pytest.mark.parametrize("l2", [1.0, 10.0])
def test_logistic_stacking_meets_the_conditions_of_its_penalised_optimum(l2):
    outputs, y = classes_said(7)
    combiner = stacking(outputs, y, NO_RANDOMNESS, l2=l2)
    residual = combiner(outputs).values.numpy() - np.eye(3)[y.numpy()]
    pull = residual.T @ log_features(outputs)
    assert np.abs(pull + l2 * combiner.coefficients.numpy()).max() < 0.1 * np.abs(pull).max()
    assert np.abs(residual.sum(0)).max() < 0.05


def test_a_larger_penalty_gives_smaller_coefficients():
    outputs, y = classes_said(8)
    sizes = [float(stacking(outputs, y, NO_RANDOMNESS, l2=l2).coefficients.norm()) for l2 in (0.1, 10.0, 1000.0)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_logistic_stacking_listens_to_the_member_that_knows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    knows = np.where(np.eye(2)[y] == 1, 0.9, 0.1)
    outputs = Outputs(torch.from_numpy(np.stack([rng.dirichlet([1, 1], 400), knows])))
    combiner = stacking(outputs, torch.from_numpy(y), NO_RANDOMNESS)
    assert combiner.coefficients[:, 2:].norm() > 10 * combiner.coefficients[:, :2].norm()


@pytest.mark.parametrize("present", [[0, 1], [0, 2], [1, 2], [0, 1, 3]])
def test_a_class_that_the_rows_lack_is_possible_but_improbable(present):
    outputs, y = classes_said(9, classes=max(present) + 2)
    rows = torch.isin(y, torch.tensor(present)).nonzero()[:, 0]
    outputs, y = outputs.rows(rows), y[rows]
    said = stacking(outputs, y, NO_RANDOMNESS)(outputs).values
    absent = [c for c in range(said.shape[1]) if c not in present]
    assert torch.isfinite(said).all()
    assert torch.allclose(said.sum(1), torch.ones(len(y)).double())
    assert (said > 0).all()
    assert said[:, absent].mean() < 1 / len(y)
    expected = LogisticRegression(C=0.1, max_iter=500).fit(log_features(outputs), y.numpy())
    odds = said[:, present] / said[:, present].sum(1, keepdim=True)
    assert odds.numpy() == pytest.approx(expected.predict_proba(log_features(outputs)), abs=1e-6)


def test_rows_of_a_single_class_give_finite_probabilities():
    outputs, y = classes_said(10, rows=20)
    said = stacking(outputs, torch.zeros_like(y), NO_RANDOMNESS)(outputs).values
    assert torch.isfinite(said).all()
    assert (said.argmax(1) == 0).all()


@LAWS
@given(st.integers(0, 9999), st.integers(1, 5), st.sampled_from([1e-3, 1.0, 10.0, 1e4]))
def test_ridge_equals_shrunk_least_squares(seed, members, l2):
    outputs, y = values_said(seed, members)
    got = stacking(outputs, y, NO_RANDOMNESS, l2=l2)(outputs).values[:, 0].numpy()
    assert got == pytest.approx(shrunk_least_squares(outputs, y, l2), rel=1e-6, abs=1e-8)


def test_an_endless_penalty_leaves_the_members_mean_less_its_bias():
    outputs, y = values_said(1)
    combiner = stacking(outputs, y, NO_RANDOMNESS, l2=1e12)
    even = outputs.values[:, :, 0].mean(0)
    assert combiner.coefficients.tolist() == pytest.approx([1 / 3] * 3)
    assert combiner(outputs).values[:, 0].numpy() == pytest.approx((even + (y - even).mean()).numpy())


def test_no_penalty_gives_least_squares():
    outputs, y = values_said(2)
    design = np.column_stack([outputs.values.numpy()[:, :, 0].T, np.ones(40)])
    expected = design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    assert stacking(outputs, y, NO_RANDOMNESS, l2=1e-9)(outputs).values[:, 0].numpy() == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "offset"), [(1000.0, 0.0), (1e-6, 0.0), (1.0, 1e6), (0.1, -30.0)])
def test_ridge_follows_the_targets_unit_and_origin(unit, offset):
    plain, y = values_said(3)
    moved, moved_y = values_said(3, unit=unit, offset=offset)
    expected = stacking(plain, y, NO_RANDOMNESS)(plain).values * unit + offset
    assert torch.allclose(stacking(moved, moved_y, NO_RANDOMNESS)(moved).values, expected, rtol=1e-9, atol=1e-7 * unit)


@pytest.mark.parametrize("constant", [0.0, 0.1, 7.0])
def test_a_target_that_does_not_vary_is_met_without_large_coefficients(constant):
    outputs, _ = values_said(4)
    combiner = stacking(outputs, torch.full((40,), constant).double(), NO_RANDOMNESS)
    assert combiner.coefficients.abs().max() < 2
    assert torch.isfinite(combiner(outputs).values).all()


LEVELS = [0.1, 0.5, 0.9]


def labels_said(seed, members=3, rows=150, labels=4):
    """Labels of which a fifth are unknown."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (rows, labels)).astype(float)
    logits = rng.normal(size=(members, rows, labels)) + rng.uniform(0, 2, (members, 1, 1)) * (2 * y - 1)
    y[rng.random(y.shape) < 0.2] = np.nan
    task = TargetSchema(kind="multilabel", classes=list(range(labels)))
    return Outputs(torch.from_numpy(logits).sigmoid(), task=task), torch.from_numpy(y)


def quantiles_said(seed, members=3, rows=80, unit=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    center = y + rng.normal(size=(members, rows)) * rng.uniform(0.3, 1, (members, 1)) + rng.normal(size=(members, 1))
    quantiles = center[:, :, None] + rng.uniform(0.2, 2, (members, 1, 1)) * (np.array(LEVELS) - 0.5)
    task = TargetSchema(kind="quantile", levels=LEVELS)
    return Outputs(torch.from_numpy(quantiles * unit + offset), task=task), torch.from_numpy(y * unit + offset)


def with_inputs(said, columns=2):
    """What was said, beside inputs of which the last tells the target."""
    outputs, y = said
    rng = np.random.default_rng(99)
    signal = y.double().nan_to_num() if y.ndim == 1 else y.nan_to_num()[:, 0]
    inputs = rng.normal(5, 3, (len(y), columns))
    inputs[:, -1] += 10 * signal.numpy()
    return outputs._replace(inputs=torch.from_numpy(inputs)), y


def members_logits(outputs, label):
    p = outputs.values[:, :, label].clamp(1e-7, 1 - 1e-7).numpy()
    return np.log(p / (1 - p)).T


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_each_label_is_scikit_learns_logistic_regression_on_its_known_rows(l2):
    outputs, y = labels_said(1)
    got = stacking(outputs, y, NO_RANDOMNESS, l2=l2)(outputs).values.numpy()
    for label in range(4):
        x, known = members_logits(outputs, label), ~np.isnan(y[:, label].numpy())
        expected = LogisticRegression(C=1 / l2, max_iter=500).fit(x[known], y[known, label].numpy())
        assert got[:, label] == pytest.approx(expected.predict_proba(x)[:, 1], abs=1e-6)


@pytest.mark.parametrize("passthrough", [False, True])
def test_a_label_that_is_known_nowhere_or_seen_with_one_value_is_given_a_probability(passthrough):
    outputs, y = with_inputs(labels_said(2))
    y[:, 0], y[:, 1], y[:, 2] = torch.nan, 0.0, 1.0
    said = stacking(outputs, y, NO_RANDOMNESS, passthrough=passthrough)(outputs).values
    assert said[:, 0].numpy() == pytest.approx(1 / (1 + np.exp(-members_logits(outputs, 0).mean(1))))
    assert said[:, 1].unique().tolist() == pytest.approx([0.5 / 150 / (1 + 0.5 / 150)])
    assert (1 - said[:, 2]).unique().tolist() == pytest.approx([0.5 / 150 / (1 + 0.5 / 150)])


@pytest.mark.parametrize("l2", [0.5, 10.0])
def test_each_quantile_is_as_good_as_scikit_learns_on_what_the_mean_leaves(l2):
    outputs, y = quantiles_said(3)
    combiner = stacking(outputs, y, NO_RANDOMNESS, l2=l2)
    unit, rows = y.numpy().std(), len(y)
    for q, level in enumerate(LEVELS):
        values = outputs.values[:, :, q].numpy().T
        rest = (y.numpy() - values.mean(1)) / unit

        def cost(residual, coefficients, level=level):
            return np.maximum(level * residual, (level - 1) * residual).sum() + l2 * np.abs(coefficients).sum()

        theirs = QuantileRegressor(quantile=level, alpha=l2 / rows, solver="highs").fit(values / unit, rest)
        own = combiner.coefficients[q].numpy()
        residual = (y.numpy() - values @ own - float(combiner.intercept[q])) / unit
        best = cost(rest - theirs.predict(values / unit), theirs.coef_)
        assert cost(residual, own - 1 / 3) == pytest.approx(best, abs=1e-8)


def test_stacked_quantiles_are_in_order_and_better_than_the_mean():
    outputs, y = quantiles_said(4)
    fused = stacking(outputs, y, NO_RANDOMNESS, l2=0.1)(outputs)
    assert (fused.values.diff(dim=1) >= 0).all()
    assert row_losses(fused, y).mean() < 0.9 * row_losses(outputs.fused(outputs.values.mean(0)), y).mean()


def test_a_strong_penalty_gives_the_members_mean_quantiles_shifted():
    outputs, y = quantiles_said(5)
    combiner = stacking(outputs, y, NO_RANDOMNESS, l2=1e6)
    assert torch.allclose(combiner.coefficients, torch.full((3, 3), 1 / 3).double())
    rest = (y[:, None] - outputs.values.mean(0)).numpy()
    expected = [np.quantile(rest[:, q], level, method="inverted_cdf") for q, level in enumerate(LEVELS)]
    assert combiner.intercept.numpy() == pytest.approx(np.array(expected), abs=0.1)


@pytest.mark.parametrize(("unit", "offset"), [(1000.0, 0.0), (1.0, 1e6), (0.1, -30.0)])
def test_quantiles_follow_the_targets_unit_and_origin(unit, offset):
    (plain, y), (moved, moved_y) = quantiles_said(6), quantiles_said(6, unit=unit, offset=offset)
    expected = stacking(plain, y, NO_RANDOMNESS)(plain).values * unit + offset
    assert torch.allclose(stacking(moved, moved_y, NO_RANDOMNESS)(moved).values, expected, rtol=1e-9, atol=1e-6 * unit)


class Repeats(ClassifierMixin, BaseEstimator):
    """A member that says for each row, told by its first column, what it said: nothing is fitted."""

    def __init__(self, said=None):
        self.said = said

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x):
        return self.said[x[:, 0].astype(int)]


def test_passthrough_is_scikit_learns_stacking_classifier():
    outputs, y = with_inputs(classes_said(11))
    x = StandardScaler().fit_transform(outputs.inputs.numpy())
    said = log_features(outputs).reshape(len(y), 3, 3)
    rows = np.arange(len(y), dtype=float)

    class AsColumns(LogisticRegression):
        """The row's number, by which members are told it, is no input."""

        def fit(self, x, y):
            return super().fit(np.delete(x, 9, axis=1), y)

        def predict_proba(self, x):
            return super().predict_proba(np.delete(x, 9, axis=1))

    members = [(str(m), Repeats(said[:, m]).fit(x, y.numpy())) for m in range(3)]
    theirs = StackingClassifier(members, AsColumns(C=0.1, max_iter=500), cv="prefit", passthrough=True)
    columns = np.column_stack([rows, x])
    expected = theirs.fit(columns, y.numpy()).predict_proba(columns)
    got = stacking(outputs, y, NO_RANDOMNESS, passthrough=True)(outputs).values.numpy()
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("l2", [0.1, 10.0])
def test_passthrough_of_values_is_penalised_least_squares_on_the_same_columns(l2):
    outputs, y = with_inputs(values_said(12))
    values, unit = outputs.values.numpy()[:, :, 0].T, y.numpy().std()
    columns = np.column_stack([values / unit, StandardScaler().fit_transform(outputs.inputs.numpy())])
    even = values.mean(1)
    design = np.vstack([np.column_stack([columns, np.ones(len(y))]), np.eye(5, 6) * np.sqrt(l2)])
    found = np.linalg.lstsq(design, np.append((y.numpy() - even) / unit, np.zeros(5)), rcond=None)[0]
    expected = even + unit * (columns @ found[:5] + found[5])
    got = stacking(outputs, y, NO_RANDOMNESS, l2=l2, passthrough=True)(outputs).values[:, 0].numpy()
    assert got == pytest.approx(expected)


def test_passthrough_of_labels_is_logistic_regression_on_the_same_columns():
    outputs, y = with_inputs(labels_said(13))
    got = stacking(outputs, y, NO_RANDOMNESS, passthrough=True)(outputs).values.numpy()
    own = StandardScaler().fit_transform(outputs.inputs.numpy())
    for label in range(4):
        x, known = np.column_stack([members_logits(outputs, label), own]), ~np.isnan(y[:, label].numpy())
        expected = LogisticRegression(C=0.1, max_iter=500).fit(x[known], y[known, label].numpy())
        assert got[:, label] == pytest.approx(expected.predict_proba(x)[:, 1], abs=1e-6)


PASSING = {"classes": classes_said, "labels": labels_said, "values": values_said, "quantiles": quantiles_said}


@pytest.mark.parametrize("kind", PASSING)
def test_inputs_that_tell_the_target_help(kind):
    outputs, y = with_inputs(PASSING[kind](14, rows=120))
    alone, beside = (stacking(outputs, y, NO_RANDOMNESS, l2=1.0, passthrough=p)(outputs) for p in (False, True))
    before, after = (float(row_losses(fused._replace(task=fused.task or task_of(kind)), y).mean()) for fused in (alone, beside))
    assert after < 0.9 * before


def task_of(kind):
    return TargetSchema(kind="classification", classes=[0, 1, 2]) if kind == "classes" else TargetSchema(kind="regression")


@pytest.mark.parametrize("kind", PASSING)
def test_the_units_of_the_inputs_change_nothing_and_a_constant_one_does_no_harm(kind):
    outputs, y = with_inputs(PASSING[kind](15), columns=3)
    outputs.inputs[:, 0] = 0.1
    moved = outputs._replace(inputs=outputs.inputs * torch.tensor([1.0, 1e3, 1e-6]) + torch.tensor([7.0, -4.0, 1e-3]))
    before, after = (stacking(o, y, NO_RANDOMNESS, passthrough=True)(o).values for o in (outputs, moved))
    assert torch.isfinite(before).all()
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("kind", PASSING)
def test_a_rebuilt_combiner_says_the_same_to_the_bit(kind, passthrough):
    outputs, y = with_inputs(PASSING[kind](16))
    combiner = stacking(outputs, y, NO_RANDOMNESS, passthrough=passthrough)
    assert ("on_inputs" in combiner.tensors()) == passthrough
    rebuilt = COMBINERS[combiner_name(combiner)]({name: t.contiguous().clone() for name, t in combiner.tensors().items()})
    assert torch.equal(combiner(outputs).values, rebuilt(outputs).values)
    part = rebuilt(outputs.rows(torch.tensor([3, 1]))).values
    assert torch.allclose(part, combiner(outputs).values[[3, 1]], rtol=1e-12)


def test_one_class_only_beside_inputs_is_as_without_them():
    outputs, y = with_inputs(classes_said(17, rows=20))
    alone, beside = (stacking(outputs, torch.zeros_like(y), NO_RANDOMNESS, passthrough=p)(outputs) for p in (False, True))
    assert torch.equal(alone.values, beside.values)


@pytest.mark.parametrize("rows", [20, 45])
def test_of_more_columns_than_rows_the_fit_is_that_of_all_columns(said_of, monkeypatch, rows):
    """Found in the few dimensions that the rows span, to a far tighter tolerance than either is fitted to by default."""
    outputs, y = said_of("classification", skills=(1.0,) * 30, rows=rows)

    def tight(x, codes, l2):
        widths.append(x.shape[1])
        return LogisticRegression(C=1 / l2, max_iter=20_000, tol=1e-10).fit(x, codes)

    widths: list[int] = []
    monkeypatch.setattr(module, "_fit_logistic", tight)
    found = stacking(outputs, y, torch.Generator())
    monkeypatch.setattr(module, "_rotated", lambda x: (x, None))
    expected = stacking(outputs, y, torch.Generator())
    assert (widths[0], widths[1]) == (rows, 90)
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found(outputs).values, expected(outputs).values, rtol=1e-4, atol=1e-6)


def test_rows_that_repeat_span_fewer_dimensions(said_of):
    outputs, y = said_of("classification", skills=(1.0,) * 30, rows=10)
    twice = torch.cat([torch.arange(10), torch.arange(10)])
    fitted = stacking(outputs.rows(twice), y[twice], torch.Generator())
    assert fitted.coefficients.isfinite().all()
    once = module._rotated(module.log_probabilities(outputs.rows(twice)).numpy())[0]
    assert once.shape == (20, 10)
