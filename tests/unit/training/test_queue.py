"""Devices are lent out one by one, in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.training.queue import DeviceQueue

PATIENCE = 60.0
"""Seconds after which a thread that should have been served is given up."""


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
