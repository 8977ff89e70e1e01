"""Real servers for tests: PostgreSQL, and on it what ``fuseline up --auth`` starts; one set for a session of tests."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

FUSELINE = Path(sys.executable).with_name("fuseline")
MARK = "FUSELINE_SERVERS_OF_TESTS"
"""An environment variable that tells the processes of one set of servers from all others."""

PLANTED = {
    "MLFLOW_DB_PASSWORD": "planted-mlflow-database-0f3a",
    "PREFECT_DB_PASSWORD": "planted-prefect-database-1c7e",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "planted-mlflow-administrator-2b9d",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "planted-cookie-key-3d5f",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:planted-prefect-4e6a",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-5a8c",
}
"""Secrets of the environment that must not be found anywhere."""


def missing() -> list[str]:
    """The programs that are not installed here."""
    return [name for name, found in (("postgresql", binary("initdb")), ("chromium", shutil.which("chromium"))) if not found]


def binary(name: str) -> str | None:
    """A program of PostgreSQL, which Debian keeps off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else shutil.which(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, patience: float = 300.0) -> Any:
    """Wait for a condition and return what it gives; fail if it does not come true."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain: {what}")


@contextmanager
def postgresql(users: Mapping[str, str]) -> Iterator[int]:
    """A PostgreSQL server on loopback, with a user and a database of the same name for each password; its port."""
    import psycopg

    folder, port = Path(tempfile.mkdtemp(prefix="fuseline-pg-")), free_port()
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data = str(folder / "data")

    def call(*command: str | None) -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, **as_user)

    call(binary("initdb"), "-D", data, "-U", "owner", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
    call(binary("pg_ctl"), "-D", data, "-o", options, "-w", "-l", str(folder / "log"), "start")
    try:
        with psycopg.connect(host=str(folder), port=port, user="owner", dbname="postgres", autocommit=True) as connection:
            for user, password in users.items():
                connection.execute(f"create role {user} login password '{password}'")  # type: ignore[call-overload]
                connection.execute(f"create database {user} owner {user}")  # type: ignore[call-overload]
        yield port
    finally:
        call(binary("pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


class Servers:
    """``fuseline up --auth`` in a folder of its own, and clients of its servers."""

    def __init__(self, folder: Path, database_port: int) -> None:
        self.folder, self.home, self.database_port = folder, folder / ".fuseline", database_port
        ports = free_port(), free_port()
        self.mlflow, self.prefect = (f"http://127.0.0.1:{port}" for port in ports)
        database = f"postgresql://{{0}}:${{{{{{1}}}}}}@127.0.0.1:{database_port}/{{0}}"
        (folder / "mlflow.yml").write_text(
            f"server: {{backend_store_uri: '{database.format('mlflow', 'MLFLOW_DB_PASSWORD')}'}}\n"
            f"ui: {{port: {ports[0]}}}\n"
            f"prefect: {{port: {ports[1]}, database_uri: '{database.format('prefect', 'PREFECT_DB_PASSWORD')}'}}\n"
        )
        self.environment = {**os.environ, **PLANTED, MARK: str(folder), "PREFECT_HOME": str(folder / "prefect")}
        self.environment.pop("FUSELINE_HOME", None)
        self.log = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: dict[str, str] = {}

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [FUSELINE, "up", "--auth"], env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        file = self.home / "client.env"
        until(lambda: file.is_file() or self.process.poll() is not None, "the servers are up", 300)  # type: ignore[union-attr]
        assert file.is_file(), self.log.read_text()
        self.clients = dict(line.split("=", 1) for line in shlex.split(file.read_text()))

    def stop(self) -> int:
        """End them as Ctrl-C does; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def left(self) -> list[str]:
        """The processes that there are of these servers."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(shlex.join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def command(self, *arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
        """The real command, as a user in another shell runs it."""
        return subprocess.run(
            [FUSELINE, *map(str, arguments)],
            env={**self.environment, **self.clients, **changes},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,  # on a machine that is busy with other things
        )

    def told(self, *arguments: str | Path) -> Any:
        """What a command with ``--json`` says."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ask_mlflow(self, path: str, **query: Any) -> Any:
        """A GET request to MLflow's REST interface, as its administrator."""
        return json.loads(self.get(f"{self.mlflow}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}", *self.mlflow_user)[1])

    def runs(self, experiment: str) -> list[Any]:
        """All runs of an experiment, the newest first."""
        known = self.ask_mlflow("experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"]
        body = json.dumps({"experiment_ids": [known], "max_results": 1000}).encode()
        status, text = self.get(f"{self.mlflow}/api/2.0/mlflow/runs/search", *self.mlflow_user, body=body)
        assert status == 200, text
        return list(json.loads(text).get("runs", []))

    @property
    def mlflow_user(self) -> tuple[str, str]:
        return self.clients["MLFLOW_TRACKING_USERNAME"], self.clients["MLFLOW_TRACKING_PASSWORD"]

    @property
    def prefect_user(self) -> tuple[str, str]:
        name, _, password = self.clients["PREFECT_API_AUTH_STRING"].partition(":")
        return name, password

    def prefect_client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(f"{self.prefect}/api", auth_string=self.clients["PREFECT_API_AUTH_STRING"])

    def flow_runs(self, deployment: str) -> list[Any]:
        """Prefect's records of a deployment's runs, the earliest first; the coming ones of a schedule are among them."""
        from prefect.client.schemas.sorting import FlowRunSort

        with self.prefect_client() as client:
            known = client.read_deployment_by_name(deployment).id
            runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200)
            return [run for run in runs if run.deployment_id == known]

    @staticmethod
    def get(
        address: str, user: str | None = None, password: str = "", body: bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        """Status and text of a GET request, or of a POST request with a body."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        if user is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, sent), timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def dump(self, database: str) -> str:
        """All that a database holds, as text."""
        command = [binary("pg_dump") or "", "-h", "127.0.0.1", "-p", str(self.database_port), "-U", database, database]
        password = PLANTED[f"{database.upper()}_DB_PASSWORD"]
        return subprocess.run(
            command, env={**os.environ, "PGPASSWORD": password}, check=True, capture_output=True, text=True
        ).stdout
