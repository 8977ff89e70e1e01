"""The family of fusion rules: what a recipe may ask for, and what holds for every one."""

from __future__ import annotations

import pytest
import torch

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.fusion.combiners import COMBINERS, combiner_name
from fuseline.fusion.rules import FUSIONS, UNFIT, needs, rules_for
from fuseline.recipe import Recipe

KINDS = ["classification", "ordinal", "multilabel", "regression", "quantile"]
FITTING = [(name, kind) for kind in KINDS for name in FUSIONS if kind not in UNFIT.get(name, ())]
EXTRAS = {"multilabel": {"columns": ["u", "v"]}}


def recipe(rules=None, own=None, kind="classification"):
    return Recipe.model_validate(
        {
            "name": "toy",
            "data": {"source": "toy"},
            "targets": {"t": {"kind": kind, **EXTRAS.get(kind, {}), **({} if own is None else {"fusion": own})}},
            "members": [{"name": "m", "architecture": "mlp"}],
            **({} if rules is None else {"fusion": {"rules": rules}}),
        }
    )


def names(rules):
    return [rule.name for rule in rules]


def fitted(name, outputs, y, **settings):
    rule = complete(Component(name=name, settings=settings), FUSIONS, "fusion.rules.0")
    return FUSIONS[name](outputs, y, torch.Generator().manual_seed(0), **rule.settings)


@pytest.mark.parametrize("otherwise", [False, True], ids=["by default", "otherwise"])
@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_every_rule_fuses_every_kind_that_it_fits(said_of, rules_of, name, kind, otherwise):
    outputs, y = said_of(kind, unknown=0.2 if kind == "multilabel" else 0)
    if kind == "multilabel":
        known = ~y.isnan().all(1)
        outputs, y = outputs.rows(known), y[known]
    (rule,) = rules_of(kind, name, otherwise=otherwise)
    fused = fitted(name, outputs, y, **rule.settings)(outputs)
    assert fused.task == outputs.task
    assert fused.values.shape == outputs.values.shape[1:]
    assert fused.values.dtype == torch.float64
    assert fused.values.isfinite().all()
    if kind == "regression":
        assert (fused.variances > 0).all()
    else:
        assert fused.variances is None
    if outputs.exclusive:
        assert torch.allclose(fused.values.sum(1), torch.ones(len(y)).double())
    if kind == "quantile":
        assert (fused.values.diff(dim=1) >= 0).all()
    elif kind != "regression":
        assert ((fused.values >= 0) & (fused.values <= 1)).all()


@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_what_a_rule_is_fitted_to_is_one_of_the_combiners_and_made_of_its_tensors(said_of, rules_of, name, kind):
    outputs, y = said_of(kind)
    (rule,) = rules_of(kind, name)
    combiner = fitted(name, outputs, y, **rule.settings)
    again = COMBINERS[combiner_name(combiner)]({part: tensor.clone() for part, tensor in combiner.tensors().items()})
    assert torch.equal(again(outputs).values, combiner(outputs).values)
    weights = combiner.mixing()
    if weights is not None:
        torch.testing.assert_close(combiner(outputs).values, torch.einsum("m,mbc->bc", weights, outputs.values))
        assert float(weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for n, k in FITTING if n in ("mean", "trimmed", "vote", "product", "weights", "greedy", "stacking", "dynamic")],
)
def test_the_order_of_members_changes_nothing(said_of, name, kind):
    outputs, y = said_of(kind)
    order = [2, 0, 1]
    permuted = outputs._replace(
        values=outputs.values[order],
        variances=None if outputs.variances is None else outputs.variances[order],
        costs=outputs.costs[order],
    )
    before, after = (fitted(name, o, y)(o).values for o in (outputs, permuted))
    assert torch.allclose(before, after, rtol=0, atol=2e-3 if name == "stacking" else 1e-6)


@pytest.mark.parametrize("otherwise", [False, True], ids=["by default", "otherwise"])
@pytest.mark.parametrize(("name", "kind"), FITTING)
def test_a_rule_looks_at_nothing_that_it_does_not_need(said_of, rules_of, name, kind, otherwise):
    """What :func:`needs` does not name may be missing, while it is fitted and when it serves."""
    (rule,) = rules_of(kind, name, otherwise=otherwise)
    needed = needs([rule])
    assert needed <= {"features", "inputs"}
    outputs, y = said_of(kind)
    bare = outputs._replace(**{part: None for part in ("features", "inputs") if part not in needed})
    full, sparse = (fitted(name, o, y, **rule.settings)(o).values for o in (outputs, bare))
    assert torch.equal(full, sparse)
    for part in needed:
        with pytest.raises(AssertionError):
            fitted(name, outputs._replace(**{part: None}), y, **rule.settings)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (["mean", "greedy", "stacking"], []),
        (["features"], ["features"]),
        (["gate"], ["features"]),
        (["dynamic"], ["features"]),
        ([{"gate": {"sees": "outputs"}}, {"dynamic": {"sees": "inputs"}}], ["inputs"]),
        ([{"stacking": {"passthrough": True}}], ["inputs"]),
        ([{"stacking": {"passthrough": True}}, "features"], ["features", "inputs"]),  # lists: a set's text is not always the same
    ],
    ids=str,
)
def test_the_settings_say_what_rules_need(rules, found):
    assert needs(rules_for(recipe(rules), "t")) == set(found)


