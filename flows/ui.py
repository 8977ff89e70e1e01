"""MLflow's own pages, on loopback."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from fuseline.errors import UserError
from fuseline.tracking.settings import Settings


def serve_ui(settings: Settings, port: int | None) -> NoReturn:
    """Become ``mlflow server`` on the local store.

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
    os.execve(sys.executable, command, environment)  # noqa: S606
