"""A named choice with settings, as a recipe writes it, and its check against the functions that may be chosen.

Data sources, partition rules, architectures, augmentations, losses, optimizers, schedules and fusion rules are all chosen
the same way: by a name, or by a mapping of that one name to settings. Each family is a plain dict of functions; the
keyword-only parameters of a function are its settings, so the signature is the one place that says what may be set.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_serializer, model_validator

from fuseline.errors import RecipeError


class Part(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Component(Part):
    """A name and its settings: ``cnn`` or ``{cnn: {channels: [32, 64]}}`` in a recipe.

    >>> Component.model_validate({"kfold": {"folds": 5}})
    Component(name='kfold', settings={'folds': 5})
    >>> Component.model_validate("mean").model_dump()
    'mean'
    """

    name: str
    settings: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and set(value) <= {"name", "settings"} and isinstance(value.get("name"), str):
            return value
        if isinstance(value, Mapping) and len(value) == 1:
            ((name, settings),) = value.items()
            return {"name": name, "settings": {} if settings is None else settings}
        raise ValueError("expected a name, or one name with its settings, like 'kfold' or {kfold: {folds: 5}}")

    @model_serializer
    def _write(self) -> Any:
        return {self.name: self.settings} if self.settings else self.name


@cache
def _settings_model(function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    return create_model(getattr(function, "__name__", "settings"), __config__=ConfigDict(extra="forbid"), **fields)


def complete(component: Component, family: Mapping[str, Callable[..., Any]], field: str) -> Component:
    """Check a component against its family and fill in the defaults.

    Args:
        component: what the recipe names.
        family: the functions that may be named, by name.
        field: where the component stands in the recipe, for the message.

    Raises:
        RecipeError: the name is not in the family, or a setting is unknown or out of bounds.
    """
    if component.name not in family:
        raise RecipeError(f"{field}: {unknown(component.name, family)}")
    try:
        settings = _settings_model(family[component.name]).model_validate(component.settings)
    except ValidationError as error:
        raise RecipeError(explain(error, f"{field}.{component.name}")) from None
    return Component(name=component.name, settings=settings.model_dump())


def unknown(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Say that a name is not known, and which is meant or possible."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"{name!r} is not known; " + (f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}.")


def explain(error: ValidationError, prefix: str = "") -> str:
    """One sentence for a pydantic error: the path of the first field that is wrong, what is wrong, and how many more."""
    first, *more = error.errors(include_url=False)
    path = ".".join(str(part) for part in ([prefix] if prefix else []) + list(first["loc"]))
    kind, given = first["type"], first.get("input")
    if kind == "extra_forbidden":
        text = "this key is not known here; remove it or mend its spelling"
    elif kind == "missing":
        text = "this key is required"
    else:
        text = first["msg"].removeprefix("Value error, ")
        text = text[0].lower() + text[1:]
        if isinstance(given, str | int | float | bool) and kind != "value_error":
            text += f", not {given!r}"
    tail = f" (and {len(more)} more)" if more else ""
    sentence = f"{path}: {text}{tail}." if path else f"{text}{tail}."
    return " ".join(sentence.split())
