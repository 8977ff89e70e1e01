"""Who sees what, counted.

Shapes: M members, N rows, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fuseline.partition.shares import Rows, Share, Shares


def overlap(shares: Shares) -> NDArray[np.float64]:
    """Pairwise overlap of members' training rows (M, M): the Jaccard index of the sets, |A ∩ B| / |A ∪ B|."""
    sets = [_seen(replicas) for replicas in shares]
    table = np.ones((len(sets), len(sets)))
    for i, a in enumerate(sets):
        for j in range(i):
            common = len(np.intersect1d(a, sets[j], assume_unique=True))
            table[i, j] = table[j, i] = common / (len(a) + len(sets[j]) - common)
    return table


def coverage(shares: Shares, codes: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How many rows of each class each member learns from (M, C): of all its replicas, each row once.

    Args:
        codes: the class of each row (N,); rows of unknown class (−1) are not counted.
        classes: C.
    """
    counts = []
    for replicas in shares:
        seen = np.asarray(codes)[_seen(replicas)]
        counts.append(np.bincount(seen[seen >= 0], minlength=classes))
    return np.array(counts, np.int64).reshape(len(shares), classes)


def _seen(replicas: list[Share]) -> Rows:
    return np.unique(np.concatenate([share.train for share in replicas]))
