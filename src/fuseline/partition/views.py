# ruff: noqa: ARG001 - every rule takes the same arguments
"""``feature_subspace``: members that each see a part of every row.

Shapes: M members, P numeric and Q categorical columns, (C, H, W) a picture. A view is one flat mask: the P numeric columns and
then the Q categorical ones in the order of the schema, or the C·H·W pixels in C order.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.partition.shares import Generators, Pool, Share, Shares

Mask = NDArray[np.bool_]
Fraction = Annotated[float, Field(gt=0, le=1)]
COLOURS = 3
"""Up to so many channels are taken for colours."""


def feature_subspace(
    pool: Pool,
    members: Generators,
    generator: np.random.Generator,
    *,
    fraction: Fraction = 0.5,
    of: Literal["auto", "columns", "channels", "regions"] = "auto",
) -> Shares:
    """Every member sees all training rows, but only a part of their inputs (the random subspace method, Ho 1998).

    Each member draws its part by its own generator: ``fraction`` of the columns of a table; of the channels of a picture; or of
    its area, as a rectangle of height H·fᵘ and width W·f¹⁻ᵘ, u ~ U(0, 1), anywhere in the picture, in all channels. (A rectangle
    and not scattered tiles, so that local patterns stay whole.) "auto" means columns for a table, channels for a picture of
    more than three, whose channels measure different things, and else regions.

    Then what nobody drew is given to a member: a column or channel to the one that has the fewest, a pixel to the one whose
    rectangle is nearest, ties to the first. So the ensemble as a whole sees everything, and a member may see more than
    ``fraction``: with few members much more, and a single member sees all.

    A column that alone decides the target is hidden from a part of the members, and these will be poor; a fusion that weighs
    members is of more use here than a plain mean.

    Raises:
        RecipeError: ``of`` does not fit the data, or there is only one column or channel.
    """
    assert pool.dataset is not None, "the rule reads the schema"
    schema = pool.dataset.schema
    kind = _kind(schema, of)
    if kind == "regions":
        views = _regions(schema, fraction, members)
    elif kind == "channels":
        views = np.repeat(_subsets(_parts(schema, kind), fraction, members), _pixels(schema), axis=1)
    else:
        views = _subsets(_parts(schema, kind), fraction, members)
    return [[Share(pool.rows, view=view)] for view in views]


def masks(schema: Schema, view: Mask) -> dict[str, Mask]:
    """A view as one mask per input: ``numeric`` (P,) and ``categorical`` (Q,), as far as there are such columns, or ``image``
    (C, H, W). An empty view, which sees all, has none.

    Raises:
        ValueError: the view is not of the schema's length.

    >>> schema = Schema(numeric=["a", "b"], categorical={"c": ["x"]}, targets={})
    >>> {name: mask.tolist() for name, mask in masks(schema, np.array([True, False, True])).items()}
    {'numeric': [True, False], 'categorical': [True]}
    """
    if not len(view):
        return {}
    size = schema.image[0] * _pixels(schema) if schema.image else len(schema.columns)
    if len(view) != size:
        raise ValueError(f"a view of {len(view)} inputs does not fit a schema of {size}")
    if schema.image:
        return {"image": view.reshape(schema.image)}
    parts = {"numeric": view[: len(schema.numeric)], "categorical": view[len(schema.numeric) :]}
    return {name: mask for name, mask in parts.items() if len(mask)}


def _kind(schema: Schema, of: str) -> str:
    if of == "auto":
        of = "columns" if schema.image is None else "channels" if schema.image[0] > COLOURS else "regions"
    if (of == "columns") != (schema.image is None):
        data = "a table" if schema.image is None else "pictures"
        raise RecipeError(f"partition.feature_subspace.of: the data are {data}, which have no {of}; use 'auto'.")
    if of != "regions" and _parts(schema, of) < 2:
        text = f"partition.feature_subspace.of: the inputs have one of the {of} only"
        raise RecipeError(f"{text}, so no part of them can be hidden; use another rule.")
    return of


def _parts(schema: Schema, kind: str) -> int:
    return schema.image[0] if schema.image and kind == "channels" else len(schema.columns)


def _pixels(schema: Schema) -> int:
    assert schema.image is not None
    return schema.image[1] * schema.image[2]


def _subsets(parts: int, fraction: float, members: Generators) -> Mask:
    """A random part of the parts for each member, and every part for some member (M, parts)."""
    size = max(1, round(fraction * parts))
    views = np.zeros((len(members), parts), np.bool_)
    for view, member in zip(views, members, strict=True):
        view[member.choice(parts, size, replace=False)] = True
    for part in np.flatnonzero(~views.any(0)):
        views[np.argmin(views.sum(1)), part] = True
    return views


def _regions(schema: Schema, fraction: float, members: Generators) -> Mask:
    """A random rectangle for each member, and every pixel for some member (M, C·H·W)."""
    assert schema.image is not None
    channels, height, width = schema.image
    boxes = [_rectangle(height, width, fraction, member) for member in members]
    distance = np.stack([_away(height, width, box) for box in boxes])
    seen = distance == 0
    orphans = ~seen.any(0)
    nearest = distance.argmin(0)
    seen |= orphans & (nearest == np.arange(len(boxes))[:, None, None])
    return np.repeat(seen[:, None], channels, axis=1).reshape(len(boxes), -1)


def _rectangle(height: int, width: int, fraction: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """First row, row behind the last, first column and column behind the last."""
    u = generator.random()
    h, w = max(1, round(height * fraction**u)), max(1, round(width * fraction ** (1 - u)))
    top, left = int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1))
    return top, top + h, left, left + w


def _away(height: int, width: int, box: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """How many steps each pixel (H, W) is away from a rectangle, a diagonal step being one; 0 inside."""
    top, bottom, left, right = box
    y, x = np.arange(height)[:, None], np.arange(width)
    down = np.maximum(np.maximum(top - y, y - bottom + 1), 0)
    across = np.maximum(np.maximum(left - x, x - right + 1), 0)
    return np.maximum(down, across)
