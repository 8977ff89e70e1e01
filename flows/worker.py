"""A worker of the work pool ``fuseline``: Prefect's own, started once its server answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.server import wait_until_up

POOL = "fuseline"


def main() -> None:
    """Become ``prefect worker start``, with this Python first on the path: deployments name their command as ``python``."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    wait_until_up(os.environ["PREFECT_API_URL"])
    start = ["worker", "start", "--pool", POOL, "--type", "process", "--install-policy", "never"]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *start])  # noqa: S606


if __name__ == "__main__":
    main()
