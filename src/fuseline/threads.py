"""How many threads a computation uses: said once, so that the same key gives the same bytes, and restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Let torch and the BLAS libraries use so many threads inside.

    On a machine with other work, threads that wait for each other cost more than they bring: fitting the fusions of
    scikit-learn's digits took 27 s with one thread and 112 s with two, beside two training processes on two cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)
