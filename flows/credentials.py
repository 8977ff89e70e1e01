"""Who may talk to the servers of ``fuseline up --auth``: made once, kept in a file that its owner alone may read."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from fuseline.errors import UserError
from fuseline.store import home

ADMIN, PASSWORD = "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"
COOKIES, PREFECT = "MLFLOW_FLASK_SERVER_SECRET_KEY", "PREFECT_SERVER_API_AUTH_STRING"


def credentials() -> dict[str, str]:
    """MLflow's administrator and cookie key, and Prefect's name and password: from the environment, else from the file, else new.

    Raises:
        UserError: others may read the file.
    """
    file = home() / "secrets.env"
    kept = _read(file)
    made = {ADMIN: "admin", PASSWORD: secrets.token_urlsafe(24), COOKIES: secrets.token_hex(32)}
    made[PREFECT] = f"admin:{secrets.token_urlsafe(24)}"
    mine = {name: kept.get(name, value) for name, value in made.items() if not os.environ.get(name)}
    if not mine.items() <= kept.items():
        write_privately(file, {**kept, **mine})
    return {name: os.environ.get(name) or mine[name] for name in made}


def write_privately(file: Path, variables: Mapping[str, str]) -> None:
    """Write variables as a file that a shell can read (``set -a; . FILE``), and its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    beside.replace(file)


def _read(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    if file.stat().st_mode & 0o077:
        raise UserError(f"{file}: others may read this file of passwords; chmod 600 it, and change the passwords.")
    lines = [line.partition("=") for line in file.read_text(encoding="utf-8").splitlines() if "=" in line]
    return {name: "".join(shlex.split(value)) for name, _, value in lines}
