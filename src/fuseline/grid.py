"""The candidates of a sweep: recipes, and grids of changes over them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fuseline.errors import RecipeError
from fuseline.recipe import Recipe, overridden
from fuseline.yaml12 import NotYamlError, parse

MOST = 1000
"""So many candidates at the most: beyond that somebody has mistyped."""


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """A grid as the command line has it: for each path the values to be tried, as YAML, with commas between them.

    Raises:
        RecipeError: says how to write it.

    >>> parse_grid(["members.0.epochs=10,30", "fusion.rules=[mean],[mean, vote]"])
    {'members.0.epochs': [10, 30], 'fusion.rules': [['mean'], ['mean', 'vote']]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        path, sep, raw = text.partition("=")
        if not sep or not path or not raw.strip():
            raise RecipeError(f"--grid {text}: write it as path=value,value, like members.0.epochs=10,30.")
        if path in grid:
            raise RecipeError(f"--grid {text}: {path} stands there twice; give all its values at once.")
        try:
            grid[path] = parse(f"[{raw}]")
        except NotYamlError as error:
            raise RecipeError(f"--grid {text}: the values are not YAML: {error}.") from None
    return grid


def candidates(recipes: Sequence[Recipe], grid: Mapping[str, Sequence[Any]]) -> dict[str, Recipe]:
    """Every recipe with every combination of the grid's values, by a label that says which it is.

    Raises:
        RecipeError: a change does not fit a recipe, or two candidates are the same.
    """
    names = [recipe.name for recipe in recipes]
    found: dict[str, Recipe] = {}
    for number, recipe in enumerate(recipes):
        name = recipe.name if names.count(recipe.name) == 1 else f"{recipe.name} ({number + 1})"
        for values in itertools.product(*grid.values()):
            changes = [f"{path}={_text(value)}" for path, value in zip(grid, values, strict=True)]
            made, label = overridden(recipe, changes), " ".join([name, *changes])
            if made in found.values():
                twin = next(other for other, its in found.items() if its == made)
                raise RecipeError(f"{label} is the same as {twin}; leave out one.")
            found[label] = made
            if len(found) > MOST:
                raise RecipeError(f"these are more than {MOST} candidates; leave out some of the grid's values.")
    return found


def _text(value: Any) -> str:
    """A value on one line, as the command line would have it; JSON is YAML."""
    return value if isinstance(value, str) and parse(value) == value else json.dumps(value, ensure_ascii=False)
