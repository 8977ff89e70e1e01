"""Who sees what, against sets and counts by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fuseline.partition import Share, coverage, overlap

MEMBERS = st.lists(st.lists(st.lists(st.integers(0, 12), min_size=1), min_size=1, max_size=3), min_size=1, max_size=4)


@given(MEMBERS)
def test_overlap_is_the_jaccard_index_of_the_sets(members: list[list[list[int]]]) -> None:
    table = overlap([[Share(np.array(rows)) for rows in replicas] for replicas in members])
    sets = [{row for rows in replicas for row in rows} for replicas in members]
    assert table.tolist() == [[len(a & b) / len(a | b) for b in sets] for a in sets]


@given(MEMBERS, st.lists(st.integers(-1, 3), min_size=13, max_size=13))
def test_coverage_counts_each_row_of_a_class_once(members: list[list[list[int]]], codes: list[int]) -> None:
    table = coverage([[Share(np.array(rows)) for rows in replicas] for replicas in members], np.array(codes), 5)
    sets = [{row for rows in replicas for row in rows} for replicas in members]
    assert table.tolist() == [[sum(codes[row] == c for row in rows) for c in range(5)] for rows in sets]
