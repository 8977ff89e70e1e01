"""The fusion rules, from the simplest to the most flexible: within one standard error, the earlier one wins."""

from __future__ import annotations

from collections.abc import Callable

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.fusion.combine import Combiner
from fuseline.fusion.features import features
from fuseline.fusion.mixtures import greedy, mean, vote, weights
from fuseline.fusion.stacking import stacking
from fuseline.recipe import Recipe
from fuseline.terms import Kind

FUSIONS: dict[str, Callable[..., Combiner]] = {
    "mean": mean,
    "vote": vote,
    "weights": weights,
    "greedy": greedy,
    "stacking": stacking,
    "features": features,
}

CLASSIFICATION_ONLY = {"vote"}
ON_FEATURES = {"features"}


def rules_for(recipe: Recipe, target: str) -> list[Component]:
    """A target's fusion rules, checked, in the order of ``FUSIONS``; common rules that don't fit its kind are left out.

    Raises:
        RecipeError: a rule is unknown, its settings are wrong, or the target's own list names one that doesn't fit its kind.
    """
    own = recipe.targets[target].fusion
    kind = recipe.targets[target].kind
    field = "fusion.rules" if own is None else f"targets.{target}.fusion"
    given = recipe.fusion.rules if own is None else own
    checked = [complete(rule, FUSIONS, f"{field}.{i}") for i, rule in enumerate(given)]
    fitting = [rule for rule in checked if _fits(rule.name, kind)]
    if own is not None and len(fitting) < len(checked):
        unfit = next(rule.name for rule in checked if rule not in fitting)
        raise RecipeError(f"{field}: the rule {unfit!r} is for classifications, and {target!r} is a regression; remove it.")
    if not fitting:
        raise RecipeError(f"{field}: no rule fits the regression {target!r}; add 'mean' or 'weights'.")
    return sorted(fitting, key=lambda rule: list(FUSIONS).index(rule.name))


def _fits(name: str, kind: Kind) -> bool:
    return kind == "classification" or name not in CLASSIFICATION_ONLY
