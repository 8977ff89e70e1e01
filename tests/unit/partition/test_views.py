"""Random subspaces: what each member sees of every row, and how a view becomes masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.models.preprocessing import Preprocessing
from fuseline.partition import Pool, feature_subspace, masks

SEEDS = st.integers(0, 2**32 - 1)
FRACTIONS = st.sampled_from([0.05, 0.3, 0.5, 0.8, 1.0])
TARGETS = {"kind": TargetSchema(kind="classification", classes=[0, 1])}
Make = Callable[..., Pool]
Generators = Callable[..., list[np.random.Generator]]


def table(numeric: int, categorical: int) -> Schema:
    return Schema(
        numeric=[f"n{j}" for j in range(numeric)], categorical={f"c{j}": ["x"] for j in range(categorical)}, targets=TARGETS
    )


def pictures(*shape: int) -> Schema:
    return Schema(image=shape, targets=TARGETS)  # type: ignore[arg-type]


def views(pool: Pool, members: list[np.random.Generator], **settings: object) -> np.ndarray:
    shares = feature_subspace(pool, members, np.random.default_rng(0), **settings)  # type: ignore[arg-type]
    assert all(share.train.tolist() == pool.rows.tolist() for (share,) in shares)
    return np.stack([share.view for (share,) in shares])


@given(seed=SEEDS, members=st.integers(1, 6), fraction=FRACTIONS, numeric=st.integers(0, 9), categorical=st.integers(2, 5))
def test_each_member_draws_its_columns_and_every_column_is_seen(
    pool_of: Make, generators: Generators, seed: int, members: int, fraction: float, numeric: int, categorical: int
) -> None:
    pool = pool_of(seed, n=4, schema=table(numeric, categorical))
    seen = views(pool, generators(members, seed), fraction=fraction)
    columns = numeric + categorical
    size = max(1, round(fraction * columns))
    drawn = np.zeros_like(seen)
    for row, own in zip(drawn, generators(members, seed), strict=True):
        row[own.choice(columns, size, replace=False)] = True
    assert seen.shape == (members, columns)
    assert seen.any(0).all()
    assert (seen >= drawn).all()
    assert (seen & ~drawn).sum() == (~drawn.any(0)).sum()
    assert seen.sum(1).max() - size <= -(-int((~drawn.any(0)).sum()) // members)


@given(seed=SEEDS, members=st.integers(1, 5), fraction=FRACTIONS, channels=st.integers(4, 8))
def test_whole_channels_are_hidden_where_there_are_many(
    pool_of: Make, generators: Generators, seed: int, members: int, fraction: float, channels: int
) -> None:
    pool = pool_of(seed, n=4, schema=pictures(channels, 3, 2))
    seen = views(pool, generators(members, seed), fraction=fraction).reshape(members, channels, 6)
    assert (seen == seen[:, :, :1]).all()
    assert seen.any(0).all()
    assert (seen[:, :, 0].sum(1) >= max(1, round(fraction * channels))).all()


@given(
    seed=SEEDS,
    members=st.integers(1, 6),
    fraction=FRACTIONS,
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
)
def test_regions_are_alike_in_all_channels_and_every_pixel_is_seen(
    pool_of: Make, generators: Generators, seed: int, members: int, fraction: float, shape: tuple[int, int, int]
) -> None:
    pool = pool_of(seed, n=4, schema=pictures(*shape))
    seen = views(pool, generators(members, seed), fraction=fraction).reshape(members, *shape)
    assert (seen == seen[:, :1]).all()
    assert seen.any(0).all()
    assert seen.any((1, 2, 3)).all()


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_a_region_is_a_rectangle_of_that_part_of_the_area(pool_of: Make, generators: Generators, fraction: float) -> None:
    """With forty members few pixels are left over; those who were given none see a rectangle."""
    seen = views(pool_of(0, n=4, schema=pictures(1, 32, 24)), generators(40), fraction=fraction).reshape(-1, 32, 24)
    boxes = [mask for mask in seen if mask[np.ix_(mask.any(1), mask.any(0))].all()]
    assert len(boxes) > 20
    areas = np.array([mask.mean() for mask in boxes])
    assert areas == pytest.approx(np.full(len(boxes), fraction), abs=0.04)
    heights = [mask.any(1).sum() for mask in boxes]
    assert min(heights) >= round(32 * fraction)
    assert len(set(heights)) > 4


@given(seed=SEEDS, members=st.integers(2, 4))
def test_a_pixel_that_nobody_drew_goes_to_the_nearest_rectangle(
    pool_of: Make, generators: Generators, seed: int, members: int
) -> None:
    """By brute force: each such pixel is seen by one member only, whose own rectangle is no farther than another's."""
    pool = pool_of(seed, n=4, schema=pictures(1, 7, 9))
    seen = views(pool, generators(members, seed), fraction=0.2).reshape(members, 7, 9)
    own = []
    for member in generators(members, seed):
        u = member.random()
        h, w = max(1, round(7 * 0.2**u)), max(1, round(9 * 0.2 ** (1 - u)))
        top, left = member.integers(7 - h + 1), member.integers(9 - w + 1)
        own.append({(y, x) for y in range(top, top + h) for x in range(left, left + w)})
    for y, x in np.ndindex(7, 9):
        sees = {m for m in range(members) if seen[m, y, x]}
        drew = {m for m in range(members) if (y, x) in own[m]}
        away = [min(max(abs(y - a), abs(x - b)) for a, b in box) for box in own]
        assert sees == (drew or {int(np.argmin(away))})


