"""Prefect's artifacts: what is shown, and that nobody waits for them or fails with them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from threading import Event
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from fuseline.training.messages import Epoch, Progress
from tasks import artifacts
from tasks import members as member_tasks
from tasks.artifacts import Bar, unhindered
from tasks.members import train_member


@pytest.fixture(autouse=True)
def _at_home() -> None:
    """Nothing here needs a home, but where a test asks for one."""


class Prefect:
    """Stands in for Prefect's server: notes what it is told once it may, and fails as often as is wanted."""

    def __init__(self, failures: int = 0) -> None:
        self.made: list[dict[str, Any]] = []
        self.told: list[float] = []
        self.failures = failures
        self.called, self.may_answer = Event(), Event()
        self.may_answer.set()

    def create(self, **given: Any) -> Any:
        self._answer()
        self.made.append(given)
        return uuid4()

    def update(self, artifact: Any, *, progress: float) -> None:
        self._answer()
        self.told.append(progress)

    def _answer(self) -> None:
        self.called.set()
        assert self.may_answer.wait(60)
        if self.failures:
            self.failures -= 1
            raise httpx.ConnectError("All connection attempts failed")


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Prefect:
    its = Prefect()
    monkeypatch.setattr(artifacts, "create_progress_artifact", its.create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", its.update)
    monkeypatch.setattr(artifacts, "PATIENCE", 60)
    return its


def test_a_member_has_a_bar_of_its_own_that_ends_at_the_last_percent(prefect: Prefect) -> None:
    with Bar("Big_Net-1") as bar:
        for part in range(1001):
            bar.show(part / 10)
    assert [(its["key"], its["description"]) for its in prefect.made] == [("train-big-net-1", "Big_Net-1")]
    shown = [prefect.made[0]["progress"], *prefect.told]
    assert shown[-1] == 100
    assert all(later - earlier >= 1 for earlier, later in pairwise(shown[:-1]))


def test_nobody_waits_for_prefect_and_what_has_passed_is_not_told(prefect: Prefect) -> None:
    with Bar("a") as bar:
        assert prefect.called.wait(60)
        prefect.may_answer.clear()
        bar.show(10)
        for percent in range(10, 101):
            bar.show(percent)
        prefect.may_answer.set()
    assert prefect.told[-1] == 100
    assert len(prefect.told) <= 2


def test_a_bar_goes_on_when_prefect_is_back_and_warns_once(
    prefect: Prefect, caplog: pytest.LogCaptureFixture, until: Callable[..., Any]
) -> None:
    prefect.failures = 2
    with caplog.at_level(logging.WARNING), Bar("a") as bar:
        until(lambda: prefect.failures == 1, "it was told of the start")
        bar.show(1)
        until(lambda: not prefect.failures, "it was told of the first percent")
        bar.show(2)
    warned = [record.getMessage() for record in caplog.records]
    assert warned == ["Prefect's pages don't show how far a is: All connection attempts failed"]
    assert prefect.made[0]["progress"] == 2


def test_training_goes_on_while_prefect_is_away(
    stages: Any, prefect: Prefect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prefect.failures = 1000
    heard = []

    def train(job: Any, member: str, report: Any) -> Any:
        for epoch in (1, 2):
            report(Progress(member, 0, 2, Epoch(epoch, 1.0, None, 0.1, 0), 2))
            heard.append(epoch)
        return SimpleNamespace(trained=2, attempts=1)

    workers = SimpleNamespace(started=lambda job: True, train=train)
    monkeypatch.setenv("FUSELINE_HOME", str(stages.home))
    monkeypatch.setitem(member_tasks._workers, stages.plan.key, workers)
    with caplog.at_level(logging.WARNING):
        assert train_member.fn(stages.plan, "plain").trained == 2
    assert heard == [1, 2]
    assert len([record for record in caplog.records if "how far plain is" in record.getMessage()]) == 1


def test_what_prefect_can_not_show_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), unhindered("the leaderboard"):
        raise httpx.ReadTimeout("")
    assert [record.getMessage() for record in caplog.records] == ["Prefect's pages don't show the leaderboard: ReadTimeout"]
