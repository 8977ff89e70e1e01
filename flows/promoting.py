"""Promote from the command line: through the team's deployment, if there is one, else in this process."""

from __future__ import annotations

import time
from typing import Any

from flows.running import drain, without_collector
from flows.server import wait_until_up
from fuseline.errors import FuselineError
from fuseline.tracking.promote import Outcome, after_all
from fuseline.tracking.settings import load_settings


def run_promote(name: str, version: int, force: bool, reason: str | None, address: str) -> Outcome:
    """What became of a version, once Prefect's server at an address is up; raises what the flow raised."""
    with without_collector():
        from flows.mending import owned
        from flows.promote import promote, refuse_without_reason
        from tasks.promotion import DEPLOYMENT, is_deployed
    refuse_without_reason(force, reason)
    wait_until_up(address)
    if is_deployed():
        wanted = {"name": name, "version": version, "force": force, "reason": reason}
        return _through(DEPLOYMENT, wanted, name, version)
    try:
        with owned():
            return Outcome(**promote(name, version, force, reason))
    finally:
        drain()


def _through(deployment: str, wanted: dict[str, object], name: str, version: int) -> Outcome:
    """Wait until a worker has done it; its history says what."""
    from prefect.deployments import run_deployment

    since = time.time_ns() // 1_000_000
    run: Any = run_deployment(deployment, parameters=wanted, as_subflow=False)
    if run.state is None or not run.state.is_completed():
        said = "it has no state" if run.state is None else run.state.message or run.state.name
        raise FuselineError(f"{deployment} did not come to its end: {said}")
    return after_all(load_settings(), name, version, since)
