"""Devices: found, lent out one by one, and fed. GPUs are made up here; tests/gpu asks real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from fuseline import devices as module
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
from fuseline.errors import RecipeError

Gpus = Callable[[int], None]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    def pretend(count: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    return pretend


# ------------------------------------------------------------------------------------------------------------ what is there


@pytest.mark.parametrize(
    ("count", "wanted", "used", "devices"),
    [
        (0, "auto", "cpu", ["cpu"]),
        (0, "cpu", "cpu", ["cpu"]),
        (2, "cpu", "cpu", ["cpu"]),
        (2, "auto", "cuda", ["cuda:0", "cuda:1"]),
        (2, "cuda", "cuda", ["cuda:0", "cuda:1"]),
        (2, "cuda:1", "cuda:1", ["cuda:1"]),
    ],
)
def test_a_wish_stands_for_devices(gpus: Gpus, count: int, wanted: str, used: str, devices: list[str]) -> None:
    gpus(count)
    assert resolve(wanted) == used
    assert here(used) == devices


@pytest.mark.parametrize(("count", "wanted"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (2, "cuda:10")])
def test_a_gpu_that_is_not_there_is_refused(gpus: Gpus, refusal: Callable[..., str], count: int, wanted: str) -> None:
    gpus(count)
    said = refusal(RecipeError, resolve, wanted)
    assert said.startswith(f"training.device: {wanted!r} is not here; use 'cpu'")
    assert ("'cuda:1'" in said) == (count == 2)


def test_no_gpu_is_asked_for_where_workers_are_forked_from() -> None:
    """CUDA can't be used in a process that was forked from one that has asked for it."""
    script = """
import torch
def asked(*_): raise SystemExit("a GPU was asked for")
torch._C._cuda_getDeviceCount = torch.cuda._lazy_init = asked
import torch._dynamo
import fuseline.training.worker
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# ------------------------------------------------------------------------------------------------------------------ the seeds


@pytest.mark.parametrize("seed", [0, 7, 2**63])
def test_inside_a_seed_torch_draws_as_after_manual_seed(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.rand(5)
    before = torch.get_rng_state()
    with seeded(seed, "cpu"):
        assert torch.equal(torch.rand(5), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generators_are_restored_after_an_error_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1, "cpu"):
        torch.rand(1) @ torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_of_the_generator_draws_what_the_generator_would() -> None:
    with seeded(0, "cpu"):
        reseed(3, "cpu")
        torch.rand(4)
        copy = generator_now("cpu")
        expected = torch.rand(5)
        assert torch.equal(torch.rand(5, generator=copy), expected)


# ------------------------------------------------------------------------------------------------------------- the way there


def test_on_a_cpu_nothing_is_copied() -> None:
    x = torch.arange(6)
    assert send(x, "cpu") is x
    lane = Lane("cpu")
    assert lane.receive(lane.send({"x": x}))["x"] is x
    staged = lane.staging((2, 3), torch.uint8)
    assert (staged.shape, staged.dtype, staged.is_pinned()) == ((2, 3), torch.uint8, False)
    synchronise("cpu")


class Driver:
    """A made-up GPU that writes down what it is told, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.now = "main"
        self.main = SimpleNamespace(wait_event=lambda event: self.told.append(f"main waits for {event}"))
        patch.setattr("torch.cuda.current_device", lambda: 1)
        patch.setattr("torch.cuda.current_stream", lambda device: self.main)
        patch.setattr("torch.cuda.Stream", lambda device: SimpleNamespace(device=device, record_event=self.record))
        patch.setattr("torch.cuda.stream", self.inside)

    def record(self) -> str:
        self.told.append(f"event on {self.now}")
        return "event"

    @contextmanager
    def inside(self, stream: Any) -> Iterator[None]:
        self.now = f"side of {stream.device}"
        yield
        self.now = "main"

    def tensor(self, name: str) -> Any:
        def to(device: torch.device, non_blocking: bool) -> Any:
            self.told.append(f"{name} copied to {device} on {self.now}{', nobody waits' if non_blocking else ''}")
            return there

        def keep(stream: Any) -> None:
            self.told.append(f"{name} kept for {'main' if stream is self.main else 'another'}")

        there = SimpleNamespace(record_stream=keep)
        return SimpleNamespace(to=to)


def test_a_batch_is_copied_on_the_side_and_used_only_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    lane = Lane("cuda")
    assert lane.device == torch.device("cuda:1")  # the GPU of who made it, in whatever thread it is used
    sent = lane.send({"x": driver.tensor("x"), "y": driver.tensor("y")})
    side = "on side of cuda:1"
    copied = [f"{name} copied to cuda:1 {side}, nobody waits" for name in "xy"] + [f"event {side}"]
    assert driver.told == copied
    lane.receive(sent)
    assert driver.told[3:] == ["main waits for event", "x kept for main", "y kept for main"]


# ---------------------------------------------------------------------------------------------------------- what they can do


def test_free_memory_of_a_cpu_is_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=12345, free=1, total=99999))
    assert free_bytes("cpu") == 12345


def test_free_memory_of_a_gpu_counts_what_torch_holds_for_reuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 700)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 300)
    assert free_bytes("cuda:1") == 1400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni amx_tile\n", False),
        ("model name\t: a bf16 amx_bf16 machine\n", False),
        (None, False),
    ],
)
def test_only_units_for_bfloat16_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool) -> None:
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert has_bf16("cpu") is expected


def test_a_precision_is_that_of_products_inside() -> None:
    x = torch.ones(2, 2)
    with autocast("cpu", "float32"):
        assert (x @ x).dtype == torch.float32
    with autocast("cpu", "bfloat16"):
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32
    with pytest.raises(ValueError, match="float16"):
        autocast("cpu", "float16")


def test_a_machine_is_described_by_its_first_core_and_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: Gpus
) -> None:
    gpus(2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: f"gpu {i}")
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: fast\nflags\t: avx512_bf16\n\nmodel name\t: slow\nflags\t: sse\n")
    described = machine()
    assert (described["cpu"], described["bf16"], described["gpus"]) == ("fast", True, ["gpu 0", "gpu 1"])
    assert json.loads(json.dumps(described)) == described == machine()
    (tmp_path / "cpuinfo").unlink()
    assert machine()["cpu"]
