"""MLflow's own pages, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys

from fuseline.errors import UserError
from fuseline.tracking.settings import Settings


def serve_ui(settings: Settings, port: int | None) -> int:
    """Run ``mlflow server`` on the local store until it is stopped; its exit code.

    Raises:
        UserError: runs go through a server, which has pages of its own.
    """
    address = settings.server.mlflow_tracking_uri
    if not settings.is_local:
        raise UserError(f"runs are tracked by the server at {address}; open that address in a browser.")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address, "--workers", "1"]
    command += ["--host", settings.ui.host, "--port", str(port or settings.ui.port)]
    command += ["--default-artifact-root", settings.tracking.artifact_location]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603
