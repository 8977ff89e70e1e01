"""What only a real GPU can show of fuseline.devices: copies that nobody waits for are whole, and generators come back."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fuseline.devices import (
    Lane,
    autocast,
    free_bytes,
    generator_now,
    has_bf16,
    here,
    machine,
    reseed,
    resolve,
    seeded,
    send,
    synchronise,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

BUSY = 4096
"""A product of such matrices keeps a GPU busy for longer than it takes to change what it is about to read."""


def busy(device: torch.device) -> torch.Tensor:
    x = torch.ones(BUSY, BUSY, device=device)
    for _ in range(20):
        x = (x @ x) / BUSY
    return x


def test_the_devices_that_are_there_are_found() -> None:
    assert resolve("auto") == "cuda"
    assert here("cuda") == [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    assert len(machine()["gpus"]) == torch.cuda.device_count()


def test_what_is_sent_may_be_changed_at_once() -> None:
    device = torch.device("cuda:0")
    x = torch.arange(1 << 22)
    expected = x.clone()
    busy(device)
    there = send(x, device)
    x.zero_()
    assert torch.equal(there.cpu(), expected)
    assert send(there, device) is there


def test_pinned_memory_is_not_used_again_before_it_is_copied() -> None:
    """Many tensors are sent and forgotten while the GPU is busy; each must arrive with its own value."""
    device = torch.device("cuda:0")
    busy(device)
    there = []
    for value in range(50):
        there.append(send(torch.full((1 << 18,), value), device))
        gc.collect()
    for value, tensor in enumerate(there):
        assert bool((tensor == value).all())


def test_batches_that_threads_send_arrive_whole_while_the_gpu_computes() -> None:
    """And memory that a batch leaves is not filled by the next before it has been read."""
    lane, count = Lane("cuda"), 40

    def read(value: int) -> object:
        staged = lane.staging((1 << 20,), torch.int64)
        staged.fill_(value)
        return lane.send({"x": staged})

    sums = []
    with ThreadPoolExecutor(4) as pool:
        for sent in pool.map(read, range(count)):
            batch = lane.receive(sent)  # type: ignore[arg-type]
            busy(lane.device)
            sums.append(batch["x"].sum())  # reads only after the work before it
            del batch
    assert [int(s) >> 20 for s in sums] == list(range(count))


def test_generators_are_seeded_inside_and_restored_on_every_gpu() -> None:
    torch.cuda.init()
    before = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    device = here("cuda")[-1]
    with seeded(5, device):
        assert torch.cuda.current_device() == torch.device(device).index
        first = torch.rand(4, device=device)
        reseed(5, device)
        copy = generator_now(device)
        assert torch.equal(torch.rand(4, device=device), first)
        assert torch.equal(torch.rand(4, device=device, generator=copy), first)
    after = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_free_memory_falls_by_what_is_taken_and_rises_again() -> None:
    device = "cuda:0"
    synchronise(device)
    before = free_bytes(device)
    x = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    taken = before - free_bytes(device)
    assert 1 << 28 <= taken < 1 << 30  # the driver's own needs may come on top
    del x
    assert free_bytes(device) >= before - taken + (1 << 28)


def test_products_have_the_precision_that_was_asked_for() -> None:
    x = torch.ones(2, 2, device="cuda")
    with autocast("cuda:0", "float32"):
        assert (x @ x).dtype == torch.float32
    if has_bf16("cuda:0"):
        with autocast("cuda:0", "bfloat16"):
            assert (x @ x).dtype == torch.bfloat16
