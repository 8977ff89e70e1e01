"""``cluster``: members that each know one region of the inputs.

Shapes: n rows of the pool, D numbers per row, M members.
"""

from __future__ import annotations

import warnings
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from fuseline.errors import RecipeError
from fuseline.partition.flattening import flatten
from fuseline.partition.shares import Generators, Pool, Share, Shares
from fuseline.threads import limited_to

Components = Annotated[int, Field(ge=1, le=1000)]
Overlap = Annotated[float, Field(ge=0, le=1)]
Least = Annotated[int, Field(ge=1)]
STARTS = 10


def cluster(
    pool: Pool,
    members: Generators,
    generator: np.random.Generator,
    *,
    components: Components = 32,
    overlap: Overlap = 0.0,
    least: Least = 2,
) -> Shares:
    """One cluster of rows with like inputs for each member: k-means (Lloyd 1982) with k = M, the best of ten starts.

    The inputs of the pool's rows, and of no others, become one matrix of at most ``components`` numbers per row, by
    :func:`fuseline.partition.flattening.flatten`. What is clustered are the units, each at the mean of its rows and weighing as
    many as it has, in the order of their first rows. The largest cluster is the first member's, ties by the first row. With
    ``overlap`` > 0 a member also gets those units outside its cluster that are nearest to its centre, up to that fraction of all
    the rows outside; with 1 it gets everything.

    Clusters are of uneven sizes and often follow the classes: one with a single class can't be learnt from and is refused later.
    A member knows nothing of other regions, so such an ensemble wants a fusion that looks at the row.

    Raises:
        RecipeError: a cluster has fewer than ``least`` rows.
    """
    assert pool.dataset is not None, "the rule reads inputs"
    count = len(members)
    seed = int(generator.integers(2**31))
    unit, sizes = _in_order(pool.units)
    if len(sizes) < count:
        raise RecipeError(
            f"partition.cluster: {len(sizes)} different training rows can't form {count} clusters; use fewer members."
        )
    with limited_to(1):  # with more threads sums are taken in another order each time
        x = flatten(pool.dataset, pool.rows, components, seed)
        means = np.zeros((len(sizes), x.shape[1]))
        np.add.at(means, unit, x)
        label, distance = _cluster(means / sizes[:, None], sizes, count, seed)
    order = _by_size(label[unit], count)
    share = [(label == k)[unit] for k in order]
    if (fewest := int(share[-1].sum())) < least:
        text = f"partition.cluster: the smallest of {count} clusters has {fewest} training rows, and 'least' is {least}"
        raise RecipeError(f"{text}; use fewer members or another rule.")
    if overlap:
        share = [_widened(label == k, sizes, distance[:, k], overlap)[unit] for k in order]
    return [[Share(pool.rows[inside])] for inside in share]


def _in_order(units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of each row's unit (n,), counted by their first rows, and the rows of each unit (U,).

    >>> [array.tolist() for array in _in_order(np.array([7, 3, 7, 5]))]
    [[0, 1, 0, 2], [2, 1, 1]]
    """
    _, first, number, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    return np.argsort(order)[number], sizes[order]


def _cluster(
    x: NDArray[np.float64], weights: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The cluster of each unit (U,) and its distances to all centres (U, M)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different units than clusters: a cluster stays empty
        fitted = KMeans(count, n_init=STARTS, random_state=seed).fit(x, sample_weight=weights.astype(np.float64))
    return fitted.labels_.astype(np.int64), fitted.transform(x)


def _by_size(label: NDArray[np.int64], count: int) -> list[int]:
    """Labels from the most rows to the fewest, ties by the first row that has the label.

    >>> _by_size(np.array([2, 0, 1, 0, 2]), 3)
    [2, 0, 1]
    """
    sizes = np.bincount(label, minlength=count)
    there, first = np.unique(label, return_index=True)
    row = dict(zip(there.tolist(), first.tolist(), strict=True))
    return sorted(range(count), key=lambda k: (-int(sizes[k]), row.get(k, len(label))))


def _widened(
    inside: NDArray[np.bool_], sizes: NDArray[np.int64], distance: NDArray[np.float64], overlap: float
) -> NDArray[np.bool_]:
    """A cluster's units (U,) and the nearest outside it, up to a fraction of the rows outside."""
    outside = np.flatnonzero(~inside)
    nearest = outside[np.argsort(distance[outside], kind="stable")]
    wider = inside.copy()
    wider[nearest[np.cumsum(sizes[nearest]) <= round(overlap * float(sizes[outside].sum()))]] = True
    return wider
