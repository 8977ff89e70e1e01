"""Whole groups, largest first, against every possible deal."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseline.errors import RecipeError
from fuseline.partition import Pool, by_group

SEEDS = st.integers(0, 2**32 - 1)
Make = Callable[..., Pool]
Generators = Callable[..., list[np.random.Generator]]


def shares_of(pool: Pool, members: list[np.random.Generator], seed: int = 0) -> list[np.ndarray]:
    return [share.train for (share,) in by_group(pool, members, np.random.default_rng(seed), column="site")]


@given(seed=SEEDS, members=st.integers(1, 6))
def test_a_group_is_never_parted(pool_of: Make, generators: Generators, seed: int, members: int) -> None:
    pool = pool_of(seed, n=120, groups=8)
    group = pool.dataset.group  # type: ignore[union-attr]
    seen = [set(group[rows]) for rows in shares_of(pool, generators(members))]
    assert sum(map(len, seen)) == len(set().union(*seen)) == len(set(group[pool.rows]))


@given(seed=SEEDS, pairs=st.integers(0, 25))
def test_groups_that_share_a_unit_go_together(pool_of: Make, generators: Generators, seed: int, pairs: int) -> None:
    """Against the components of the graph whose edges are pairs of rows of one unit or of one group."""
    pool = pool_of(seed, groups=40)
    random = np.random.default_rng(seed)
    units = np.arange(len(pool.rows))
    units[random.choice(len(units), pairs, replace=False)] = random.choice(len(units), pairs)
    pool = Pool(pool.rows, pool.strata, units, pool.dataset)
    graph = nx.Graph()
    for row, unit in zip(pool.rows, units, strict=True):
        graph.add_edge(("row", int(row)), ("unit", int(unit)))
        graph.add_edge(("row", int(row)), ("group", str(pool.dataset.group[row])))  # type: ignore[union-attr]
    blocks = [{row for what, row in nodes if what == "row"} for nodes in nx.connected_components(graph)]
    shares = [set(rows.tolist()) for rows in shares_of(pool, generators(2))]
    assert all(sum(bool(block & rows) for rows in shares) == 1 for block in blocks)


@settings(max_examples=20)
@given(seed=SEEDS, members=st.integers(2, 3), groups=st.integers(4, 6))
def test_the_largest_share_is_within_grahams_bound_of_the_best_deal(
    pool_of: Make, generators: Generators, seed: int, members: int, groups: int
) -> None:
    pool = pool_of(seed, groups=groups, n=50)
    sizes = np.unique(pool.dataset.group[pool.rows], return_counts=True)[1]  # type: ignore[union-attr]
    best = min(max(np.bincount(deal, sizes, minlength=members)) for deal in product(range(members), repeat=len(sizes)))
    largest = max(map(len, shares_of(pool, generators(members))))
    assert best <= largest <= (4 / 3 - 1 / (3 * members)) * best + 1e-9


def test_no_chance_is_in_it(pool_of: Make, generators: Generators) -> None:
    pool = pool_of(3)
    one, other = (shares_of(pool, generators(3, seed), seed) for seed in (0, 1))
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in other]


def test_fewer_groups_than_members_are_refused(pool_of: Make, generators: Generators, refusal: Callable[..., str]) -> None:
    pool = pool_of(0, groups=3)
    sentence = refusal(RecipeError, by_group, pool, generators(4), np.random.default_rng(0), column="site")
    assert sentence.startswith("partition.by_group.column: the groups of 'site' among the training rows number 3, for 4 members")


def test_groups_joined_by_equal_rows_are_said_to_be(pool_of: Make, generators: Generators, refusal: Callable[..., str]) -> None:
    pool = pool_of(0, groups=3)
    pool = Pool(pool.rows, pool.strata, np.zeros(len(pool.rows), np.int64), pool.dataset)
    sentence = refusal(RecipeError, by_group, pool, generators(2), np.random.default_rng(0), column="site")
    assert "number 3, and 1 once those are joined that have rows of one unit, for 2 members" in sentence
