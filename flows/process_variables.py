"""What each process of ``fuseline up`` is told, by its environment: its own secrets, and no other's."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template

from flows.credentials import ADMIN, COOKIES, PASSWORD, PREFECT, credentials
from fuseline.errors import UserError
from fuseline.store import home
from fuseline.tracking.addresses import filled, parted
from fuseline.tracking.settings import Settings

WHO = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING")
UNSAFE = "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"


def environment_of(name: str, settings: Settings, clients: Mapping[str, str], auth: bool) -> dict[str, str]:
    """All that one of the processes is told: our environment, without what is for another one alone."""
    private = {ADMIN, PASSWORD, COOKIES, PREFECT, "PGPASSWORD", UNSAFE, *WHO}
    for uri in (settings.server.backend_store_uri, settings.prefect.database_uri):
        private.update(Template(uri).get_identifiers())
    if name == "worker":
        own = dict(clients)
    else:
        own = mlflow_variables(settings, auth) if name == "mlflow" else prefect_variables(settings, auth)
    return {**{name: value for name, value in os.environ.items() if name not in private}, **_common(settings), **own}


def client_variables(settings: Settings, chosen: Collection[str], auth: bool) -> dict[str, str]:
    """What a client needs to know: of servers that are started here, else what the environment says.

    Raises:
        UserError: a worker alone is not told where the servers are.
    """
    here = {
        "MLFLOW_TRACKING_URI": f"http://{settings.ui.host}:{settings.ui.port}",
        "PREFECT_API_URL": f"http://{settings.ui.host}:{settings.prefect.port}/api",
    }
    known = {}
    for name, variable in (("mlflow", "MLFLOW_TRACKING_URI"), ("prefect", "PREFECT_API_URL")):
        known[variable] = here[variable] if name in chosen else os.environ.get(variable, "")
        if not known[variable] and "worker" in chosen:
            raise UserError(f"a worker needs to know where the servers are; set {variable}.")
    known = {name: value for name, value in known.items() if value}
    known |= {name: os.environ[name] for name in WHO if os.environ.get(name)}
    if auth and "mlflow" in chosen:
        mine = credentials()
        known |= {"MLFLOW_TRACKING_USERNAME": mine[ADMIN], "MLFLOW_TRACKING_PASSWORD": mine[PASSWORD]}
    if auth and "prefect" in chosen:
        known["PREFECT_API_AUTH_STRING"] = credentials()[PREFECT]
    return known


def mlflow_variables(settings: Settings, auth: bool) -> dict[str, str]:
    """The environment of MLflow's server. No password stands in its command line."""
    place = f"{settings.ui.host}:{settings.ui.port}"
    address, password = _database(settings.server.backend_store_uri, "postgresql+psycopg")
    variables = {
        "MLFLOW_BACKEND_STORE_URI": address,
        "MLFLOW_ARTIFACTS_DESTINATION": settings.tracking.artifact_location,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": _named("MLFLOW_SERVER_ALLOWED_HOSTS", f"{place},localhost:{settings.ui.port}"),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": _named("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", f"http://{place}"),
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        **password,
    }
    if auth:
        users = home() / "mlflow-auth.ini"
        own = f"sqlite:///{home()}/mlflow-auth.db" if address.startswith("sqlite") else address
        lines = ["[mlflow]", "default_permission = READ", f"database_uri = {own.replace('%', '%%')}"]
        lines.append("auth_cache_ttl_seconds = 60")  # else each request, so each file of a model, waits for a slow hash
        users.parent.mkdir(parents=True, exist_ok=True)
        users.write_text("\n".join([*lines, ""]), encoding="utf-8")
        mine = credentials()
        variables |= {name: mine[name] for name in (ADMIN, PASSWORD, COOKIES)}
        variables |= {"MLFLOW_AUTH_CONFIG_PATH": str(users), "FUSELINE_MLFLOW_APP": "--app-name basic-auth"}
    return variables


def prefect_variables(settings: Settings, auth: bool) -> dict[str, str]:
    """The environment of Prefect's server: only its own pages may ask, and no other site's."""
    place = f"http://{settings.ui.host}:{settings.prefect.port}"
    address, password = _database(settings.prefect.database_uri, "postgresql+asyncpg")
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": address.replace("sqlite:", "sqlite+aiosqlite:", 1),
        "PREFECT_UI_API_URL": _named("PREFECT_UI_API_URL", f"{place}/api"),
        "PREFECT_SERVER_UI_API_URL": _named("PREFECT_UI_API_URL", f"{place}/api"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": _named("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", place),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        **password,
        **(
            {name: credentials()[PREFECT] for name in (PREFECT, "PREFECT_API_AUTH_STRING")} if auth else {}
        ),  # its services ask too
    }


def _named(variable: str, default: str) -> str:
    """What the environment says, for a proxy in front of the servers; but never everybody.

    Raises:
        UserError: it says ``*``.
    """
    text = os.environ.get(variable) or default
    if "*" in text:
        raise UserError(f"{variable}: '*' lets everybody in; name the hosts or addresses.")
    return text


def _common(settings: Settings) -> dict[str, str]:
    """What all processes know: where this is, and which Python runs it."""
    return {
        "FUSELINE_PYTHON": sys.executable,
        "FUSELINE_HOST": settings.ui.host,
        "FUSELINE_MLFLOW_PORT": str(settings.ui.port),
        "FUSELINE_PREFECT_PORT": str(settings.prefect.port),
        "FUSELINE_HOME": str(home()),
        "FUSELINE_FOLDER": str(Path.cwd()),
        "FUSELINE_MLFLOW_APP": "",
    }


def _database(uri: str, driver: str) -> tuple[str, dict[str, str]]:
    """The address of a database without its password, and the variable by which PostgreSQL's clients are told the password."""
    address, name, password = parted(filled(uri))
    if name is not None:
        address = address.replace("://", f"://{name}@", 1)
    return address.replace("postgresql:", f"{driver}:", 1), {"PGPASSWORD": password} if password else {}
