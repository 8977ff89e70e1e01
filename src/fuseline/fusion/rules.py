"""The fusion rules, from the simplest to the most flexible: within one standard error, the earlier one wins.

``pruned`` stands first: who names it wants the smaller ensemble, unless that is shown to be worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.fusion.combine import Combiner
from fuseline.fusion.features import features
from fuseline.fusion.gating import gate
from fuseline.fusion.local import dynamic
from fuseline.fusion.mixtures import greedy, mean, vote, weights
from fuseline.fusion.pools import product, trimmed
from fuseline.fusion.pruning import pruned
from fuseline.fusion.stacking import stacking
from fuseline.recipe import Recipe
from fuseline.terms import Kind

FUSIONS: dict[str, Callable[..., Combiner]] = {
    "pruned": pruned,
    "mean": mean,
    "trimmed": trimmed,
    "vote": vote,
    "product": product,
    "weights": weights,
    "greedy": greedy,
    "stacking": stacking,
    "gate": gate,
    "dynamic": dynamic,
    "features": features,
}

UNFIT: dict[str, frozenset[Kind]] = {
    "vote": frozenset({"regression", "quantile"}),
    "product": frozenset({"quantile"}),
    "knora_e": frozenset({"regression", "quantile"}),
}
"""The kinds of target that a rule, or a method of it, can't fuse."""

NOTHING_TO_FIT = frozenset({"mean", "trimmed", "vote", "product"})
"""Rules that look at no row while they are fitted."""

BY_TRUTH = frozenset({"weights", "greedy"})
"""Rules that look, while they are fitted to classes, at the probability of the true one alone."""

BY_PROGRAMME = frozenset({"weights", "stacking"})
"""Rules that solve a linear programme of all rows while they are fitted to quantiles."""


def needs(rules: Iterable[Component]) -> set[str]:
    """What some rules look at besides the members' outputs: ``features``, ``inputs``.

    A rule's settings say so: ``sees`` names where it looks, and ``passthrough`` adds the inputs.
    """
    needed = set()
    for rule in rules:
        needed |= {"features"} if rule.name == "features" else {rule.settings.get("sees", "outputs")}
        needed |= {"inputs"} if rule.settings.get("passthrough") else set()
    return needed - {"outputs"}


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
    fitting = [
        rule for rule in checked if not any(kind in UNFIT.get(n, ()) for n in (rule.name, rule.settings.get("method", "")))
    ]
    if own is not None and len(fitting) < len(checked):
        unfit = next(rule.name for rule in checked if rule not in fitting)
        raise RecipeError(f"{field}: the rule {unfit!r} does not fit {target!r}, which is of the kind {kind!r}; remove it.")
    if not fitting:
        raise RecipeError(f"{field}: no rule fits {target!r}, which is of the kind {kind!r}; add 'mean' or 'weights'.")
    return sorted(fitting, key=lambda rule: list(FUSIONS).index(rule.name))
