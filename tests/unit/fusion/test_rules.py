"""The family of fusion rules: what a recipe may ask for, and what holds for every one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.fusion.combine import Outputs
from fuseline.fusion.rules import CLASSIFICATION_ONLY, FUSIONS, rules_for
from fuseline.recipe import Recipe


def recipe(rules=None, own=None, kind="classification"):
    return Recipe.model_validate(
        {
            "name": "toy",
            "data": {"source": "toy"},
            "targets": {"t": {"kind": kind, **({} if own is None else {"fusion": own})}},
            "members": [{"name": "m", "architecture": "mlp"}],
            **({} if rules is None else {"fusion": {"rules": rules}}),
        }
    )


def names(rules):
    return [rule.name for rule in rules]


def classes_said(seed=0, members=3, rows=60):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    logits = rng.normal(size=(members, rows, 3)) + rng.uniform(0.5, 2, (members, 1, 1)) * np.eye(3)[y]
    features = torch.from_numpy(rng.normal(size=(rows, 2 * members)))
    return Outputs(torch.from_numpy(logits).softmax(2), None, features), torch.from_numpy(y)


def values_said(seed=0, members=3, rows=60):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    values = torch.from_numpy(y + rng.normal(size=(members, rows)))[:, :, None]
    features = torch.from_numpy(rng.normal(size=(rows, 2 * members)))
    return Outputs(values, torch.ones_like(values), features), torch.from_numpy(y)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_rule_can_be_named_without_settings(name):
    rule = complete(Component(name=name), FUSIONS, "fusion.rules.0")
    assert rule.name == name
    outputs, y = classes_said()
    fused = FUSIONS[name](outputs, y, torch.Generator().manual_seed(0), **rule.settings)(outputs)
    assert torch.allclose(fused.values.sum(1), torch.ones(60).double())
    assert fused.variances is None


@pytest.mark.parametrize("name", [name for name in FUSIONS if name not in CLASSIFICATION_ONLY])
def test_every_other_rule_fuses_values_with_variances(name):
    outputs, y = values_said()
    fused = FUSIONS[name](outputs, y, torch.Generator().manual_seed(0))(outputs)
    assert fused.values.shape == fused.variances.shape == (60, 1)
    assert torch.isfinite(fused.values).all()
    assert (fused.variances > 0).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *[(name, classes_said) for name in FUSIONS if name != "features"],
        *[(name, values_said) for name in ("mean", "weights", "greedy", "stacking")],
    ],
)
def test_the_order_of_members_changes_nothing(name, said):
    outputs, y = said()
    order = [2, 0, 1]
    permuted = Outputs(outputs.values[order], None if outputs.variances is None else outputs.variances[order])
    before, after = (FUSIONS[name](o, y, torch.Generator())(o).values for o in (outputs, permuted))
    assert torch.allclose(before, after, rtol=0, atol=2e-3 if name == "stacking" else 1e-6)


def test_defaults_are_filled_in():
    assert rules_for(recipe(["greedy", "stacking"]), "t") == [
        Component(name="greedy", settings={"steps": 25}),
        Component(name="stacking", settings={"l2": 10.0}),
    ]


def test_rules_stand_from_the_simplest_to_the_most_flexible():
    assert names(rules_for(recipe(list(FUSIONS)[::-1]), "t")) == list(FUSIONS)
    assert next(iter(FUSIONS)) == "mean"


def test_common_rules_that_do_not_fit_a_regression_are_left_out():
    assert names(rules_for(recipe(["mean", "vote", "weights"], kind="regression"), "t")) == ["mean", "weights"]


def test_a_targets_own_rules_come_before_the_common_ones():
    assert names(rules_for(recipe(["mean", "stacking"], own=["greedy"]), "t")) == ["greedy"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: recipe(own=["mean", "vote"], kind="regression"), ["targets.t.fusion", "'vote'", "regression"]),
        (lambda: recipe(["vote"], kind="regression"), ["fusion.rules", "mean"]),
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
