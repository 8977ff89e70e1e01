"""Components: how a recipe writes them, and their check against a family of functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from fuseline.component import Component, complete, explain, unknown
from fuseline.data.sources import SOURCES
from fuseline.errors import RecipeError
from fuseline.fusion.rules import FUSIONS
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS
from fuseline.models.losses import LOSSES
from fuseline.partition import PARTITIONS
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.schedules import SCHEDULES

FAMILIES: list[Mapping[str, Callable[..., Any]]] = [
    SOURCES,
    PARTITIONS,
    ARCHITECTURES,
    HEADS,
    *LOSSES.values(),
    AUGMENTATIONS,
    OPTIMIZERS,
    SCHEDULES,
    FUSIONS,
]


def brew(
    water: float, *, leaves: Annotated[int, Field(ge=1, le=9)] = 2, kind: Literal["green", "black"] = "green", cups: int
) -> None:
    """A family's function: ``water`` is no setting, ``cups`` has no default."""


FAMILY = {"brew": brew}


@pytest.mark.parametrize(
    ("written", "name", "settings"),
    [
        ("mean", "mean", {}),
        ({"mean": None}, "mean", {}),
        ({"mean": {}}, "mean", {}),
        ({"kfold": {"folds": 5}}, "kfold", {"folds": 5}),
        ({"name": "kfold", "settings": {"folds": 5}}, "kfold", {"folds": 5}),
        ({"name": "kfold"}, "kfold", {}),
    ],
)
def test_every_way_to_write_a_component(written: Any, name: str, settings: dict[str, Any]) -> None:
    component = Component.model_validate(written)
    assert (component.name, component.settings) == (name, settings)


@pytest.mark.parametrize("written", [None, 3, [], ["mean"], {}, {"a": {}, "b": {}}, {"kfold": 5}, {"kfold": "folds"}, {5: {}}])
def test_anything_else_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Component.model_validate(written)
    assert "\n" not in explain(caught.value)


WORDS = st.text("abcname_- :", max_size=6)


@given(WORDS, st.dictionaries(WORDS, st.integers() | st.lists(st.booleans()), max_size=3))
def test_what_is_written_is_read_again(name: str, settings: dict[str, Any]) -> None:
    component = Component(name=name, settings=settings)
    assert Component.model_validate(component.model_dump()) == component


def test_a_component_may_bear_the_name_of_its_own_keys() -> None:
    for word in ("name", "settings"):
        component = Component(name=word, settings={"a": 1})
        assert Component.model_validate(component.model_dump()) == component


def test_complete_fills_in_the_defaults_and_keeps_what_is_set() -> None:
    component = complete(Component(name="brew", settings={"cups": 4}), FAMILY, "tea")
    assert component.settings == {"leaves": 2, "kind": "green", "cups": 4}


def test_complete_twice_changes_nothing() -> None:
    once = complete(Component(name="brew", settings={"cups": 4, "leaves": 3}), FAMILY, "tea")
    assert complete(once, FAMILY, "tea") == once


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"cups": 1, "leaves": 0}, "tea.brew.leaves", "greater than or equal to 1, not 0"),
        ({"cups": 1, "leaves": 10}, "tea.brew.leaves", "less than or equal to 9, not 10"),
        ({"cups": 1, "leaves": "many"}, "tea.brew.leaves", "'many'"),
        ({"cups": 1, "kind": "red"}, "tea.brew.kind", "'green' or 'black'"),
        ({"cups": 1, "sugar": 2}, "tea.brew.sugar", "not known"),
        ({"cups": 1, "water": 2.0}, "tea.brew.water", "not known"),
        ({}, "tea.brew.cups", "required"),
        ({"leaves": 0}, "tea.brew.", "(and 1 more)"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(
    refusal: Callable[..., str], settings: dict[str, Any], path: str, words: str
) -> None:
    sentence = refusal(RecipeError, complete, Component(name="brew", settings=settings), FAMILY, "tea")
    assert sentence.startswith(path)
    assert words in sentence


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: next(iter(family)))
def test_a_misspelt_name_is_answered_by_the_nearest_one(refusal: Callable[..., str], family: Mapping[str, Any]) -> None:
    for name in family:
        sentence = refusal(RecipeError, complete, Component(name=name + "x"), family, "the.field")
        assert sentence.startswith("the.field: ")
        assert f"{name + 'x'!r}" in sentence
        assert f"did you mean {name!r}?" in sentence


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: next(iter(family)))
def test_a_strange_name_is_answered_by_the_whole_list(refusal: Callable[..., str], family: Mapping[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name="0000000000"), family, "the.field")
    assert all(name in sentence for name in family)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: next(iter(family)))
def test_every_function_of_every_family_can_be_completed_or_asks_for_a_setting(
    refusal: Callable[..., str], family: Mapping[str, Callable[..., Any]]
) -> None:
    for name, function in family.items():
        defaults = function.__kwdefaults__ or {}
        required = [p for p in function.__annotations__ if p in keyword_only(function) and p not in defaults]
        if required:
            assert "required" in refusal(RecipeError, complete, Component(name=name), family, "f")
        else:
            assert complete(Component(name=name), family, "f").settings == defaults


def keyword_only(function: Callable[..., Any]) -> list[str]:
    code = function.__code__
    return list(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])


def test_unknown_takes_a_list_too() -> None:
    assert unknown("accuraci", ["accuracy", "brier"]) == "'accuraci' is not known; did you mean 'accuracy'?"


def test_components_are_frozen() -> None:
    component = Component(name="mean")
    with pytest.raises(ValidationError, match="frozen"):
        component.name = "vote"  # type: ignore[misc]
