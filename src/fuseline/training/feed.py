"""Rows to batches on a device: from arrays that lie there, or from files that are read a few batches ahead.

Shapes: arrays (N, *row); row numbers of any shape (…), on the CPU; a batch (…, *row).
"""

from __future__ import annotations

import mmap
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.devices import Lane, Sent, free_bytes, send
from fuseline.models.preprocessing import Batch

READERS = 4
"""Threads that read ahead, each a batch at a time: a disk serves several requests at once."""
AHEAD = 6
"""So many batches are read ahead at the most."""
PART = 1 << 26
"""An array goes to a GPU in parts of so many bytes."""


def feed(arrays: Mapping[str, NDArray[Any]], device: torch.device, resident: int) -> Feed:
    """Serve the rows of some arrays, which are left as they are, as batches on a device.

    Args:
        arrays: by input, all of as many rows; they may be mapped from files.
        resident: arrays of at most so many bytes are brought to the device at once; rows of larger ones are read as they are
            needed. On a CPU arrays are where they should be already: those mapped from files stay so, and processes side by side
            share what the kernel caches of them.
    """
    if sum(array.nbytes for array in arrays.values()) > resident:
        return StreamingFeed(arrays, device)
    return Feed({name: _moved(array, device) for name, array in arrays.items()}, device)


class Feed:
    """Rows of tensors that lie where they are used.

    >>> rows = torch.tensor([[2, 0], [1, 1]])
    >>> feed({"x": np.array([10, 11, 12])}, torch.device("cpu"), resident=1 << 20).take(rows)
    {'x': tensor([[12, 10], [11, 11]])}
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self._tensors, self.device = dict(tensors), device

    def take(self, rows: Tensor) -> Batch:
        """Rows of any shape (…) → per input (…, *row), a copy on the device."""
        flat = send(rows.flatten(), self.device)
        return {name: x.index_select(0, flat).view((*rows.shape, *x.shape[1:])) for name, x in self._tensors.items()}

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """What :meth:`take` gives, for each of some batches in order."""
        for rows in batches:
            yield self.take(rows)


class StreamingFeed(Feed):
    """Rows that are read from mapped files as they are needed.

    Where the files fit in memory the kernel keeps them after the first epoch, and its usual reading ahead brings them there
    fastest. Where they don't, it would read 128 KB for each row, most of it in vain: it is told that rows come in no order, each
    batch is read by rising row, and rows that follow each other are announced. Of files of which nothing was cached a batch of
    128 pictures came in 11 ms so (3×32×32) and in 71 ms (3×96×96), and in 54 and 181 ms by what the kernel does unasked.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], device: torch.device) -> None:
        super().__init__({name: _as_tensor(array) for name, array in arrays.items()}, device)
        self._lane = Lane(device)
        self._beyond = sum(array.nbytes for array in arrays.values()) > free_bytes("cpu")
        self._maps = [map_ for map_ in map(_Mapped.of, arrays.values()) if map_ is not None] if self._beyond else []

    def take(self, rows: Tensor) -> Batch:
        return self._lane.receive(self._read(rows))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """What :meth:`take` gives, read ahead by threads, which end with the stream, also where it is left early.

        ``batches`` is gone through by the caller's own thread, at most ``AHEAD`` ahead, so it may draw from a generator.
        """
        ahead: deque[Future[Sent]] = deque()
        with ThreadPoolExecutor(READERS, "fuseline-feed") as pool:
            try:
                for rows in batches:
                    ahead.append(pool.submit(self._read, rows))
                    if len(ahead) == AHEAD:
                        yield self._lane.receive(ahead.popleft().result())
                while ahead:
                    yield self._lane.receive(ahead.popleft().result())
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, rows: Tensor) -> Sent:
        flat = rows.flatten()
        if not self._beyond:
            return self._lane.send({name: self._gathered(x, flat, rows.shape) for name, x in self._tensors.items()})
        rising, order = flat.sort()
        for map_ in self._maps:
            map_.announce(rising)
        place = order.argsort()
        read = {name: x.index_select(0, rising) for name, x in self._tensors.items()}
        return self._lane.send({name: self._gathered(x, place, rows.shape) for name, x in read.items()})

    def _gathered(self, x: Tensor, flat: Tensor, shape: torch.Size) -> Tensor:
        staged = self._lane.staging((len(flat), *x.shape[1:]), x.dtype)
        torch.index_select(x, 0, flat, out=staged)
        return staged.view((*shape, *x.shape[1:]))


class _Mapped:
    """An array in a mapped file, of which the kernel is told what will be read."""

    def __init__(self, file: mmap.mmap, start: int, row: int) -> None:
        self.file, self.start, self.row = file, start, row
        file.madvise(mmap.MADV_RANDOM)

    @classmethod
    def of(cls, array: NDArray[Any]) -> _Mapped | None:
        """None if the array is in memory, or its rows don't follow each other in the file."""
        file: Any = array
        while isinstance(file, np.ndarray):
            file = file.base
        if not isinstance(file, mmap.mmap) or not array.flags.c_contiguous or not array.size:
            return None
        start = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
        return cls(file, start, array.nbytes // len(array))

    def announce(self, rising: Tensor) -> None:
        """Say that rows will be read, if they follow each other."""
        if len(rising) > 1 and int(rising[-1] - rising[0]) < len(rising):
            first, end = self.start + int(rising[0]) * self.row, self.start + (int(rising[-1]) + 1) * self.row
            first -= first % mmap.PAGESIZE
            self.file.madvise(mmap.MADV_WILLNEED, first, end - first)


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device, brought there in parts so that no second copy of it stands in memory."""
    tensor = _as_tensor(array)
    if device.type == "cpu":
        return tensor
    moved = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    size = max(1, PART * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), size):
        moved[start : start + size] = send(tensor[start : start + size], device)
    return moved


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor, which must only be read."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a mapped file can't be written, which nobody does
        return torch.from_numpy(array)
