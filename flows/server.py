"""A Prefect server of our own, for as long as a command runs, unless one is configured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from flows.parent import die_with_parent
from fuseline.errors import FuselineError
from fuseline.store import home

PATIENCE = 120.0
"""Seconds to wait for the server; a loaded machine with a new database needs about 20."""

IDLE = ("FOREMAN", "LATE_RUNS", "PAUSE_EXPIRATIONS", "SCHEDULER", "TRIGGERS")
"""Services without work in a server that lives as long as one run: no deployment is due, and no worker is waited for."""

END = signal.SIGINT
"""The signal that ends the server in order."""


@contextmanager
def prefect_server() -> Iterator[str]:
    """The address of Prefect's API: the configured one, or that of a server that is started now and ends with this process.

    The server is started at once and waited for at the end of :func:`wait_until_up`, so that other work can go on meanwhile.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the screen is for what a command says itself
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
            preexec_fn=partial(_die_with, os.getpid()),
        )
    os.environ["PREFECT_API_URL"] = address
    try:
        yield address
    finally:
        del os.environ["PREFECT_API_URL"]
        process.send_signal(END)
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
        if said_at(f"{address}/health") is not None:
            return
        time.sleep(0.05)
    raise FuselineError(f"Prefect's server at {address} does not answer; its messages are in {home() / 'prefect-server.log'}.")


def said_at(address: str, headers: Mapping[str, str] | None = None) -> str | None:
    """What a server says at an address; None if it does not answer, or not well."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=dict(headers or {})), timeout=5) as answer:  # noqa: S310
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with(parent: int) -> None:
    """Let nobody but our parent end this process: not somebody who sends SIGTERM to all processes. The kernel ends it
    when the parent dies, however it dies."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.signal(END, signal.SIG_DFL)
    die_with_parent(END)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
