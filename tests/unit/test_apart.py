"""Functions in a process of their own: what they give, what they raise, how they end, and with whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fuseline.apart import apart, ending
from fuseline.errors import ProcessDied, RecipeError

CALLER = """
import sys
from fuseline.apart import apart
apart("subprocess:call", [sys.executable, "-c", {inner!r}])
"""
SLEEPER = """
import os, time
from pathlib import Path
Path({marker!r}).write_text(str(os.getppid()))
time.sleep(600)
"""


def test_it_gives_what_the_function_gives_and_runs_elsewhere() -> None:
    assert apart("os:getpid") != os.getpid()
    assert apart("posixpath:join", "a", "b") == "a/b"


def test_the_environment_is_that_of_the_caller_now(monkeypatch: pytest.MonkeyPatch) -> None:
    apart("os:getpid")  # the server stands
    monkeypatch.setenv("FUSELINE_HOME", "/somewhere/else")
    assert apart("fuseline.store:home") == Path("/somewhere/else")


def test_what_the_function_raises_is_raised_here() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        apart("os:stat", "/nowhere")


def test_a_user_s_mistake_stays_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe"):
        apart("fuseline.recipe:load_recipe", tmp_path / "none.yaml")


def test_a_process_that_dies_is_told_by_its_end() -> None:
    with pytest.raises(ProcessDied, match=r"^_exit: its process ended without a word \(code 3\)\.$"):
        apart("os:_exit", 3)
    assert ending(-signal.SIGSEGV) == "its process was killed by SIGSEGV"
    assert ending(-signal.SIGKILL) == "its process was killed by SIGKILL"
    with pytest.raises(
        ProcessDied, match=r"^raise_signal: its process was killed by SIGKILL, as the kernel does when memory runs"
    ):
        apart("signal:raise_signal", signal.SIGKILL)
    assert ending(-40) == "its process was killed by signal 40"  # a real-time signal, which has no name


def test_it_dies_with_its_caller(tmp_path: Path, until: Callable[..., Any]) -> None:
    marker = tmp_path / "pid"
    caller = subprocess.Popen([sys.executable, "-c", CALLER.format(inner=SLEEPER.format(marker=str(marker)))])
    children: list[psutil.Process] = []
    try:
        until(lambda: marker.exists() and marker.read_text(), "the function runs")
        worker = psutil.Process(int(marker.read_text()))
        children = worker.children()
        caller.kill()
        caller.wait()
        until(lambda: not worker.is_running(), "its process has ended")
    finally:
        for child in children:
            child.kill()