def test_defaults_are_filled_in():
    assert rules_for(recipe(["greedy", "stacking"]), "t") == [
        Component(name="greedy", settings={"steps": 25, "bags": 1, "fraction": 0.5}),
        Component(name="stacking", settings={"l2": 10.0, "passthrough": False}),
    ]


def test_rules_stand_from_the_simplest_to_the_most_flexible():
    assert names(rules_for(recipe(list(FUSIONS)[::-1]), "t")) == list(FUSIONS)
    order = [name for name in FUSIONS if name in ("mean", "weights", "stacking", "features")]
    assert order == ["mean", "weights", "stacking", "features"]
    assert list(FUSIONS)[-1] == "features"


@pytest.mark.parametrize("kind", KINDS)
def test_common_rules_that_do_not_fit_a_kind_are_left_out(kind):
    found = names(rules_for(recipe(list(FUSIONS), kind=kind), "t"))
    unfit = {"regression": {"vote"}, "quantile": {"vote", "product"}}.get(kind, set())
    assert found == [name for name in FUSIONS if name not in unfit]


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_does_not_fit_a_kind_is_left_out_too(kind):
    found = names(rules_for(recipe(["mean", {"dynamic": {"method": "knora_e"}}], kind=kind), "t"))
    assert found == (["mean"] if kind in ("regression", "quantile") else ["mean", "dynamic"])


def test_a_targets_own_rules_come_before_the_common_ones():
    assert names(rules_for(recipe(["mean", "stacking"], own=["greedy"]), "t")) == ["greedy"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: recipe(own=["mean", "vote"], kind="regression"), ["targets.t.fusion", "'vote'", "regression"]),
        (lambda: recipe(own=["product"], kind="quantile"), ["targets.t.fusion", "'product'", "quantile"]),
        (lambda: recipe(own=[{"dynamic": {"method": "knora_e"}}], kind="quantile"), ["targets.t.fusion", "'dynamic'"]),
        (lambda: recipe(["vote"], kind="regression"), ["fusion.rules", "mean"]),
        (lambda: recipe(["vote", "product"], kind="quantile"), ["fusion.rules", "mean"]),
        (lambda: recipe([{"gate": {"sees": "everything"}}]), ["fusion.rules.0.gate.sees", "'everything'"]),
        (lambda: recipe([{"trimmed": {"cut": 0.6}}]), ["fusion.rules.0.trimmed.cut", "0.6"]),
        (lambda: recipe(["mean", "stackin"]), ["fusion.rules.1", "'stackin'", "did you mean 'stacking'"]),
        (lambda: recipe(own=["mean", {"greedy": {"step": 5}}]), ["targets.t.fusion.1.greedy.step", "not known"]),
        (lambda: recipe([{"greedy": {"steps": 0}}]), ["fusion.rules.0.greedy.steps", "0"]),
        (lambda: recipe([{"greedy": {"steps": 1001}}]), ["fusion.rules.0.greedy.steps", "1001"]),
        (lambda: recipe([{"greedy": {"steps": 2.5}}]), ["fusion.rules.0.greedy.steps", "2.5"]),
        (lambda: recipe([{"stacking": {"l2": 0}}]), ["fusion.rules.0.stacking.l2", "greater than 0"]),
        (lambda: recipe([{"stacking": {"l2": float("nan")}}]), ["fusion.rules.0.stacking.l2"]),
        (lambda: recipe([{"features": {"dropout": 1.0}}]), ["fusion.rules.0.features.dropout", "less than 1"]),
        (lambda: recipe([{"features": {"activation": "sine"}}]), ["fusion.rules.0.features.activation", "'sine'"]),
        (lambda: recipe([{"features": {"hidden": 0, "steps": 0}}]), ["fusion.rules.0.features.hidden", "and 1 more"]),
        (lambda: recipe([{"mean": {"power": 2}}]), ["fusion.rules.0.mean.power", "not known"]),
    ],
)
def test_a_mistake_is_named_with_its_place(build, words):
    with pytest.raises(RecipeError) as error:
        rules_for(build(), "t")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_the_same_rule_is_not_compared_with_itself():
    with pytest.raises(ValueError, match="'greedy' stands there twice"):
        recipe(["greedy", {"greedy": {"steps": 5}}])


def test_the_same_rule_is_not_compared_with_itself_in_a_targets_own_list():
    with pytest.raises((ValueError, RecipeError), match="greedy"):
        rules_for(recipe(own=["greedy", {"greedy": {"steps": 5}}]), "t")
