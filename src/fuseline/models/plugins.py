"""Architectures of other packages: functions like fuseline's own, or any ``nn.Module`` class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.data.schema import FIRST, Schema
from fuseline.errors import RecipeError, first_line
from fuseline.models.preprocessing import Batch

FILLED = ("in_channels", "in_features")
"""Parameters of a class that are filled in: channels of the pictures, or numbers of a row."""


class Wrapped(nn.Module):
    """A foreign module on pictures (B, C, H, W), or on a row's numbers and one-hot categories (B, P); what it gives is flattened
    to features (B, D)."""

    def __init__(self, schema: Schema, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.sizes = [FIRST + len(vocabulary) for vocabulary in schema.categorical.values()]
        self.features = self._width(schema)

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.module(self._plain(batch))
        return out.flatten(1)

    def _plain(self, batch: Batch) -> Tensor:
        if "image" in batch:
            return batch["image"]
        parts = [batch["numeric"]] if "numeric" in batch else []
        parts += [F.one_hot(batch["categorical"][:, j], size).float() for j, size in enumerate(self.sizes)]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def _width(self, schema: Schema) -> int:
        """D, found by two rows of zeros."""
        rows = torch.zeros(2, *schema.image) if schema.image else torch.zeros(2, _numbers(schema))
        self.module.eval()
        try:
            out = self.module(rows)
        except Exception as error:
            text = f"{type(self.module).__name__} can't take rows of shape {tuple(rows.shape[1:])}"
            raise RecipeError(f"{text}: {first_line(error)}.") from None
        finally:
            self.module.train()
        return int(out.flatten(1).shape[1])


def adapt(found: Any) -> Callable[..., nn.Module]:
    """What an entry point of the group ``fuseline.architectures`` holds, as an architecture.

    A function ``(schema, *, settings) → backbone`` stays as it is. Of a class of modules the annotated parameters are the
    settings, but for ``in_channels`` and ``in_features``, which follow from the data.
    """
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        return found  # type: ignore[no-any-return]
    kind = found
    taken = inspect.signature(kind).parameters
    hints = get_type_hints(kind.__init__, include_extras=True)

    def architecture(schema: Schema, **settings: Any) -> nn.Module:
        if schema.image is None and "in_channels" in taken:
            raise RecipeError(f"{kind.__name__} needs pictures, and the data are a table.")
        sizes = {"in_channels": schema.image[0] if schema.image else 0, "in_features": _numbers(schema)}
        return Wrapped(schema, kind(**{name: sizes[name] for name in FILLED if name in taken}, **settings))

    named = [p for p in taken.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in FILLED]
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in named if p.name in hints and _is_plain(p, hints[p.name])]
    for p in named:
        if p.default is p.empty and p.name not in [q.name for q in own]:
            raise RecipeError(f"{kind.__name__} can't be a member: its parameter {p.name!r} is no number, word or list of them.")
    architecture.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    architecture.__annotations__ = {p.name: hints[p.name] for p in own}
    architecture.__name__, architecture.__doc__ = kind.__name__, kind.__doc__
    return architecture


def _is_plain(parameter: inspect.Parameter, hint: Any) -> bool:
    """Whether a recipe can say a parameter: pydantic knows its type, and its default is plain."""
    try:
        TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return False
    return parameter.default is parameter.empty or isinstance(parameter.default, bool | int | float | str | list | tuple | None)


def _numbers(schema: Schema) -> int:
    if schema.image:
        return schema.image[0] * schema.image[1] * schema.image[2]
    return 2 * len(schema.numeric) + sum(FIRST + len(vocabulary) for vocabulary in schema.categorical.values())
