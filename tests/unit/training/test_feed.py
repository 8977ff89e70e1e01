"""The feed: whatever way rows come, they are what indexing gives, in order, to the last bit."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fuseline.training import feed as module
from fuseline.training.feed import AHEAD, Feed, StreamingFeed, feed

CPU = torch.device("cpu")
ROWS = 500
WAYS = ("resident", "streaming", "beyond memory")

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """Inputs as a stored data set gives them: memory-mapped, of all kinds."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("arrays")
    made: Arrays = {
        "image": random.integers(0, 256, (ROWS, 3, 7, 5), dtype=np.uint8),
        "numeric": np.where(random.random((ROWS, 4)) < 0.1, np.nan, random.normal(size=(ROWS, 4))),
        "categorical": random.integers(0, 9, (ROWS, 2)),
        "y": random.integers(0, 3, ROWS),
        "weight": random.random(ROWS).astype(np.float32),
        "columns first": np.asfortranarray(random.normal(size=(ROWS, 3))),
    }
    for name, array in made.items():
        np.save(folder / f"{name}.npy", array)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in made}


def fed(arrays: Arrays, way: str) -> Feed:
    with pytest.MonkeyPatch.context() as patch:
        if way == "beyond memory":
            patch.setattr(module, "free_bytes", lambda device: 1000)
        made = feed(arrays, CPU, resident=1 << 30 if way == "resident" else 0)
    assert isinstance(made, StreamingFeed) == (way != "resident")
    return made


def same(batch: dict[str, Tensor], arrays: Arrays, rows: Tensor) -> None:
    """Compared with what numpy's indexing gives, by bytes: NaN too."""
    assert list(batch) == list(arrays)
    for name, array in arrays.items():
        expected, given_ = np.asarray(array)[rows.numpy()], batch[name].numpy()
        assert (given_.dtype, given_.shape) == (expected.dtype, expected.shape)
        assert given_.tobytes() == expected.tobytes()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fuseline-feed")]


def order(rows: int = ROWS, seed: int = 0) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(), (1,), (32,), (4, 8), (2, 3, 5), (0,), (3, 0)])
def test_rows_of_any_shape_are_taken(arrays: Arrays, way: str, shape: tuple[int, ...]) -> None:
    rows = torch.randint(0, ROWS, shape, generator=torch.Generator().manual_seed(1))
    same(fed(arrays, way).take(rows), arrays, rows)


@given(st.sampled_from(WAYS), st.lists(st.lists(st.integers(0, ROWS - 1), max_size=9), max_size=15))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_is_what_taking_each_batch_gives(arrays: Arrays, way: str, batches: list[list[int]]) -> None:
    asked = [torch.tensor(rows, dtype=torch.int64) for rows in batches]
    got = list(fed(arrays, way).stream(asked))
    assert len(got) == len(asked)
    for rows, batch in zip(asked, got, strict=True):
        same(batch, arrays, rows)


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_of_many_batches_comes_in_order(arrays: Arrays, way: str) -> None:
    whole = fed(arrays, way)
    for rows, batch in zip(order().split(7), whole.stream(order().split(7)), strict=True):
        same(batch, arrays, rows)
    rows = torch.arange(ROWS)
    joined = [batch["image"] for batch in whole.stream(rows.split(64))]
    assert torch.equal(torch.cat(joined), torch.from_numpy(np.array(arrays["image"])))


@pytest.mark.parametrize("way", WAYS)
def test_a_slice_of_a_file_is_served_from_its_own_start(arrays: Arrays, way: str) -> None:
    part = {"image": arrays["image"][100:300], "every other": arrays["numeric"][1::2][:200]}
    whole = fed(part, way)
    for rows in (order(200), torch.arange(50, 90), torch.arange(200)):
        same(whole.take(rows), part, rows)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_may_be_written_to_and_the_rows_stay(arrays: Arrays, way: str) -> None:
    """A mapped file can't be written; an array in memory could, so that is what is asked here."""
    own = {"x": np.arange(20.0).reshape(10, 2)}
    whole, rows = fed(own, way), torch.tensor([3, 4, 5])
    for batch in (whole.take(rows), *whole.stream([rows])):
        batch["x"].fill_(-1)
    assert np.array_equal(own["x"], np.arange(20.0).reshape(10, 2))


