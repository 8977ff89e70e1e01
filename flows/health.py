"""Whether servers and worker answer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flows.server import said_at
from flows.worker import POOL

PATIENCE = 300.0
"""Seconds after which servers that don't answer are given up; new databases on a loaded machine take a minute."""


def wait_until_all_answer(clients: Mapping[str, str], names: Sequence[str], patience: float = PATIENCE) -> bool:
    """Ask each of ``mlflow``, ``prefect`` and ``worker`` until it answers, as a client would; whether all did."""
    end = time.monotonic() + patience
    waiting = [CHECKS[name] for name in names]
    while waiting and time.monotonic() < end:
        time.sleep(0.2)
        waiting = [check for check in waiting if not check(clients)]
    return not waiting


def _mlflow(clients: Mapping[str, str]) -> bool:
    return said_at(f"{clients['MLFLOW_TRACKING_URI']}/health") is not None


def _prefect(clients: Mapping[str, str]) -> bool:
    return said_at(f"{clients['PREFECT_API_URL']}/health") is not None


def _worker(clients: Mapping[str, str]) -> bool:
    """Whether the work pool has a worker: Prefect calls it ready then."""
    who = clients.get("PREFECT_API_AUTH_STRING")
    asking = {} if who is None else {"Authorization": "Basic " + base64.b64encode(who.encode()).decode()}
    text = said_at(f"{clients['PREFECT_API_URL']}/work_pools/{POOL}", asking)
    pool: dict[str, Any] = json.loads(text) if text is not None else {}
    return pool.get("status") == "READY"


CHECKS: dict[str, Callable[[Mapping[str, str]], bool]] = {"mlflow": _mlflow, "prefect": _prefect, "worker": _worker}
