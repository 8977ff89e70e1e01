"""Dynamic selection against DESlib's own answers, against loops, and by its laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.neighbors import NearestNeighbors

from fuseline.data.schema import TargetSchema
from fuseline.errors import RecipeError
from fuseline.fusion import neighbours as module
from fuseline.fusion.combine import Outputs
from fuseline.fusion.local import dynamic
from fuseline.fusion.neighbours import Neighbours, nearest
from fuseline.fusion.scores import row_losses

LAWS = settings(derandomize=True, deadline=None, max_examples=20)
NO_RANDOMNESS = torch.Generator().manual_seed(0)
DESLIB = Path(__file__).parents[2] / "fixtures" / "deslib"
DATA = ["cancer", "digits"]
METHODS = ["knora_e", "knora_u", "ola"]
LABELS = TargetSchema(kind="multilabel", classes=["a", "b", "c"])
QUANTILES = TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9])
VALUE = TargetSchema(kind="regression")


def fit(outputs, y, **choices):
    return dynamic(outputs, y, NO_RANDOMNESS, **choices)


def said(kind, seed, members=3, rows=40, width=2):
    """Members' outputs of a kind at random, rows to fit on, with a target; the features are a few numbers."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(rows, width)))
    noise = torch.from_numpy(rng.normal(size=(members, rows, 3)))
    if kind == "multilabel":
        labels = torch.from_numpy(rng.integers(0, 2, (rows, 3)).astype(float))
        labels[torch.from_numpy(rng.random((rows, 3)) < 0.2)] = torch.nan
        return Outputs(noise.sigmoid(), None, x, task=LABELS), labels
    if kind == "quantile":
        return Outputs(noise.sort(2).values, None, x, task=QUANTILES), torch.from_numpy(rng.normal(size=rows))
    if kind == "regression":
        return Outputs(noise[:, :, :1], noise[:, :, 1:2].exp(), x, task=VALUE), torch.from_numpy(rng.normal(size=rows))
    task = TargetSchema(kind=kind, classes=["a", "b", "c"])
    return Outputs(noise.softmax(2), None, x, task=task), torch.from_numpy(rng.integers(0, 3, rows))


KINDS = ["classification", "ordinal", "multilabel", "regression", "quantile"]
FITTING = [
    (kind, method) for kind in KINDS for method in METHODS if method != "knora_e" or kind not in ("regression", "quantile")
]


def recorded(name, method):
    """What DESlib was given and answered, and the same rule of ours on the rows to answer."""
    with np.load(DESLIB / f"{name}.npz") as file:
        kept = dict(file)
    learn, ask = (
        Outputs(torch.from_numpy(kept[f"{part}probabilities"]), None, torch.from_numpy(kept[f"{part}space"]))
        for part in ("dsel_", "")
    )
    k = kept["neighbours"].shape[1]
    return kept, fit(learn, torch.from_numpy(kept["dsel_target"]), method=method, neighbours=k), ask


def disputed(ask):
    """The rows on which DESlib selects: where the members don't all decide for one class."""
    decisions = ask.values.argmax(2).numpy()
    rows = (decisions != decisions[0]).any(0)
    assert rows.sum() > 20
    return rows


@pytest.mark.parametrize("name", DATA)
def test_the_neighbours_are_those_of_deslib(name):
    kept, combiner, ask = recorded(name, "ola")
    assert nearest(combiner.place(ask), combiner.rows, int(combiner.count)).numpy() == pytest.approx(kept["neighbours"])


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", ["knora_e", "ola"])
def test_the_members_selected_are_those_of_deslib(name, method):
    kept, combiner, ask = recorded(name, method)
    selected = kept[f"{method}_selected"]
    assert 0 < selected.mean() < 1
    assert combiner.shares(ask)[:, :, 0].T.numpy() == pytest.approx(selected / selected.sum(1, keepdims=True), abs=1e-15)


