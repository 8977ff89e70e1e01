"""Everything that a recipe may name: families of functions, and what each of them does and takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fuseline.component import unknown
from fuseline.data.sources import SOURCES
from fuseline.errors import RecipeError
from fuseline.fusion.rules import FUSIONS
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS
from fuseline.models.losses import CLASS_WEIGHTS, LOSSES
from fuseline.models.preprocessing import NUMBERS
from fuseline.partition import PARTITIONS
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.averaging import AVERAGES
from fuseline.training.mixing import MIXINGS
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.schedules import SCHEDULES
from fuseline.training.strategies import STRATEGIES

FAMILIES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "sources": SOURCES,
    "partitions": PARTITIONS,
    "architectures": ARCHITECTURES,
    "numbers": NUMBERS,
    "heads": HEADS,
    **{f"losses.{kind}": family for kind, family in LOSSES.items()},
    "class_weights": CLASS_WEIGHTS,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": {**AUGMENTATIONS, **MIXINGS},
    "averages": AVERAGES,
    "strategies": STRATEGIES,
    "fusions": FUSIONS,
}


class Entry(NamedTuple):
    """A component: its name, its settings with their defaults, and the first paragraph of its description."""

    name: str
    settings: dict[str, str]
    says: str


def entries(family: str) -> list[Entry]:
    """The components of a family.

    Raises:
        RecipeError: there is no such family.

    >>> [entry.name for entry in entries("losses.ordinal")]
    ['cross_entropy', 'focal', 'ranked_probability']
    >>> entries("partitions")[2].settings
    {'folds': '5'}
    """
    if family not in FAMILIES:
        raise RecipeError(f"the family {unknown(family, FAMILIES)}")
    return [Entry(name, _settings(function), _sentence(function)) for name, function in FAMILIES[family].items()]


def _settings(function: Callable[..., Any]) -> dict[str, str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: "required" if p.default is p.empty else str(p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _sentence(function: Callable[..., Any]) -> str:
    paragraph = (inspect.getdoc(function) or "").split("\n\n")[0]
    return " ".join(paragraph.split())
