"""A row's own inputs as plain numbers: nothing is lost, and nothing is NaN."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuseline.data.schema import Schema, TargetSchema
from fuseline.fusion.inputs import plain
from fuseline.models.preprocessing import Batch

TARGETS = {"t": TargetSchema(kind="regression")}
TABLE = Schema(numeric=["x", "y"], categorical={"color": ["blue", "red"], "shape": ["round"]}, targets=TARGETS)


def batch(schema: Schema, frame: pd.DataFrame) -> Batch:
    return {name: torch.from_numpy(array) for name, array in schema.encode(frame).items()}


def test_numbers_stand_with_a_flag_for_the_missing_and_categories_by_position() -> None:
    frame = pd.DataFrame({"x": [1.5, np.nan], "y": [-2.0, 7.0], "color": ["red", None], "shape": ["square", "round"]})
    assert plain(TABLE, batch(TABLE, frame)).tolist() == [
        [1.5, -2, 0, 0, *(0, 0, 0, 1), *(1, 0, 0)],  # red is the second word; a square was never seen
        [0, 7, 1, 0, *(0, 1, 0, 0), *(0, 0, 1)],
    ]


def test_pixels_stay_as_they_are_whatever_their_type() -> None:
    random = np.random.default_rng(0)
    whole = Schema(image=(2, 3, 4), targets=TARGETS)
    pictures = torch.from_numpy(random.integers(0, 256, (5, 2, 3, 4), dtype=np.uint8))
    found = plain(whole, {"image": pictures})
    assert found.dtype == torch.float64
    assert torch.equal(found, pictures.reshape(5, 24).double())
    fractions = torch.from_numpy(random.normal(size=(5, 2, 3, 4)).astype(np.float32))
    assert torch.equal(plain(whole, {"image": fractions}), fractions.reshape(5, 24).double())


@given(st.lists(st.tuples(st.floats(-1e6, 1e6) | st.none(), st.sampled_from(["blue", "red", "green", None])), min_size=1))
def test_every_entry_is_finite_and_every_category_is_one_of_its_own(rows: list[tuple[float | None, str | None]]) -> None:
    x, color = zip(*rows, strict=True)
    frame = pd.DataFrame({"x": pd.Series(x, dtype=float), "y": 0.0, "color": pd.Series(color, dtype=object), "shape": "round"})
    found = plain(TABLE, batch(TABLE, frame))
    assert found.shape == (len(rows), 2 * 2 + 4 + 3)
    assert found.isfinite().all()
    assert (found[:, 4:8].sum(1) == 1).all()
    assert found[:, 2].bool().tolist() == [value is None for value in x]


def test_no_row_has_no_numbers_but_as_many_columns() -> None:
    frame = pd.DataFrame({"x": [1.0], "y": [1.0], "color": ["red"], "shape": ["round"]}).iloc[:0]
    assert plain(TABLE, batch(TABLE, frame)).shape == (0, 11)
