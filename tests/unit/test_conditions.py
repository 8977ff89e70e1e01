"""The recipe's section ``registry``."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fuseline.conditions import Asked, Gate, Guard, Registry
from fuseline.recipe import Recipe

RECIPE: dict[str, Any] = {
    "name": "r",
    "data": {"source": {"sklearn": {"name": "iris"}}},
    "targets": {"iris": {"kind": "classification", "column": "target"}},
    "members": [{"name": "mlp", "architecture": {"mlp": {"hidden": []}}}],
}


def test_without_a_word_training_promotes_by_itself_what_is_surely_better() -> None:
    registry = Registry()
    assert (registry.promote, registry.gate.min_gain, registry.guards) == ("auto", 0, [])
    assert registry.gate.asked("any") == Asked(None, 0.0)


def test_a_target_may_have_its_own_bound_or_none() -> None:
    gate = Gate.model_validate(
        {
            "metric": "accuracy",
            "min_gain": -0.01,
            "targets": {"a": {"metric": "brier"}, "b": {"min_gain": 1}, "c": {"compared": False}},
        }
    )
    assert [gate.asked(name) for name in "abcd"] == [
        Asked("brier", -0.01), Asked("accuracy", 1), None, Asked("accuracy", -0.01),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "registry",
    [
        {"promote": "never"},
        {"gate": {"level": 0}},
        {"gate": {"level": 0.5}},
        {"gate": {"min_gain": "nan"}},
        {"gate": {"bound": 1}},
        {"guards": [{"metric": "accuracy"}]},
        {"guards": [{"metric": "accuracy", "min": 0.9, "max": 0.8}]},
        {"guards": [{"metric": "accuracy", "min": 0.9, "where": {}}]},
        {"guards": [{"metric": "accuracy", "min": 0.9, "where": {"a": 1, "b": 2}}]},
        {"guards": [{"metric": "latency_ms", "max": 9, "target": "iris"}]},
        {"guards": [{"metric": "accuracy", "min": 0.9, "target": "nobody"}]},
        {"gate": {"targets": {"nobody": {"min_gain": 0}}}},
        {"floors": {"nobody": {"accuracy": 0}}},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(registry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({**RECIPE, "registry": registry})


def test_of_several_targets_a_guard_names_one() -> None:
    two = {**RECIPE, "targets": {name: {"kind": "classification", "column": name} for name in ("a", "b")}}
    with pytest.raises(ValidationError, match=r"registry\.guards\.0 needs a 'target'"):
        Recipe.model_validate({**two, "registry": {"guards": [{"metric": "accuracy", "min": 0.9}]}})
    Recipe.model_validate({**two, "registry": {"guards": [{"metric": "accuracy", "target": "b", "min": 0.9}]}})


def test_a_recipe_reads_what_it_wrote() -> None:
    guards = [{"metric": "recall", "of_class": True, "min": 0.5}, {"metric": "ece", "where": {"n": 2}, "max": 0.1}]
    made = Recipe.model_validate({**RECIPE, "registry": {"guards": guards, "gate": {"targets": {"iris": {"compared": False}}}}})
    again = Recipe.model_validate(made.model_dump(mode="json"))
    assert again == made
    assert again.registry.guards[0].of_class is True
    assert isinstance(again.registry.guards[1], Guard)
