"""The Prefect server of our own: it boots, works, says nothing to strangers, and dies with its parent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

TELEMETRY = ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "MLFLOW_DISABLE_TELEMETRY")

PARENT = """
import sys
from flows.server import prefect_server, wait_until_up
with prefect_server() as address:
    wait_until_up(address)
    print(address, flush=True)
    sys.stdin.read()
"""


def serving(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def parent(tmp_path: Path, environment: Callable[..., dict[str, str]]) -> Any:
    """A process with a server of its own; the server's address and its process."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=environment(tmp_path / "home", PREFECT_API_URL=None, **dict.fromkeys(TELEMETRY)),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        (server,) = [p for p in psutil.Process(process.pid).children() if "uvicorn" in p.cmdline()]
        yield process, address, server
        if server.is_running():
            server.kill()
        process.kill()


def test_a_flow_and_its_tasks_run_on_it(ask: Callable[..., Any], bootstrap_run: Any) -> None:
    """With a fastapi too new for Prefect the server boots, and every flow dies."""
    assert bootstrap_run.finished.code == 0, bootstrap_run.finished.err
    run, *_ = ask("flow_runs/filter", flow_runs={"name": {"any_": ["bootstrap"]}}, sort="EXPECTED_START_TIME_ASC")
    tasks = ask("task_runs/filter", task_runs={"flow_run_id": {"any_": [run["id"]]}})
    assert {"plan", "train linear", "bank", "fuse iris", "evaluate", "package", "register"} <= {
        task["name"].rsplit("-", 1)[0] if task["name"][-4:-3] == "-" else task["name"] for task in tasks
    }
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    assert {frozenset(tag.split()[0] for tag in task["tags"]) for task in tasks} == {frozenset({"fuseline", "process"})}


def ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def blocks(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a process never sees a signal, by what the kernel says."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (mask,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:")]
    return bool(mask >> (number - 1) & 1)


def test_it_outlives_a_sigterm_dies_with_a_killed_parent_and_sends_no_telemetry(parent: Any, until: Callable[..., Any]) -> None:
    process, address, server = parent
    assert blocks(server, signal.SIGTERM)  # which may be sent to all processes of a service
    server.terminate()
    assert serving(address)
    with urllib.request.urlopen(f"{address}/admin/settings", timeout=30) as answer:
        settings = json.load(answer)
    assert settings["server"]["analytics_enabled"] is False
    assert {name: server.environ().get(name) for name in TELEMETRY} == dict(zip(TELEMETRY, ("1", "false", "true"), strict=True))
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: ended(server), "the server has died", 60)
    assert not serving(address)


def test_telemetry_is_off_unless_the_environment_says_otherwise(
    tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    code = (
        "import flows, fuseline.tracking, json, mlflow.telemetry, os;"
        "print(json.dumps([[os.environ[n] for n in NAMES], mlflow.telemetry.get_telemetry_client() is None]))"
    ).replace("NAMES", str(TELEMETRY))
    for chosen, expected in ((None, ["1", "false", "true"]), ("true", ["true"] * 3)):
        env = environment(tmp_path, **dict.fromkeys(TELEMETRY, chosen))
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == [expected, True]


def test_a_configured_address_is_used_and_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from flows.server import prefect_server

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with prefect_server() as address:
        assert address == "http://127.0.0.1:9/api"
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:9/api"
    assert not home.exists()


def test_a_server_that_does_not_answer_is_an_error_that_says_so(home: Path) -> None:
    from flows.server import wait_until_up
    from fuseline.errors import FuselineError

    with pytest.raises(FuselineError, match=r"127\.0\.0\.1:9/api does not answer"):
        wait_until_up("http://127.0.0.1:9/api", patience=0.2)
