"""Rows known by their hashes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fuseline.data.split import Split
from fuseline.promotion.rows import SKETCHED, among, fitted_rows, id_hashes, share_rows, sketch

CONTENT = np.array([50, 10, 40, 20, 30, 60], np.uint64)
DATASET = cast(Any, SimpleNamespace(content=CONTENT, ids=np.array(list("abcdef"))))
SPLIT = Split(np.array([0, 1, 2, 3, -1, 0], np.int8))


def test_the_rows_that_may_be_learnt_from_are_kept_in_order_and_once() -> None:
    assert fitted_rows(DATASET, SPLIT, has_ids=False).tolist() == [10, 40, 50, 60]
    both = fitted_rows(DATASET, SPLIT, has_ids=True)
    assert set(both.tolist()) == {10, 40, 50, 60, *id_hashes("abcf").tolist()}
    assert (np.diff(both.astype(object)) > 0).all()


def test_a_row_is_found_by_its_content_or_by_its_id() -> None:
    fitted = fitted_rows(DATASET, SPLIT, has_ids=True)
    content = np.array([10, 99, 99], np.uint64)
    assert among(fitted, content).tolist() == [True, False, False]
    assert among(fitted, content, id_hashes(["x", "f", "d"])).tolist() == [True, True, False]


def test_an_id_has_its_own_hash() -> None:
    assert len(set(id_hashes(map(str, range(1000))).tolist())) == 1000
    assert id_hashes(["a"]) == id_hashes(["a"])


@pytest.mark.parametrize(("kept", "shared"), [(1.0, True), (0.5, True), (0.2, True), (0.0, False)])
def test_sketches_tell_whether_sets_of_rows_overlap(kept: float, shared: bool) -> None:
    random = np.random.default_rng(0)
    one = random.integers(0, 2**63, 3000).astype(np.uint64)
    other = random.integers(0, 2**63, 3000).astype(np.uint64)
    other[: int(kept * 3000)] = one[: int(kept * 3000)]
    assert share_rows(sketch(one), sketch(other)) is shared
    assert len(sketch(one)) == SKETCHED
    assert sketch(one) == sketch(random.permutation(np.concatenate([one, one])))
