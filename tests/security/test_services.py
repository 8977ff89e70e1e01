"""What ``fuseline up`` refuses, and what it lets each process know."""

from __future__ import annotations

import importlib
import pkgutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.credentials import ADMIN, COOKIES, PASSWORD, PREFECT, credentials
from flows.process_variables import client_variables, environment_of, mlflow_variables, prefect_variables
from flows.services import run_services
from fuseline.errors import UserError
from fuseline.tracking.settings import Settings, load_settings

NAMES = (ADMIN, PASSWORD, COOKIES, PREFECT)


@pytest.fixture(autouse=True)
def alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "x")  # so that it is as it was when the test has ended, whatever the test does
        monkeypatch.delenv(name)


def settings(text: str = "") -> Settings:
    Path("mlflow.yml").write_text(text)
    return load_settings()


def never(_: Any) -> None:
    raise AssertionError("it was started")


def test_others_come_in_with_a_password_alone(refusal: Callable[..., str]) -> None:
    sentence = refusal(UserError, run_services, settings("ui: {host: 0.0.0.0}"), [], False, never)
    assert "--auth" in sentence


def test_a_port_that_is_taken_is_named(refusal: Callable[..., str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = refusal(UserError, run_services, settings(f"prefect: {{port: {port}}}"), ["prefect"], False, never)
    assert f"prefect.port: port {port} is taken" in sentence


def test_a_process_that_is_not_known_is_named(refusal: Callable[..., str]) -> None:
    assert "mlflow, prefect, worker" in refusal(UserError, run_services, settings(), ["postgres"], False, never)


def test_a_worker_alone_is_told_where_the_servers_are(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert "PREFECT_API_URL" in refusal(UserError, run_services, settings(), ["worker"], False, never)


def test_secrets_are_made_once_and_for_the_owner_alone(home: Path, refusal: Callable[..., str]) -> None:
    made = credentials()
    assert set(made) == set(NAMES)
    assert min(len(made[name]) for name in (PASSWORD, COOKIES, PREFECT)) >= 32
    assert (home / "secrets.env").stat().st_mode & 0o777 == 0o600
    assert credentials() == made
    (home / "secrets.env").chmod(0o644)
    assert "chmod 600" in refusal(UserError, credentials)


def test_secrets_of_the_environment_are_used_and_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, f"planted for {name}")
    assert credentials() == {name: f"planted for {name}" for name in NAMES}
    assert not (home / "secrets.env").exists()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("server: {mlflow_tracking_uri: 'http://me:secret@host'}", "server.mlflow_tracking_uri"),
        ("server: {backend_store_uri: 'postgresql://me:secret@host/db'}", "server.backend_store_uri"),
        ("prefect: {database_uri: 'postgresql://me:se${X}cret@host/db'}", "prefect.database_uri"),
    ],
)
def test_a_password_in_the_file_is_refused(text: str, field: str, refusal: Callable[..., str]) -> None:
    Path("mlflow.yml").write_text(text)
    sentence = refusal(UserError, load_settings)
    assert field in sentence
    assert "secret" not in sentence


def test_a_databases_password_comes_from_the_environment_and_stays_out_of_its_address(
    monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    its = settings("server: {backend_store_uri: 'postgresql://me:${DB_SECRET}@host/db'}")
    assert "DB_SECRET" in refusal(UserError, mlflow_variables, its, False)
    monkeypatch.setenv("DB_SECRET", "planted")
    variables = mlflow_variables(its, True)
    assert variables["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://me@host/db"
    assert variables["PGPASSWORD"] == "planted"
    assert "planted" not in Path(variables["MLFLOW_AUTH_CONFIG_PATH"]).read_text()


def test_an_address_with_a_password_tells_it_to_mlflows_client_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pl%40nted@host:1")
    assert settings().server.mlflow_tracking_uri == "http://host:1"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://host:1"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "pl@nted")
    assert load_settings().server.mlflow_tracking_uri == "http://host:1"


def test_prefects_server_asks_only_where_it_was_told_to() -> None:
    open_, closed = prefect_variables(settings(), False), prefect_variables(settings(), True)
    assert PREFECT not in open_
    assert closed[PREFECT] == closed["PREFECT_API_AUTH_STRING"]
    for variables in (open_, closed):
        assert variables["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
        assert variables["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200"


@pytest.mark.parametrize("variable", ["MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"])
def test_a_proxys_address_is_named_and_not_everybodys(
    variable: str, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    monkeypatch.setenv(variable, "https://models.example")
    assert mlflow_variables(settings(), False)[variable] == "https://models.example"
    monkeypatch.setenv(variable, "*")
    assert variable in refusal(UserError, mlflow_variables, settings(), False)


def test_a_worker_alone_asks_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "MLFLOW_TRACKING_URI": "http://one",
        "PREFECT_API_URL": "http://two/api",
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "planted",
        "PREFECT_API_AUTH_STRING": "me:planted",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert client_variables(settings(), ["worker"], False) == given
    assert client_variables(settings(), ["worker"], True) == given


def test_a_workers_machine_needs_no_password_of_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    its = settings("server: {backend_store_uri: 'postgresql://me:${DB_SECRET}@host/db'}")
    assert "PGPASSWORD" not in environment_of("worker", its, {}, True)
    monkeypatch.setenv("DB_SECRET", "planted")
    assert "planted" not in environment_of("worker", its, {}, True).values()
    assert "DB_SECRET" not in environment_of("prefect", its, {}, False)


def decorated() -> Iterator[tuple[str, Any]]:
    """All flows and tasks of this application."""
    from prefect import Flow, Task

    for package in ("flows", "tasks"):
        for part in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if part.name != "engine":
                module = importlib.import_module(f"{package}.{part.name}")
                yield from ((f"{package}.{part.name}.{n}", o) for n, o in vars(module).items() if isinstance(o, Flow | Task))


def test_no_flow_or_task_persists_results() -> None:
    found = dict(decorated())
    assert {"flows.train.train", "tasks.plan.plan_run"} <= set(found)
    assert [name for name, its in found.items() if its.persist_result is not False] == []
