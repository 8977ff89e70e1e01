"""Metrics as functions of sums over rows, so that those of all resamples follow from what each row adds, a few rows at a time.

What a row adds to a sum doesn't depend on the other rows; a resample's sums are those of the rows it draws, as often as it
draws them. Shapes: N rows, n of them at a time, B resamples, S sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fuseline.evaluation.metrics.common import Codes, Counts, Floats, Predicted

BLOCK = 1 << 22
"""At most so many numbers of a block of rows: 32 MB in float64. One row is always taken whole."""

Sums = Mapping[str, Floats]
"""By part, its sums over the rows as they are and over each resample's (S, 1 + B)."""


class Part(NamedTuple):
    """What n rows add to S sums: either ``values`` (n,) or (n, S), or ``values`` (n,) or (n, K), each to the sum that ``cells``,
    of the same shape, names among ``size``."""

    values: NDArray[Any]
    cells: Codes | None = None
    size: int = 0


class Rows(NamedTuple):
    """Some rows: their target, what is said of them, and a value near the whole target's middle to measure its spread from."""

    target: NDArray[Any]
    predicted: Predicted
    about: float = 0.0


class Measure(NamedTuple):
    """A metric (1 + B,) as a function of the sums of some parts."""

    parts: tuple[str, ...]
    of: Callable[[Sums], Floats]


def mean(part: str) -> Measure:
    """The mean of what each row has."""
    return Measure(("rows", part), lambda sums: np.asarray(sums[part][0] / sums["rows"][0]))


def every_row(rows: Rows) -> Part:
    """Each row as one."""
    return Part(np.ones(len(rows.target)))


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Consecutive slices of so many rows, each of at most ``BLOCK`` numbers if a row has ``width`` of them."""
    size = max(1, BLOCK // width)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def drawn(weights: Counts, rows: slice) -> Floats:
    """How often some rows are there as they are, once each, and how often each resample draws them (n, 1 + B)."""
    some = weights[:, rows]
    result = np.empty((some.shape[1], 1 + len(some)))
    result[:, 0], result[:, 1:] = 1, some.T
    return result


def sums(parts: Mapping[str, Callable[[Rows], Part]], rows: Iterator[tuple[Rows, Floats]]) -> dict[str, Floats]:
    """The parts' sums over all rows, given block by block with how often they are drawn."""
    total: dict[str, Floats] = {}
    for some, draws in rows:
        for name, found in summed({name: part(some) for name, part in parts.items()}, draws).items():
            total[name] = total[name] + found if name in total else found
    return total


def summed(parts: Mapping[str, Part], draws: Floats) -> dict[str, Floats]:
    """The sums of each part (S, R) over rows drawn R times over, each as often as ``draws`` (n, R) says.

    >>> part = Part(np.array([1.0, 1.0, 1.0]), np.array([0, 1, 1]), 2)
    >>> summed({"classes": part}, np.array([[1.0, 2.0], [1.0, 0.0], [1.0, 1.0]]))["classes"].tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """
    rows = len(draws)
    dense = {name: part.values.reshape(rows, -1) for name, part in parts.items() if part.cells is None}
    found: dict[str, Floats] = {name: values.astype(np.float64).T @ draws for name, values in dense.items()}
    sparse = {name: part for name, part in parts.items() if part.cells is not None}
    if sparse:
        ends = np.cumsum([part.size for part in sparse.values()])
        found |= dict(zip(sparse, np.split(_table(list(sparse.values()), rows).T @ draws, ends[:-1]), strict=True))
    return found


def _table(parts: Sequence[Part], rows: int) -> csr_array:
    """What each row adds to the sums of all parts, side by side (n, ΣS)."""
    starts = np.cumsum([0, *(part.size for part in parts)])
    cells = [part.cells.reshape(rows, -1) + start for part, start in zip(parts, starts, strict=False) if part.cells is not None]
    values = np.concatenate([part.values.reshape(rows, -1) for part in parts], axis=1, dtype=np.float64)
    ends = np.arange(rows + 1) * values.shape[1]
    return csr_array((values.ravel(), np.concatenate(cells, axis=1).ravel(), ends), shape=(rows, int(starts[-1])))
