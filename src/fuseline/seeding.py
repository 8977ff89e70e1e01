"""Random streams: each purpose, member and replica has its own, and none touches a global generator.

A stream is a child of ``SeedSequence(seed)`` at a fixed path, so it does not depend on how many siblings it has: adding a
member or raising a member's ``count`` leaves the streams of all others unchanged.
"""

from __future__ import annotations

import numpy as np

MEMBERS, PARTITION, FUSION, EVALUATION = range(4)


def stream(seed: int, *path: int) -> np.random.SeedSequence:
    """The child of ``SeedSequence(seed)`` at a path; equal to spawning step by step.

    >>> a = stream(7, 2, 0).generate_state(1)
    >>> b = np.random.SeedSequence(7).spawn(3)[2].spawn(1)[0].generate_state(1)
    >>> bool(a == b)
    True
    """
    return np.random.SeedSequence(seed, spawn_key=path)


def torch_seed(sequence: np.random.SeedSequence) -> int:
    """A 63-bit seed for a ``torch.Generator``."""
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