def test_arrays_are_resident_up_to_the_limit(arrays: Arrays) -> None:
    size = sum(array.nbytes for array in arrays.values())
    assert not isinstance(feed(arrays, CPU, size), StreamingFeed)
    assert isinstance(feed(arrays, CPU, size - 1), StreamingFeed)


# --------------------------------------------------------------------------------------------------------------- the readers


@pytest.mark.parametrize("way", WAYS[1:])
def test_an_error_of_a_reader_comes_out_where_the_batch_is_due(arrays: Arrays, way: str) -> None:
    batches = [*order()[:60].split(4), torch.tensor([ROWS]), *order()[:40].split(4)]
    got: list[dict[str, Tensor]] = []
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        got.extend(fed(arrays, way).stream(batches))
    assert len(got) == 15
    assert readers() == []


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_consumer_that_stops_early_leaves_no_thread_behind(arrays: Arrays, way: str) -> None:
    stream = fed(arrays, way).stream(order().split(5))
    next(stream)
    assert readers()
    stream.close()  # type: ignore[attr-defined]
    assert readers() == []


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_consumer_that_fails_leaves_no_thread_behind(arrays: Arrays, way: str) -> None:
    def consume() -> None:
        for _ in fed(arrays, way).stream(order().split(5)):
            raise KeyError("not of the feed")

    with pytest.raises(KeyError):
        consume()
    assert readers() == []


def test_batches_are_asked_for_by_the_callers_thread_and_not_far_ahead(arrays: Arrays) -> None:
    """So that they may come from a generator that draws as it goes."""
    asked: list[threading.Thread] = []

    def batches() -> Iterator[Tensor]:
        for rows in order().split(5):
            asked.append(threading.current_thread())
            yield rows

    given_ = 0
    for _ in fed(arrays, "streaming").stream(batches()):
        given_ += 1
        assert len(asked) <= given_ + AHEAD
    assert given_ == 100
    assert set(asked) == {threading.current_thread()}


def test_several_batches_are_read_before_they_are_asked_for(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is finished before as many readers as there may be are at work."""
    together = threading.Barrier(module.READERS)
    whole = fed(arrays, "streaming")
    read = whole._read  # type: ignore[attr-defined]

    def slowly(rows: Tensor) -> Any:
        together.wait(60)
        return read(rows)

    monkeypatch.setattr(whole, "_read", slowly)
    batches = order()[: 5 * 2 * module.READERS].split(5)
    for rows, batch in zip(batches, whole.stream(batches), strict=True):
        same(batch, arrays, rows)


# ---------------------------------------------------------------------------------------------------------------- the kernel


class Advised:
    """Writes down what the kernel is told, and checks that it could be told."""

    def __init__(self, file: mmap.mmap, told: list[tuple[int, ...]]) -> None:
        self.file, self.told = file, told

    def madvise(self, *advice: int) -> None:
        self.told.append(advice)
        self.file.madvise(*advice)


def advice(arrays: Arrays, way: str, rows: Tensor) -> list[tuple[int, ...]]:
    told: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        original = module._Mapped.__init__
        patch.setattr(module._Mapped, "__init__", lambda self, file, *rest: original(self, Advised(file, told), *rest))  # type: ignore[arg-type]
        same(fed(arrays, way).take(rows), arrays, rows)
    return told


def test_the_kernel_is_told_of_files_beyond_memory_alone(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (64, 1, 32, 32), dtype=np.uint8)
    np.save(tmp_path / "image.npy", pictures)
    arrays = {"image": np.load(tmp_path / "image.npy", mmap_mode="r"), "memory": np.arange(64)}
    run, scattered = torch.arange(40, 9, -1), torch.tensor([5, 60, 2])
    assert advice(arrays, "streaming", run) == []
    assert advice(arrays, "beyond memory", scattered) == [(mmap.MADV_RANDOM,)]
    (random, (announced, start, length)) = advice(arrays, "beyond memory", run)
    assert random == (mmap.MADV_RANDOM,)
    assert announced == mmap.MADV_WILLNEED
    head = (tmp_path / "image.npy").stat().st_size - pictures.nbytes
    assert start == (head + 10 * 1024) // mmap.PAGESIZE * mmap.PAGESIZE
    assert start + length == head + 41 * 1024
