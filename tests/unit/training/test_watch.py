"""Limits of a worker, by networks that keep none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuseline.errors import MemberFailed
from fuseline.recipe import Limits
from fuseline.store import locked
from fuseline.training import watch
from fuseline.training.replica import KIND
from fuseline.training.supervise import Done
from fuseline.training.watch import Watched
from fuseline.training.worker import End, Progress, UnitJob

Planned = Callable[..., Any]


def limited(planned: Any, member: str, **limits: Any) -> UnitJob:
    plan, store = planned
    return replace(plan.job(member, store), limits=Limits(**limits))


def nothing(message: Progress | End) -> None:
    """Nobody listens."""


def test_who_makes_no_step_for_too_long_hangs_and_is_tried_again(planned_odd: Planned, tmp_path: Path, crew: Any) -> None:
    job = limited(planned_odd("hang", tmp_path / "pid"), "hang", silent_minutes=0.03, retries=1, wait_seconds=0)
    with pytest.raises(MemberFailed) as caught:
        crew.train(job, "hang", nothing)
    assert str(caught.value) == "member 'hang': it made no step for 0.03 minutes (training.limits.silent_minutes), and 0 before"
    assert (caught.value.kind, caught.value.attempts) == ("hung", 2)


def test_who_makes_steps_without_an_end_of_an_epoch_does_not_hang(
    planned_odd: Planned, tmp_path: Path, until: Callable[..., Any]
) -> None:
    """A worker says once a second that it makes steps; one that is halted doesn't."""
    job = limited(planned_odd("linger", tmp_path / "never", epochs=100_000), "linger", silent_minutes=0.1)
    steps: list[int] = []
    with Watched(job, "cpu") as worker, ThreadPoolExecutor(1) as pool:
        take = worker._take

        def spy(message: Any, hear: Any) -> None:
            if isinstance(message, watch.Pulse):
                steps.append(message.steps)
            take(message, hear)

        worker._take = spy  # type: ignore[method-assign]
        end = pool.submit(worker.until_it_ends, nothing)
        until(lambda: len(steps) >= 3, "it has told of its steps three times")
        assert steps == sorted(set(steps))
        os.kill(worker._pid(), signal.SIGSTOP)
        assert end.result().kind == "hung"


def test_time_in_which_we_were_halted_does_not_count(
    planned_odd: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who presses Ctrl-Z over lunch finds the worker where it was."""
    job = limited(planned_odd("linger", tmp_path / "go on", epochs=3), "linger", minutes=60, silent_minutes=30)
    hours = count()
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: 3600.0 * next(hours)))
    with Watched(job, "cpu") as worker:
        assert worker.until_it_ends(lambda message: (tmp_path / "go on").touch()).reason.endswith("(code 0)")


def test_who_waits_for_another_run_neither_hangs_nor_takes_long(
    planned: Planned, crew: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    plan, store = planned()
    waited, ask = list[float](), watch.waits_for_a_lock
    monkeypatch.setattr(watch, "GLANCE", 0.05)
    with Watched(limited((plan, store), "mlp", silent_minutes=30, minutes=60), "cpu") as worker, ThreadPoolExecutor(1) as pool:

        def asked(pid: int) -> bool:
            if waits := ask(pid):
                waited.append(worker.seconds + worker._silent)
            return waits

        monkeypatch.setattr(watch, "waits_for_a_lock", asked)
        with locked(store.root / "locks" / f"{KIND}-{plan.members['mlp'][0].key(plan.dataset)}.lock"):
            end = pool.submit(worker.until_it_ends, nothing)
            until(lambda: len(waited) >= 5, "it was found waiting five times")
        assert end.result().reason.endswith("(code 0)")
    assert len(set(waited)) == 1


def test_who_takes_too_long_has_timed_out_and_is_not_tried_again(planned_odd: Planned, tmp_path: Path, crew: Any) -> None:
    job = limited(planned_odd("linger", tmp_path / "never", epochs=100_000), "linger", minutes=0.02, retries=2, wait_seconds=0)
    with pytest.raises(
        MemberFailed, match=r"member 'linger': it took longer than training\.limits\.minutes allows \(0\.02\)"
    ) as caught:
        crew.train(job, "linger", nothing)
    assert (caught.value.kind, caught.value.attempts) == ("timed out", 1)


def test_the_time_of_earlier_attempts_counts(planned_odd: Planned, tmp_path: Path) -> None:
    job = limited(planned_odd("linger", tmp_path / "never", epochs=100_000), "linger", minutes=60)
    with Watched(job, "cpu", spent=3601) as worker:
        assert worker.until_it_ends(nothing).kind == "timed out"
        assert worker.seconds > 3601


def test_who_holds_too_much_memory_is_ended(planned_odd: Planned, crew: Any) -> None:
    job = limited(planned_odd("eat"), "eat", memory_gib=1.25, retries=0)
    with pytest.raises(
        MemberFailed, match=r"member 'eat': its process held 1\.\d\d GiB, more than .*memory_gib allows \(1\.25\)"
    ) as caught:
        crew.train(job, "eat", nothing)
    assert (caught.value.kind, caught.value.attempts) == ("out of memory", 1)


def test_who_keeps_the_limits_is_left_alone(planned: Planned, crew: Any) -> None:
    job = limited(planned(), "mlp", minutes=10, silent_minutes=10, memory_gib=16)
    assert crew.train(job, "mlp", nothing) == Done(2, 1)


def test_what_it_told_before_it_died_is_heard(planned_odd: Planned) -> None:
    """All of it, though it is dead when we begin to listen."""
    plan, store = planned_odd("fail")
    heard: list[Any] = []
    with Watched(plan.job("fail", store), "cpu") as worker:
        worker._process.join()
        worker.until_it_ends(heard.append)
    assert [end.replica for end in heard] == [0, 1]
