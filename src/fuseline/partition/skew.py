"""``dirichlet``: members whose classes are unevenly mixed.

Shapes: n rows of the pool, M members.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fuseline.errors import RecipeError
from fuseline.partition.shares import Generators, Pool, Share, Shares

Alpha = Annotated[float, Field(ge=1e-3, le=1e6)]
Least = Annotated[int, Field(ge=1)]
DRAWS = 200


def dirichlet(
    pool: Pool, members: Generators, generator: np.random.Generator, *, alpha: Alpha = 0.5, least: Least = 10
) -> Shares:
    """Label skew: every row goes to exactly one member, and of each class the members get parts p ~ Dirichlet(α, …, α).

    So Yurochkin et al. 2019 (with α = 0.5) part a data set among the clients of federated learning; Hsu et al. 2019 draw the
    classes of each client instead, all clients being of one size. Here sizes differ too. Var pₘ = (M − 1) / (M² (Mα + 1)): α → ∞
    gives even shares, α → 0 gives each class to one member. Where no target has classes, the quantiles of the first target stand
    in for them. Whole units go in random order to the member in whose part of the class's rows their middle lies.

    The whole is drawn again, up to 200 times, until each member has ``least`` rows and two classes; so the shares are Dirichlet
    given that, and less uneven than α alone would make them.

    Raises:
        RecipeError: no draw would do.
    """
    count = len(members)
    if count == 1:
        return [[Share(pool.rows)]]
    needed = min(2, len(np.unique(pool.strata[pool.strata >= 0])))
    if least * count <= len(pool.rows):
        for _ in range(DRAWS):
            member = _draw(pool, count, alpha, generator)
            if _enough(pool, member, count, least, needed):
                return [[Share(pool.rows[member == m])] for m in range(count)]
    text = f"partition.dirichlet: {len(pool.rows)} training rows did not part into {count} with {least} rows and two classes each"
    raise RecipeError(f"{text}; raise 'alpha', lower 'least' or use fewer members.")


def _draw(pool: Pool, members: int, alpha: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """The member of each row (n,); a unit belongs to the class of its first row."""
    _, first, number, sizes = np.unique(pool.units, return_index=True, return_inverse=True, return_counts=True)
    strata = pool.strata[first]
    member = np.empty(len(first), np.int64)
    for stratum in np.unique(strata):
        edges = np.cumsum(generator.dirichlet(np.full(members, alpha)))
        units = generator.permutation(np.flatnonzero(strata == stratum))
        middle = (np.cumsum(sizes[units]) - sizes[units] / 2) / sizes[units].sum()
        member[units] = np.searchsorted(edges[:-1], middle)
    return member[number]


def _enough(pool: Pool, member: NDArray[np.int64], count: int, least: int, strata: int) -> bool:
    for m in range(count):
        there = pool.strata[member == m]
        if len(there) < least or len(np.unique(there[there >= 0])) < strata:
            return False
    return True
