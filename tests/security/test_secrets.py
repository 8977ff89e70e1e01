"""Secrets reach no record: they are planted in the environment and in an address, and everything that is kept is searched."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import PLANTED, Servers

SECRETS = {name: value.rpartition(":")[2] for name, value in PLANTED.items()}


def holders(texts: Iterable[tuple[str, bytes]]) -> list[str]:
    """Which text holds which secret."""
    return [f"{name} in {place}" for place, text in texts for name, secret in SECRETS.items() if secret.encode() in text]


def files(folder: Path, without: str = "client.env") -> Iterable[tuple[str, bytes]]:
    """What is in a folder, but for the file that tells clients, on purpose, who may ask."""
    for file in folder.rglob("*"):
        if file.is_file() and file.name != without:
            yield str(file), file.read_bytes()


@pytest.fixture(scope="session")
def run_with_a_password_in_its_address(night: Any, servers: Servers) -> Any:
    """A run that is told of MLflow's server by an address with name and password."""
    name, password = servers.mlflow_user
    clients = {key: value for key, value in servers.clients.items() if not key.startswith("MLFLOW_TRACKING_")}
    address = servers.mlflow.replace("://", f"://{name}:{password}@")
    kept, servers.clients = servers.clients, clients
    try:
        return servers.command("run", "night.yaml", "--json", MLFLOW_TRACKING_URI=address)
    finally:
        servers.clients = kept


def test_a_password_in_an_address_is_understood_and_not_said(run_with_a_password_in_its_address: Any, servers: Servers) -> None:
    done = run_with_a_password_in_its_address
    assert done.returncode == 0, done.stderr
    assert '"tracking": "delivered"' in done.stdout
    assert holders([("output", (done.stdout + done.stderr).encode())]) == []


def test_no_secret_is_in_any_file(run_with_a_password_in_its_address: Any, servers: Servers) -> None:
    found = dict(files(servers.folder))
    assert {Path(name).name for name in found} >= {"up.log", "mlflow-auth.ini", "weights.safetensors", "report.json"}
    assert holders(found.items()) == []


@pytest.mark.parametrize(("database", "table"), [("mlflow", "params"), ("prefect", "flow_run")])
def test_no_secret_is_in_a_database(run_with_a_password_in_its_address: Any, servers: Servers, database: str, table: str) -> None:
    text = servers.dump(database)
    assert f"COPY public.{table} " in text
    assert "night" in text
    assert holders([(database, text.encode())]) == []


def test_who_may_ask_is_told_to_the_owner_alone(servers: Servers) -> None:
    file = servers.home / "client.env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert not (servers.home / "secrets.env").exists()  # all secrets were given by the environment


def test_prefect_keeps_no_results(night: Any, servers: Servers) -> None:
    """A forged record of a result would be run as code when it is read."""
    assert [file for file in (servers.folder / "prefect").rglob("*") if "storage" in file.parts and file.is_file()] == []
    assert night.state.data is None or not getattr(night.state.data, "storage_key", None)
