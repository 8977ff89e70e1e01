"""MLflow's server, Prefect's server and a worker on this machine, from the Procfile beside this file, run by honcho."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from honcho import manager as honcho
from honcho.environ import parse_procfile
from honcho.manager import Manager

from flows.credentials import write_privately
from flows.health import wait_until_all_answer
from flows.process_variables import client_variables, environment_of
from fuseline.errors import UserError
from fuseline.store import home
from fuseline.tracking.settings import Settings

PROCFILE = Path(__file__).with_name("Procfile")
ADDRESSES = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": "PREFECT_API_URL", "worker": "PREFECT_API_URL"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CLIENTS = "client.env"
"""The file in the home that says, while the servers are up, where they are and who may ask."""

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
    file = home() / CLIENTS
    file.parent.mkdir(parents=True, exist_ok=True)
    services = Services()
    for name, command in chosen.items():
        services.add_process(name, command, env=environment_of(name, settings, clients, auth))
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
