"""A registered version behind HTTP: MLflow's own scoring server, on a private copy that was verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from flows.parent import die_with_parent
from flows.server import said_at
from fuseline.errors import FuselineError
from fuseline.tracking.settings import load_settings
from fuseline.tracking.versions import fetch

HOST = "127.0.0.1"
LOOK, PATIENCE, GRACE = 0.2, 300.0, 10.0
"""Seconds between two looks whether it answers, until it must answer, and that it has to end by itself."""


def serve(model: str, port: int, console: Console) -> None:
    """Serve a version on loopback until this process is told to end.

    Raises:
        UserError: there is no such version.
        PackageError: its files are not what was registered.
        FuselineError: the server ended by itself, or did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="fuseline-") as folder:  # its owner alone may read it
        version = fetch(load_settings(), model, Path(folder))
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(version.model)]
        command += ["--env-manager", "local", "--host", HOST, "--port", str(port)]
        process = subprocess.Popen(  # noqa: S603
            command,
            env={**os.environ, **ENVIRONMENT, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us, and the whole group of it ends with us
            preexec_fn=die_with_parent,
        )
        try:
            _wait_until_up(process, port)
            console.print(f"{version.name}/{version.version} answers at http://{HOST}:{port}/invocations", highlight=False)
            process.wait()
            raise FuselineError(f"the server on port {port} ended by itself (code {process.returncode}).")
        finally:
            _end(process)


ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONDONTWRITEBYTECODE": "1",  # the copy stays as it was verified
}
"""What MLflow's server is told; it looks for uvicorn along PATH, so that ours comes first there."""


def _wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if said_at(f"http://{HOST}:{port}/ping") is not None:
            return
        time.sleep(LOOK)
    raise FuselineError(f"the server on port {port} did not come up; its messages are above, and another port may be free.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
