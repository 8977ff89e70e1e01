"""Room for arrays that are larger than memory should hold: small ones in memory, large ones in files that go when they are done
with. The system keeps such a file's pages in memory as long as nothing else needs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SMALL = 1 << 25
"""An array of at most so many bytes, 32 MB, is held in memory."""

Room = Callable[[tuple[int, ...], DTypeLike], NDArray[Any]]
"""``(shape, dtype) → array``, whose numbers are yet to be written."""


@contextmanager
def room_in(folder: Path) -> Iterator[Room]:
    """Room in memory and in a temporary folder inside ``folder``, which is removed on leaving."""
    with tempfile.TemporaryDirectory(dir=folder) as place:

        def room(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            if size <= SMALL:
                return np.empty(shape, dtype)
            with tempfile.TemporaryFile(dir=place) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is then an error here and not SIGBUS later
                return np.memmap(file, dtype, "w+", shape=shape)

        yield room
