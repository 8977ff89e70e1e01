"""The candidates of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.errors import RecipeError
from fuseline.grid import candidates, parse_grid
from fuseline.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(tmp_path: Path, recipe_file: Callable[..., Path]) -> Recipe:
    return load_recipe(recipe_file(tmp_path))


def test_every_combination_is_a_candidate_with_a_label_of_its_own(recipe: Recipe) -> None:
    found = candidates([recipe], {"members.0.epochs": [2, 3], "fusion.rules": [["mean"], ["mean", "vote"]], "seed": [0]})
    assert list(found) == [
        f"wine members.0.epochs={epochs} fusion.rules={rules} seed=0"
        for epochs in (2, 3)
        for rules in ('["mean"]', '["mean", "vote"]')
    ]
    assert [(its.members[0].epochs, len(its.fusion.rules)) for its in found.values()] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert all(its.members[1] == recipe.members[1] for its in found.values())


def test_without_a_grid_the_recipes_are_the_candidates(recipe: Recipe) -> None:
    other = recipe.model_copy(update={"seed": 3})
    assert candidates([recipe], {}) == {"wine": recipe}
    assert list(candidates([recipe, other], {})) == ["wine (1)", "wine (2)"]


@pytest.mark.parametrize("value", [True, None, 1e-3, "mean", "no", "1e3", {"vote": {"hard": True}}, ["a, b", {"c": None}]])
def test_a_value_of_a_label_is_read_as_what_it_was(recipe: Recipe, value: Any) -> None:
    """Candidates are made through the same text that their label shows."""
    from fuseline.grid import _text
    from fuseline.yaml12 import parse

    assert parse(_text(value)) == value


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["members.0.epochs"], "write it as path=value,value"),
        (["members.0.epochs="], "write it as path=value,value"),
        (["seed=1", "seed=2"], "seed stands there twice"),
        (["seed=[1"], "the values are not YAML"),
    ],
)
def test_a_grid_that_is_none_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_grid(texts)


def test_a_change_that_does_not_fit_is_refused_with_its_field(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"members.0.epochs=0: members.0.epochs: .* greater than or equal to 1"):
        candidates([recipe], {"members.0.epochs": [2, 0]})


def test_the_same_candidate_twice_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="wine seed=1 is the same as wine seed=1; leave out one"):
        candidates([recipe], {"seed": [1, 1]})


def test_too_many_are_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="more than 1000 candidates"):
        candidates([recipe], {"seed": list(range(40)), "members.0.epochs": list(range(1, 40))})
