"""A Prefect server of our own, for as long as a command runs, unless one is configured."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from fuseline.errors import FuselineError
from fuseline.store import home

PATIENCE = 120.0
"""Seconds to wait for the server; a loaded machine with a new database needs about 20."""

IDLE = ("FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "SCHEDULER", "TRIGGERS")
"""Services without work in a server that lives as long as one run: no deployment is due, and no worker is waited for."""


@contextmanager
def prefect_server() -> Iterator[str]:
    """The address of Prefect's API: the configured one, or that of a server that is started now and ends with this process.

    The server is started at once and waited for at the end of :func:`wait_until_up`, so that other work can go on meanwhile.
    """
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        yield configured
        return
    port = _free_port()
    address = f"http://127.0.0.1:{port}/api"
    log = home() / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "PREFECT_UI_API_URL": address,
        "PREFECT_SERVER_UI_API_URL": address,
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in IDLE},
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "flows.prefect_app:create_app", "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(  # noqa: S603
            [*command, "--host", "127.0.0.1", "--log-level", "warning"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for us: the server must outlive the flow's last message
            preexec_fn=_die_with_parent,
        )
    os.environ["PREFECT_API_URL"] = address
    try:
        yield address
    finally:
        del os.environ["PREFECT_API_URL"]
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_up(address: str, patience: float = PATIENCE) -> None:
    """Wait until the server at an address answers.

    Raises:
        FuselineError: it did not within ``patience`` seconds.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise FuselineError(f"Prefect's server at {address} does not answer; its messages are in {home() / 'prefect-server.log'}.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when our parent dies, however it dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