@pytest.mark.parametrize("name", DATA)
def test_the_votes_of_knora_u_are_those_of_deslib(name):
    kept, combiner, ask = recorded(name, "knora_u")
    votes = kept["knora_u_competence"]
    assert (combiner.votes(combiner.place(ask))[:, :, 0].numpy() == votes).all()
    assert combiner.shares(ask)[:, :, 0].T.numpy() == pytest.approx(votes / votes.sum(1, keepdims=True), abs=1e-15)


@pytest.mark.parametrize("name", DATA)
def test_deslibs_default_of_ola_is_the_first_of_the_members_that_we_select(name):
    kept, combiner, ask = recorded(name, "ola")
    assert (combiner.shares(ask)[:, :, 0].argmax(0).numpy() == kept["ola_first_selected"]).all()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_soft_voting_gives_the_probabilities_of_deslib_where_it_selects(name, method):
    kept, combiner, ask = recorded(name, method)
    rows, got = disputed(ask), combiner(ask).values.numpy()
    if method == "knora_u":  # DESlib gives the softmax of the sums Σ votes · p / M; the largest is the same
        got = softmax(got * kept["knora_u_competence"].sum(1, keepdims=True) / len(ask.values), axis=1)
    assert got[rows] == pytest.approx(kept[f"{method}_proba"][rows], abs=1e-12)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_the_predictions_of_selected_members_are_those_of_deslib(name, method):
    kept, combiner, ask = recorded(name, method)
    if method == "ola":  # DESlib's OLA lets the selected ones vote; its probabilities are what we give
        assert (kept["ola_proba"].argmax(1) == combiner(ask).values.argmax(1).numpy()).all()
        return
    assert (combiner(ask).values.argmax(1).numpy() == kept[f"{method}_predict"]).all()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", ["knora_e", "knora_u"])
def test_our_shares_of_votes_elect_the_class_that_deslib_elects_by_hard_voting(name, method):
    kept, combiner, ask = recorded(name, method)
    ballots = np.eye(ask.values.shape[2])[ask.values.argmax(2).numpy()]
    elected = (combiner.shares(ask).numpy() * ballots).sum(0).round(12)
    assert (elected.argmax(1) == kept[f"{method}_hard"]).all()


def neighbours_by_loop(x, rows, k):
    far = [[(float(((a - b) ** 2).sum()), i) for i, b in enumerate(rows)] for a in x]
    return [[i for _, i in sorted(row)[:k]] for row in far]


def votes_by_loop(method, right, k):
    """Votes of one row: ``right`` (k, M) of True, False or None where nobody knows."""
    members = range(len(right[0]))
    if method != "knora_e":
        votes = [sum(row[m] is True for row in right) for m in members]
        votes = [v == max(votes) for v in votes] if method == "ola" else votes
        return votes if any(votes) else [1] * len(votes)
    for size in range(k, 0, -1):
        selected = [all(row[m] is not False for row in right[:size]) for m in members]
        if any(selected):
            return selected
    return [1] * len(right[0])


@LAWS
@given(st.integers(0, 9999), st.sampled_from(METHODS), st.integers(1, 6))
def test_each_label_is_weighed_by_itself_as_a_loop_would(seed, method, k):
    outputs, y = said("multilabel", seed, rows=12)
    x = outputs.features.numpy()
    x = (x - x.mean(0)) / x.std(0)
    combiner = fit(outputs, y, method=method, neighbours=k)
    shares = combiner.shares(outputs).numpy()
    for row, near in enumerate(neighbours_by_loop(x, x, k)):
        for label in range(3):
            right = [
                [None if y[i, label].isnan() else bool((v[i, label] > 0.5) == y[i, label]) for v in outputs.values] for i in near
            ]
            votes = np.array(votes_by_loop(method, right, k), float)
            assert shares[:, row, label] == pytest.approx(votes / votes.sum())


