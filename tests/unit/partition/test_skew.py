"""Label skew by Dirichlet draws, against the moments of the distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.errors import RecipeError
from fuseline.partition import Pool, Shares, coverage, dirichlet

SEEDS = st.integers(0, 2**32 - 1)
Make = Callable[..., Pool]
Generators = Callable[..., list[np.random.Generator]]


def plain(n: int, classes: int) -> Pool:
    return Pool(np.arange(n), np.arange(n) % classes, np.arange(n))


def fractions(pool: Pool, shares: Shares) -> np.ndarray:
    """The part of each class's rows that each member has (M, C)."""
    table = coverage(shares, pool.strata, int(pool.strata.max()) + 1)
    return table / table.sum(0)


@pytest.mark.parametrize("alpha", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("members", [2, 5])
def test_the_members_parts_of_a_class_have_the_moments_of_the_distribution(
    generators: Generators, alpha: float, members: int
) -> None:
    """Mean 1/M and variance (M − 1) / (M² (Mα + 1)), over 200 draws of 10 classes; the condition on rows is hardly felt."""
    pool = plain(2000, 10)
    parts = np.stack(
        [
            fractions(pool, dirichlet(pool, generators(members), np.random.default_rng(s), alpha=alpha, least=2))
            for s in range(200)
        ]
    )
    assert parts.mean((0, 2)) == pytest.approx(np.full(members, 1 / members), abs=0.03)
    assert parts.var() == pytest.approx((members - 1) / (members**2 * (members * alpha + 1)), rel=0.1)


def test_a_large_alpha_is_even_and_a_small_one_is_not(generators: Generators) -> None:
    pool = plain(1000, 5)
    even = dirichlet(pool, generators(4), np.random.default_rng(0), alpha=1e6)
    assert fractions(pool, even) == pytest.approx(np.full((4, 5), 0.25), abs=0.01)
    largest = [
        fractions(pool, dirichlet(pool, generators(4), np.random.default_rng(s), alpha=0.05)).max(0).mean() for s in range(20)
    ]
    assert np.mean(largest) > 0.8


@given(seed=SEEDS, members=st.integers(2, 4), unit_size=st.integers(1, 3), least=st.integers(1, 8))
def test_each_member_has_enough_rows_of_two_classes(
    pool_of: Make, generators: Generators, seed: int, members: int, unit_size: int, least: int
) -> None:
    pool = pool_of(seed, unit_size=unit_size, unknown=0.1)
    shares = dirichlet(pool, generators(members), np.random.default_rng(seed), alpha=1.0, least=least)
    table = coverage(shares, pool.dataset.targets["kind"], 4)  # type: ignore[union-attr]
    assert ((table > 0).sum(1) >= 2).all()
    assert min(len(share.train) for (share,) in shares) >= least


def test_a_row_of_unknown_class_is_dealt_too(generators: Generators) -> None:
    pool = Pool(np.arange(90), np.arange(90) % 3 - 1, np.arange(90))
    shares = dirichlet(pool, generators(3), np.random.default_rng(0), alpha=100.0)
    assert sorted(row for (share,) in shares for row in share.train) == list(range(90))


@pytest.mark.parametrize(
    ("pool", "members", "settings"),
    [(plain(20, 4), 3, {"least": 7}), (plain(40, 2), 8, {"alpha": 1e-3, "least": 1})],
    ids=["too few rows", "classes can't be shared"],
)
def test_what_no_draw_can_do_is_refused(
    generators: Generators, refusal: Callable[..., str], pool: Pool, members: int, settings: dict[str, float]
) -> None:
    sentence = refusal(RecipeError, dirichlet, pool, generators(members), np.random.default_rng(0), **settings)
    assert sentence.startswith(f"partition.dirichlet: {len(pool.rows)} training rows did not part into {members}")
    assert sentence.endswith("raise 'alpha', lower 'least' or use fewer members.")


def test_one_member_gets_everything(generators: Generators) -> None:
    ((share,),) = dirichlet(plain(5, 2), generators(1), np.random.default_rng(0))
    assert share.train.tolist() == list(range(5))
