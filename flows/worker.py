"""A worker of the work pool ``fuseline``: Prefect's own, started once its server answers, and stopped after what it runs.

Prefect's worker kills the processes of its runs at once when it is told to stop. So they are told first: they save their
checkpoints and close their records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import psutil

from flows.parent import die_with_parent
from flows.server import wait_until_up

POOL = "fuseline"
PATIENCE = 25.0
"""Seconds that runs have to end in order; a little more than the training flow gives to its workers."""


class _Stopped(BaseException):
    pass


def main() -> None:
    """Run ``prefect worker start``, with this Python first on the path: deployments name their command as ``python``."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    wait_until_up(os.environ["PREFECT_API_URL"])
    start = ["worker", "start", "--pool", POOL, "--type", "process", "--install-policy", "never"]
    command = [sys.executable, "-m", "prefect", *start]
    worker = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent)  # noqa: S603
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        sys.exit(worker.wait())
    except _Stopped:
        _end_runs(worker.pid)
        worker.send_signal(signal.SIGINT)
        worker.wait()


def _stop(_: int, __: FrameType | None) -> None:
    for its in (signal.SIGTERM, signal.SIGINT):
        signal.signal(its, signal.SIG_IGN)  # who is in a hurry kills us, and with us the worker
    raise _Stopped


def _end_runs(worker: int) -> None:
    """Tell the runs of a worker to end, and wait until they have."""
    try:
        runs = [process for process in psutil.Process(worker).children() if "flows.engine" in process.cmdline()]
        for run in runs:
            run.terminate()
    except psutil.NoSuchProcess:
        return
    psutil.wait_procs(runs, timeout=PATIENCE)


if __name__ == "__main__":
    main()