@pytest.mark.parametrize("schema", [table(3, 2), pictures(1, 4, 4), pictures(5, 2, 2)], ids=["table", "regions", "channels"])
def test_a_single_member_sees_everything(pool_of: Make, generators: Generators, schema: Schema) -> None:
    assert views(pool_of(0, schema=schema), generators(1), fraction=0.3).all()


@pytest.mark.parametrize(
    ("schema", "of", "told"),
    [
        (table(3, 2), "channels", "the data are a table, which have no channels"),
        (table(3, 2), "regions", "the data are a table, which have no regions"),
        (pictures(3, 4, 4), "columns", "the data are pictures, which have no columns"),
        (pictures(1, 4, 4), "channels", "the inputs have one of the channels only"),
        (table(1, 0), "auto", "the inputs have one of the columns only"),
    ],
)
def test_what_can_not_be_hidden_is_refused(
    pool_of: Make, generators: Generators, refusal: Callable[..., str], schema: Schema, of: str, told: str
) -> None:
    pool = pool_of(0, schema=schema)
    sentence = refusal(RecipeError, feature_subspace, pool, generators(2), np.random.default_rng(0), of=of)
    assert sentence.startswith("partition.feature_subspace.of: ")
    assert told in sentence


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("schema", "shapes"),
    [
        (table(3, 2), {"numeric": (3,), "categorical": (2,)}),
        (table(0, 2), {"categorical": (2,)}),
        (table(2, 0), {"numeric": (2,)}),
        (pictures(2, 3, 4), {"image": (2, 3, 4)}),
    ],
)
def test_masks_are_what_the_preprocessing_takes(schema: Schema, shapes: dict[str, tuple[int, ...]]) -> None:
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    view = np.arange(size) % 3 == 0
    made = masks(schema, view)
    assert {name: mask.shape for name, mask in made.items()} == shapes
    assert np.concatenate([mask.ravel() for mask in made.values()]).tolist() == view.tolist()
    assert masks(schema, view[:0]) == {}
    preprocessing = Preprocessing(schema)
    preprocessing.see({name: torch.from_numpy(mask) for name, mask in made.items()})
    for name, mask in made.items():
        assert preprocessing.get_buffer(f"sees_{name}").numpy().tolist() == mask.tolist()


def test_a_view_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="a view of 4 inputs does not fit a schema of 5"):
        masks(table(3, 2), np.ones(4, bool))