@LAWS
@given(st.integers(0, 9999), st.sampled_from(["regression", "quantile"]), st.integers(1, 50))
def test_values_are_weighed_by_the_inverse_of_the_local_error(seed, kind, k):
    (outputs, y), (ask, _) = said(kind, seed), said(kind, seed + 1)
    scaled = [(o.features - outputs.features.mean(0)) / outputs.features.std(0, correction=0) for o in (outputs, ask)]
    near = NearestNeighbors(n_neighbors=min(k, 40)).fit(scaled[0].numpy()).kneighbors(scaled[1].numpy(), return_distance=False)
    gap = y[None, :, None] - outputs.values
    tau = torch.tensor(QUANTILES.levels)
    errors = (gap**2 if kind == "regression" else torch.where(gap > 0, tau * gap, (tau - 1) * gap)).mean(2).numpy()
    local = errors[:, near].mean(2) + 1e-6 * errors.mean()
    got, one = (fit(outputs, y, method=method, neighbours=k).shares(ask)[:, :, 0].numpy() for method in ("knora_u", "ola"))
    assert got == pytest.approx((1 / local) / (1 / local).sum(0))
    assert (one == np.eye(3)[local.argmin(0)].T).all()


@LAWS
@given(st.integers(0, 9999), st.sampled_from(FITTING), st.integers(1, 60))
def test_shares_are_on_the_simplex_and_outputs_keep_their_kinds_laws(seed, fitting, k):
    kind, method = fitting
    (outputs, y), (ask, _) = said(kind, seed), said(kind, seed + 1)
    combiner = fit(outputs, y, method=method, neighbours=k)
    shares, fused = combiner.shares(ask), combiner(ask)
    assert (shares >= 0).all()
    assert torch.allclose(shares.sum(0), torch.ones(()).double())
    assert (fused.values <= ask.values.amax(0) + 1e-12).all()
    assert (fused.values >= ask.values.amin(0) - 1e-12).all()
    if kind in ("classification", "ordinal"):
        assert torch.allclose(fused.values.sum(1), torch.ones(40).double())
    if kind == "quantile":
        assert (fused.values.diff(dim=1) >= 0).all()
    if kind == "regression":
        w = shares[:, :, 0]
        second = (w * (ask.variances + ask.values**2)[:, :, 0]).sum(0)
        assert torch.allclose(fused.variances[:, 0], second - fused.values[:, 0] ** 2)


@LAWS
@given(st.integers(0, 9999), st.sampled_from(FITTING), st.permutations(range(3)))
def test_the_order_of_the_members_decides_nothing(seed, fitting, order):
    kind, method = fitting
    outputs, y = said(kind, seed)
    variances = None if outputs.variances is None else outputs.variances[order]
    moved = outputs._replace(values=outputs.values[order], variances=variances)
    before, after = (fit(o, y, method=method)(o).values for o in (outputs, moved))
    assert torch.allclose(before, after)


@pytest.mark.parametrize("method", METHODS)
def test_one_label_is_a_classification_of_two_classes(method):
    outputs, y = said("classification", 3)
    p = outputs.values[:, :, :1]
    labels = outputs._replace(values=p, task=TargetSchema(kind="multilabel", classes=["a"]))
    classes = outputs._replace(values=torch.cat([1 - p, p], 2), task=TargetSchema(kind="classification", classes=[0, 1]))
    code = (y == 0).long()
    as_label = fit(labels, code[:, None].double(), method=method)(labels).values
    assert torch.allclose(fit(classes, code, method=method)(classes).values[:, 1:], as_label)


@pytest.mark.parametrize("method", METHODS)
def test_members_right_in_regions_of_their_own_are_found_there(method):
    def region(seed):
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(-1, 1, (400, 2)), rng.integers(0, 3, 400)
        at_home = (x[:, :1] > 0) == np.array([False, True])
        logits = rng.normal(size=(2, 400, 3)) + 4 * at_home.T[:, :, None] * np.eye(3)[y]
        return Outputs(torch.from_numpy(logits).softmax(2), None, torch.from_numpy(x)), torch.from_numpy(y)

    (outputs, y), (ask, truth) = region(0), region(1)
    even = ask.fused(ask.values.mean(0))
    loss, of_mean = (float(row_losses(fused, truth).mean()) for fused in (fit(outputs, y, method=method)(ask), even))
    assert loss < of_mean * (0.9 if method == "knora_u" else 0.65)


