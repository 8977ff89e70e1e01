"""MLflow's server, Prefect's server and a worker on this machine, from the Procfile beside this file, run by honcho."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template

from honcho import manager as honcho
from honcho.environ import parse_procfile
from honcho.manager import Manager

from flows.credentials import ADMIN, COOKIES, PASSWORD, PREFECT, credentials, write_privately
from flows.health import wait_until_all_answer
from fuseline.errors import UserError
from fuseline.store import home
from fuseline.tracking.addresses import filled, parted
from fuseline.tracking.settings import Settings

PROCFILE = Path(__file__).with_name("Procfile")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLIENTS = "client.env"
"""The file in the home that says, while the servers are up, where they are and who may ask."""

WHO = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING")
UNSAFE = "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"

honcho.KILL_WAIT = 30  # what a worker runs may take 20 seconds to save its checkpoints


class Services(Manager):  # type: ignore[misc]
    """Processes of which the worker is stopped first: what it runs still has things to tell the servers."""

    asked = False

    def terminate(self) -> None:
        running = [name for name, its in self._processes.items() if "returncode" not in its]
        if not self.asked and "worker" in running and len(running) == len(self._processes) > 1:
            self.asked = True
            self._procmgr.terminate(self._processes["worker"]["pid"])
        else:  # when the worker has stopped, or something else has, or at the second signal
            super().terminate()


def run_services(settings: Settings, names: Sequence[str], auth: bool, ready: Callable[[dict[str, str]], None]) -> int:
    """Run servers and worker until a signal, or until one of them ends; the exit code.

    Args:
        settings: addresses and databases.
        names: of the processes in the Procfile, all if there are none.
        auth: whether MLflow and Prefect ask who is there.
        ready: told the addresses as soon as all answer.

    Raises:
        UserError: a name is not known, a port is taken, an address is missing, or others could come in without a password.
    """
    commands = parse_procfile(PROCFILE.read_text(encoding="utf-8")).processes
    chosen = {name: commands[name] for name in _known(names, list(commands))}
    _refuse_strangers(settings.ui.host, chosen, auth)
    _refuse_taken(settings, chosen)
    clients = client_variables(settings, chosen, auth)
    environments = {
        "mlflow": {**_common(settings), **mlflow_variables(settings, auth)},
        "prefect": {**_common(settings), **prefect_variables(settings, auth)},
        "worker": {**_common(settings), **clients},
    }
    services = Services()
    for name, command in chosen.items():
        services.add_process(name, command, env=_environment(settings, environments[name]))
    file = home() / CLIENTS
    file.unlink(missing_ok=True)  # of servers that were killed

    def tell() -> None:
        if wait_until_all_answer(clients, list(chosen)):
            write_privately(file, clients)
            ready({name: clients[address] for name, address in ADDRESSES.items() if name in chosen} | {"clients": str(file)})

    threading.Thread(target=tell, daemon=True).start()
    try:
        services.loop()
    finally:
        file.unlink(missing_ok=True)
    return services.returncode or 0


ADDRESSES = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": "PREFECT_API_URL", "worker": "PREFECT_API_URL"}


def client_variables(settings: Settings, chosen: Mapping[str, str], auth: bool) -> dict[str, str]:
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


def _environment(settings: Settings, changes: Mapping[str, str]) -> dict[str, str]:
    """Ours with changes, without what is for another process alone."""
    private = {ADMIN, PASSWORD, COOKIES, PREFECT, "PGPASSWORD", UNSAFE, *WHO}
    for uri in (settings.server.backend_store_uri, settings.prefect.database_uri):
        private.update(Template(uri).get_identifiers())
    return {**{name: value for name, value in os.environ.items() if name not in private}, **changes}


def _database(uri: str, driver: str) -> tuple[str, dict[str, str]]:
    """The address of a database without its password, and the variable by which PostgreSQL's clients are told the password."""
    address, name, password = parted(filled(uri))
    if name is not None:
        address = address.replace("://", f"://{name}@", 1)
    return address.replace("postgresql:", f"{driver}:", 1), {"PGPASSWORD": password} if password else {}


def _known(names: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is no process of the Procfile; choose from {', '.join(known)}.")
    return [name for name in known if name in names or not names]


def _refuse_strangers(host: str, chosen: Mapping[str, str], auth: bool) -> None:
    if host not in LOOPBACK and not auth and set(chosen) & {"mlflow", "prefect"}:
        raise UserError(f"mlflow.yml: ui.host: anybody could come in at {host}; use --auth, or 127.0.0.1.")


def _refuse_taken(settings: Settings, chosen: Mapping[str, str]) -> None:
    """Raises UserError where something listens already."""
    for name, field, port in (("mlflow", "ui.port", settings.ui.port), ("prefect", "prefect.port", settings.prefect.port)):
        if name in chosen:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((settings.ui.host, port))
                except OSError:
                    raise UserError(
                        f"mlflow.yml: {field}: port {port} is taken; stop what listens there, or name another."
                    ) from None
