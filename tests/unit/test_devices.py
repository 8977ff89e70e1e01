"""Devices: found, lent out one by one, and fed. GPUs are made up here; tests/gpu asks real ones."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuseline import devices as module
from fuseline.devices import (
    DeviceQueue,
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

PATIENCE = 60.0
"""Seconds after which a thread that should have been served is given up."""

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


# ----------------------------------------------------------------------------------------------------------------- the queue


class Watched(threading.Condition):
    """Says when somebody begins to wait, and lets the wait of a given thread be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.interrupted: set[str] = set()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.release()
        notified = super().wait(timeout)
        if threading.current_thread().name in self.interrupted:
            raise KeyboardInterrupt
        return notified


class Borrower(threading.Thread):
    """A thread that borrows a device and writes its own name down."""

    def __init__(self, queue: DeviceQueue, name: str, served: list[str]) -> None:
        super().__init__(name=name, daemon=True)
        self.queue, self.served = queue, served

    def run(self) -> None:
        try:
            with self.queue.lend():
                self.served.append(self.name)
        except KeyboardInterrupt:
            self.served.append(f"{self.name} gave up")


def waiting(queue: DeviceQueue, names: list[str]) -> tuple[list[Borrower], Watched, list[str]]:
    """Threads that wait in this order for a queue that has nothing to lend."""
    watched, served = Watched(), list[str]()
    queue._changed = watched
    threads = [Borrower(queue, name, served) for name in names]
    for thread in threads:
        thread.start()
        assert watched.begun.acquire(timeout=PATIENCE)
    return threads, watched, served


def end(threads: list[Any]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@given(st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(0, 20), max_size=30))
def test_the_least_loaded_is_lent_first_and_the_first_of_several(count: int, slots: int, steps: list[int]) -> None:
    """A number gives back the loan at that place if there are so many, and borrows otherwise."""
    names = [f"cuda:{i}" for i in range(count)]
    queue, loans = DeviceQueue(names, slots), list[tuple[str, ExitStack]]()
    for step in steps:
        if step < len(loans):
            loans.pop(step)[1].close()
        elif len(loans) < count * slots:
            load = Counter(device for device, _ in loans)
            stack = ExitStack()
            device = stack.enter_context(queue.lend())
            assert device == min(names, key=lambda name: (load[name], names.index(name)))
            loans.append((device, stack))
    for _, stack in loans:
        stack.close()


def test_all_slots_are_used_at_once_and_no_device_is_ever_overloaded() -> None:
    names, slots, threads = ["cuda:0", "cuda:1", "cuda:2"], 2, 36
    queue, lock, together = DeviceQueue(names, slots), threading.Lock(), threading.Barrier(len(names) * slots)
    load, most, served = Counter[str](), Counter[str](), Counter[str]()

    def work() -> None:
        with queue.lend() as device:
            with lock:
                load[device] += 1
                most[device] = max(most[device], load[device])
                served[device] += 1
            together.wait(PATIENCE)  # breaks unless all slots are lent at the same time
            with lock:
                load[device] -= 1

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    end(workers)
    assert not together.broken
    assert most == dict.fromkeys(names, slots)
    assert served.total() == threads


def test_who_waits_longest_is_served_first() -> None:
    queue, names = DeviceQueue(["gpu"], slots=1), [f"thread {i}" for i in range(8)]
    with queue.lend():
        threads, _, served = waiting(queue, names)
        assert served == []
    end(threads)
    assert served == names


def test_a_device_comes_back_from_a_thread_that_dies() -> None:
    queue, errors = DeviceQueue(["gpu"], slots=1), list[str]()

    def die() -> None:
        try:
            with queue.lend():
                raise MemoryError("too large")
        except MemoryError as error:
            errors.append(str(error))

    thread = threading.Thread(target=die)
    thread.start()
    end([thread])
    assert errors == ["too large"]
    with queue.lend() as device:
        assert device == "gpu"


def test_who_gives_up_does_not_hold_up_those_behind() -> None:
    queue = DeviceQueue(["gpu"], slots=1)
    with queue.lend():
        threads, watched, served = waiting(queue, ["first", "second", "third"])
        watched.interrupted = {"second"}
        with watched:
            watched.notify_all()
        end(threads[1:2])
        assert served == ["second gave up"]
    end(threads)
    assert served == ["second gave up", "first", "third"]


@pytest.mark.parametrize(("names", "slots"), [([], 1), (["cpu"], 0), (["cpu", "cpu"], 1)])
def test_a_queue_that_could_lend_nothing_is_refused(names: list[str], slots: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        DeviceQueue(names, slots)


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