@pytest.mark.parametrize("sees", ["outputs", "features", "inputs"])
def test_a_row_is_seen_by_what_the_setting_says_whatever_its_units(sees):
    outputs, y = said("regression", 5)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 40, 4)))
    outputs = outputs._replace(features=noise[0], inputs=noise[1])
    seen = {"outputs": outputs.values.transpose(0, 1).flatten(1), "features": noise[0], "inputs": noise[1]}[sees]
    moved = outputs._replace(features=seen * torch.tensor([1e-9, 1e3, 1.0, 5.0])[: seen.shape[1]] + 7e-9)
    alone = outputs._replace(**{name: None for name in ("features", "inputs") if name != sees})
    expected = fit(moved, y, sees="features")(moved).values
    assert torch.allclose(fit(alone, y, sees=sees)(alone).values, expected)
    others = [fit(outputs, y, sees=other)(outputs).values for other in {"outputs", "features", "inputs"} - {sees}]
    assert not any(torch.allclose(other, expected) for other in others)


@LAWS
@given(st.integers(0, 9999), st.integers(1, 8))
def test_equally_far_rows_come_in_their_order(seed, k):
    rng = np.random.default_rng(seed)
    rows, x = rng.integers(-1, 2, (30, 2)).astype(float), rng.integers(-1, 2, (10, 2)).astype(float)
    assert nearest(torch.from_numpy(x), torch.from_numpy(rows), k).tolist() == neighbours_by_loop(x, rows, k)


def test_a_rows_answer_does_not_depend_on_its_batch(monkeypatch):
    (outputs, y), (ask, _) = said("classification", 6, width=60), said("classification", 7, width=60)
    combiner = fit(outputs, y, method="knora_e")
    together = combiner(ask).values
    alone = torch.cat([combiner(ask.rows(torch.tensor([i]))).values for i in range(40)])
    monkeypatch.setattr(module, "AT_ONCE", 120)
    assert torch.equal(together, alone)
    assert torch.equal(combiner(ask).values, together)


@pytest.mark.parametrize(("kind", "method"), FITTING)
def test_a_combiner_is_its_tensors_and_answers_no_rows(kind, method):
    (outputs, y), (ask, _) = said(kind, 8), said(kind, 9)
    combiner = fit(outputs, y, method=method, neighbours=3)
    again = Neighbours(combiner.tensors())
    assert torch.equal(again(ask).values, combiner(ask).values)
    assert combiner(ask.rows(torch.arange(0))).values.shape == (0, ask.values.shape[2])


def test_more_neighbours_than_rows_are_all_rows():
    outputs, y = said("classification", 10, rows=5)
    shares = fit(outputs, y, neighbours=1000).shares(outputs)[:, :, 0]
    votes = (outputs.values.argmax(2) == y).sum(1).double()
    assert torch.allclose(shares, (votes / votes.sum())[:, None].expand(-1, 5))


def test_members_that_are_never_right_or_never_wrong_count_alike():
    outputs, _ = said("classification", 11)
    never = outputs.values[0].argmin(1)
    same = outputs._replace(values=outputs.values[:1].expand(3, -1, -1))
    for method in METHODS:
        assert torch.allclose(fit(same, never, method=method)(same).values, same.values[0])
    exact = Outputs(torch.ones(2, 5, 1).double(), torch.ones(2, 5, 1).double(), torch.arange(5.0)[:, None].double())
    assert (fit(exact, torch.ones(5).double()).shares(exact) == 0.5).all()


@pytest.mark.parametrize("kind", ["regression", "quantile"])
def test_nobody_is_right_on_a_value(kind):
    outputs, y = said(kind, 12)
    with pytest.raises(RecipeError, match=rf"'knora_e' asks who is right.*{kind}; choose the method 'knora_u' or 'ola'\."):
        fit(outputs, y, method="knora_e")
