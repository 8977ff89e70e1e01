"""MLflow can't be told: its server is down, or its database is locked. The run never fails for it, nor waits."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import EPOCHS, Site, steps, until


class MlflowServer:
    """MLflow's own server over SQLite, on one address, to be stopped and started."""

    def __init__(self, site: Site) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address, self.site = f"http://127.0.0.1:{self.port}", site
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        place = self.site.home
        place.mkdir(exist_ok=True)
        command = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(place / "artifacts"), "--host", "127.0.0.1", "--port", str(self.port)]
        environment = self.site.environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
        with (self.site.folder / "mlflow-server.txt").open("a") as out:
            self.process = subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=out)

    def wait_until_up(self) -> None:
        until(self._is_up, "MLflow's server answers")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.site.folder / "mlflow-server.txt").read_text()
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@pytest.fixture
def mlflow_server(site: Site) -> Iterator[MlflowServer]:
    """A server that is not started yet."""
    made = MlflowServer(site)
    yield made
    made.stop()


def test_tracking_server_down_in_the_middle(site: Site, mlflow_server: MlflowServer) -> None:
    """The server is stopped while a member learns, and started again when the run has ended; the next start delivers the rest:
    in order, once, with the times at which it happened."""
    mlflow_server.start()
    mlflow_server.wait_until_up()
    address = {"MLFLOW_TRACKING_URI": mlflow_server.address}
    going = site.train(faults={"b": ["block", 6]}, **address)
    going.wait_for(site.reached("b").exists, "the second epoch has begun")
    going.wait_for(site.is_known, "MLflow knows of the run")
    mlflow_server.stop()
    site.release("b")
    ended = going.finish()
    over = time.time_ns() // 1_000_000
    assert ended.summary["trained"] == 3
    assert ended.summary["tracking"] == "waiting"
    assert spooled(site)
    (parent,) = site.runs("train")
    assert parent.info.status == "RUNNING"

    mlflow_server.start()
    mlflow_server.wait_until_up()
    assert site.start("reconcile", **address).finish().code == 0
    check_delivered(site, ended.summary, ended.began, over)


def test_tracking_server_started_again_in_the_middle(site: Site, mlflow_server: MlflowServer) -> None:
    """It is down when the run begins and comes up while a member learns: all is delivered within the run."""
    going = site.train(faults={"b": ["block", 6]}, MLFLOW_TRACKING_URI=mlflow_server.address)
    going.wait_for(site.reached("b").exists, "the second epoch has begun")
    mlflow_server.start()
    mlflow_server.wait_until_up()
    going.wait_for(site.is_known, "MLflow knows of the run")
    site.release("b")
    ended = going.finish()
    assert ended.summary["tracking"] == "delivered"
    check_delivered(site, ended.summary, ended.began, time.time_ns() // 1_000_000)


def test_sqlite_locked(site: Site, undisturbed: Site) -> None:
    """Another process writes to MLflow's database for as long as the run lasts; the next start delivers."""
    site.copy_store(undisturbed)
    site.client()  # makes the database
    with sqlite3.connect(site.home / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = site.train().finish()
        over = time.time_ns() // 1_000_000
        assert ended.summary["tracking"] == "waiting"
        assert ended.summary["reused"] == 3
        other.execute("ROLLBACK")
    other.close()
    assert site.start("reconcile").finish().code == 0
    check_delivered(site, ended.summary, ended.began, over)


def spooled(site: Site) -> list[Path]:
    """The files of the spool in which something waits."""
    return [path for path in (site.home / "spool").rglob("*.jsonl") if path.stat().st_size]


def check_delivered(site: Site, summary: Any, began: int, over: int) -> None:
    """MLflow shows the run as it was: one run, finished within its own time, every member's epochs once."""
    (parent,) = site.runs("train")
    assert parent.info.status == "FINISHED"
    assert summary["run_id"] in (None, parent.info.run_id)  # MLflow's id is not known before MLflow gives one
    assert began <= parent.info.start_time <= parent.info.end_time <= over
    members = site.runs("member")
    assert sorted(run.info.run_name for run in members) == ["a", "b", "c"]
    for run in members:
        assert run.info.status == "FINISHED"
        assert began <= run.info.start_time <= run.info.end_time <= over
        assert steps(site.client(), run.info.run_id)["loss"] == list(range(1, EPOCHS + 1))
    assert len(site.runs("fusion")) == 2
    (version,) = site.client().search_model_versions(f"name = '{site.name}'")
    assert (version.run_id, version.status) == (parent.info.run_id, "READY")
