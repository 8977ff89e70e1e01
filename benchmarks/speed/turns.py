"""Run the sides of a case in turns, each in a process of its own, and gather what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from speed.cases import Case, Side

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("side.py")
PEERS = ROOT / ".venv-peers" / "bin" / "python"
POLL = 0.01
"""Seconds between two looks at a process's memory."""

Found = dict[str, list[dict[str, float]]]
"""Per side what it said in each round."""


class BenchError(Exception):
    """A side that did not end well, or can't be run."""


def measure(case: Case, rounds: int, small: bool, tell: Callable[[str], None], scratch: Path | None = None) -> Found:
    """A case's measures: A B A B …, so that what else the machine does falls on all sides alike."""
    found: Found = {name: [] for name in case.sides}
    with tempfile.TemporaryDirectory(prefix="fuseline-bench-", dir=scratch) as made:
        folder = {"folder": made} if case.prepare is not None else {}
        if case.prepare is not None:
            tell(f"{case.name}: preparing")
            _run(case.prepare, folder, small, Path(made), watched=False)
        for number in range(rounds):
            for name, side in case.sides.items():
                said = _run(side, {**folder, "round": number}, small, Path(made), case.watched)
                found[name].append(said)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in list(said.items())[:4])
                tell(f"{case.name}, round {number + 1} of {rounds}: {name}: {shown}")
    return found


def _run(side: Side, more: dict[str, Any], small: bool, scratch: Path, watched: bool) -> dict[str, float]:
    settings = {**side.settings, **(side.small if small else {}), **more}
    python = PEERS if side.peers else Path(sys.executable)
    if not python.exists():
        raise BenchError(f"{side.function} needs the peers' environment; make it by `make peers`.")
    process = subprocess.Popen(  # noqa: S603
        [str(python), str(RUNNER), side.function, json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(scratch),
    )
    watch = _Watch(process.pid) if watched else None
    out, err = process.communicate()
    peak = {} if watch is None else {"gib": watch.stop() / 2**30}
    if process.returncode:
        raise BenchError(f"{side.function} ended with code {process.returncode}:\n{err[-3000:]}")
    said: dict[str, float] = json.loads(out.splitlines()[-1] or "null") or {}
    return {**said, **peak}


def environment(scratch: Path) -> dict[str, str]:
    """What a side's process is given: everything is kept in the case's own folder; no BLAS is told which kernels to use."""
    dropped = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    homes = {"FUSELINE_HOME": str(scratch / "home"), "PREFECT_HOME": str(scratch / "prefect")}
    return {**kept, **homes, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PYTHONWARNINGS": "ignore"}


class _Watch:
    """The largest RssAnon, in bytes, of a process and its children together, seen every ``POLL`` seconds."""

    def __init__(self, pid: int) -> None:
        self.peak, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, args=(psutil.Process(pid),))
        self._thread.start()

    def stop(self) -> int:
        self._end.set()
        self._thread.join()
        return self.peak

    def _look(self, process: psutil.Process) -> None:
        while not self._end.wait(POLL):
            try:
                pids = [process.pid, *(child.pid for child in process.children(recursive=True))]
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, sum(anonymous(pid) for pid in pids))


def anonymous(pid: int) -> int:
    """A process's anonymous memory in bytes; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
