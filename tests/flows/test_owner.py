"""Which process a run belongs to, by real processes."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import owner


def test_a_dead_process_that_nobody_asked_about_is_gone(until: Callable[..., Any]) -> None:
    """As the first process of many a container leaves them."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        its = f"{socket.gethostname()}/{process.pid}/{owner._started(process.pid)}"
        assert not owner.is_gone(its)
        process.kill()
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "it is dead")
        assert owner.is_gone(its)
    assert owner.is_gone(its)


def test_a_clock_that_is_set_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = owner.here()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    assert not owner.is_gone(mine)


def test_where_the_kernel_does_not_tell_the_clock_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "PROC", tmp_path)
    mine = owner.here()
    assert float(mine.rpartition("/")[2]) > 1e9
    assert not owner.is_gone(mine)
    assert owner.is_gone(mine + "1")
