"""What a command shows besides its results: warnings, who has failed, and what MLflow refused."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from flows import mending, running
from flows.boards import show_mended, show_runs, show_summary
from flows.shell import warnings_shown

SCORE = {"accuracy": {"value": 0.9, "low": None, "high": None}}
SUMMARY: dict[str, Any] = {
    "promotion": "promoted",
    "promotion_reason": "It is the first version.",
    "run_id": "r1",
    "recipe": "tea",
    "members": [
        {"name": "a", "status": "trained", "metrics": {"kind": SCORE}},
        {"name": "b", "status": "failed", "metrics": {}, "reason": "out of memory"},
    ],
    "candidates": [{"rule": "mean", "metrics": {"kind": SCORE}}],
    "best": {"kind": "mean"},
    "registered": None,
    "tracking": "delivered",
    "refused": 0,
    "trained": 1,
    "reused": 0,
    "failed": 1,
}


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=120)


def shown(screen: Console) -> list[str]:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


@pytest.fixture
def mute() -> Iterator[None]:
    """As Prefect's logging is set up for the command: nothing below CRITICAL comes from the root logger."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, [logging.StreamHandler()]
    root.handlers[0].setLevel(logging.CRITICAL)
    yield
    root.handlers = before


def test_a_failed_member_has_a_row_and_a_reason(screen: Console) -> None:
    show_summary(SUMMARY, screen)
    lines = shown(screen)
    (row,) = [line for line in lines if "│ b " in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["b", "failed", "–"]
    assert "without b: out of memory" in lines
    assert "members: 1 trained, 0 reused, 1 failed; run r1" in lines


def test_what_mlflow_refused_is_said(screen: Console) -> None:
    show_summary(SUMMARY | {"refused": 2}, screen)
    show_mended({"prefect": [], "mlflow": [], "delivered": 0, "waiting": 0, "refused": 2}, screen)
    told = [line for line in shown(screen) if "refused" in line]
    assert len(told) == 2
    assert all(line.startswith("MLflow refused 2 of the records;") and "spool/refused.jsonl" in line for line in told)
    assert "all records are true" not in shown(screen)


def test_where_nothing_was_refused_nothing_is_said(screen: Console) -> None:
    show_summary(SUMMARY, screen)
    show_mended({"prefect": [], "mlflow": [], "delivered": 0, "waiting": 0, "refused": 0}, screen)
    assert "refused" not in "".join(shown(screen))
    assert shown(screen)[-1] == "all records are true"


def test_a_run_that_went_on_without_members_says_so_later(screen: Console) -> None:
    run = {"started": "now", "version": "tea/1", "targets": {"kind": {"rule": "mean", "metrics": SCORE}}}
    for failed in (0, 1):
        show_runs([run | {"members": {"trained": 1, "reused": 1, "failed": failed}}], screen)
    first, second = [line for line in shown(screen) if "tea/1" in line]
    assert (first.split("│")[3].strip(), second.split("│")[3].strip()) == ("2", "2 of 3")


@pytest.mark.usefixtures("mute")
@pytest.mark.parametrize("name", ["fuseline.tracking.deliver", "tasks.tracking", "flows.running"])
def test_our_warnings_are_shown_whatever_prefect_does_with_logs(
    screen: Console, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger(name)
    with warnings_shown(screen):
        logger.warning("MLflow refuses %s", "[it]")
        logger.info("not worth a word")
        logging.getLogger("another").warning("not ours")
    assert shown(screen) == ["warning: MLflow refuses [it]"]
    assert capsys.readouterr().err == ""
    assert logging.getLogger(name.partition(".")[0]).propagate
    logger.warning("nobody listens any more")
    assert len(shown(screen)) == 1


def test_what_can_not_be_mended_in_prefect_now_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def late() -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(mending, "mend_prefect", late)
    with caplog.at_level(logging.WARNING):
        running._mend_if_possible()
    (record,) = caplog.records
    assert record.getMessage() == "what earlier runs have left behind in Prefect is not mended now: no answer"
