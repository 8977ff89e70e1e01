"""Which rows a model was fitted on, and which it is judged on, as hashes: so that a package can tell without the data.

A row is known by what it holds (``Dataset.content``), and by its id where the recipe names the column of the ids; without one
they are mere positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fuseline.data.dataset import Dataset
from fuseline.data.split import Split

Hashes = NDArray[np.uint64]
SKETCHED = 64


def id_hashes(ids: Iterable[str]) -> Hashes:
    """A 64-bit hash of each row's id (N,)."""
    digests = b"".join(hashlib.blake2b(f"id {name}".encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, np.uint64).copy()


def fitted_rows(dataset: Dataset, split: Split, has_ids: bool) -> Hashes:
    """The hashes, sorted, of the rows that members, fusions and calibration may learn from."""
    rows = split.rows("train", "fusion", "calibration")
    own = [dataset.content[rows], *([id_hashes(dataset.ids[rows])] if has_ids else [])]
    return np.unique(np.concatenate(own))


def among(fitted: Hashes, *hashes: Hashes) -> NDArray[np.bool_]:
    """Which rows (N,) a model was fitted on, of which several hashes (N,) each are given; those of ``fitted`` are sorted.

    >>> among(np.array([2, 5], np.uint64), np.array([1, 2], np.uint64), np.array([7, 8], np.uint64))
    array([False,  True])
    """
    if not len(fitted):
        return np.zeros(len(hashes[0]), bool)
    places = [np.minimum(np.searchsorted(fitted, some), len(fitted) - 1) for some in hashes]
    return np.asarray(np.any([fitted[place] == some for place, some in zip(places, hashes, strict=True)], axis=0))


def sketch(content: Hashes) -> list[str]:
    """The 64 smallest hashes of a set of rows: of two sets that share rows, the smallest are shared in proportion (the bottom-k
    sketch of Cohen and Kaplan 2007)."""
    return [f"{value:016x}" for value in np.unique(content)[:SKETCHED]]


def share_rows(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether two sets of test rows overlap, as far as their sketches tell: one in twenty rows is nearly always seen."""
    return bool(set(one) & set(other))
