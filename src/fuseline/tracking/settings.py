"""``mlflow.yml``: tracking, registry and server settings, with a default that needs no server.

MLflow reads no such file itself; the key names are those that kedro-mlflow made known.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field, ValidationError

from fuseline.component import Part, explain
from fuseline.errors import UserError
from fuseline.store import home
from fuseline.terms import Name
from fuseline.yaml12 import parse

FILE = Path("mlflow.yml")
LOCAL = "sqlite:///${FUSELINE_HOME}/mlflow.db"
PASSWORD = re.compile(r"://[^/@\s:]*:(?!\$\{\w+\}@)[^/@\s]+@")


class Server(Part):
    """The addresses of MLflow's tracking store and registry, and the database of the server that ``fuseline up`` starts."""

    mlflow_tracking_uri: str = LOCAL
    mlflow_registry_uri: str | None = None
    backend_store_uri: str = LOCAL


class Experiment(Part):
    """The experiment's name; without one, the recipe's."""

    name: Name | None = None


class Tracking(Part):
    """Where runs go, and where a new experiment keeps its files (unless a server decides)."""

    experiment: Experiment = Experiment()
    artifact_location: str = "${FUSELINE_HOME}/artifacts"


class Ui(Part):
    """Where ``fuseline ui`` and ``fuseline up`` show MLflow's pages; ``up`` shows Prefect's at the same host."""

    host: str = "127.0.0.1"
    port: int = Field(5000, ge=1, le=65535)


class Prefect(Part):
    """The server of Prefect that ``fuseline up`` starts."""

    port: int = Field(4200, ge=1, le=65535)
    database_uri: str = "sqlite:///${FUSELINE_HOME}/prefect.db"


class Settings(Part):
    """All of ``mlflow.yml``."""

    server: Server = Server()
    tracking: Tracking = Tracking()
    ui: Ui = Ui()
    prefect: Prefect = Prefect()

    @property
    def is_local(self) -> bool:
        """Whether runs go to a database and not through a server."""
        return not self.server.mlflow_tracking_uri.startswith("http")


def load_settings(file: Path = FILE) -> Settings:
    """Read ``mlflow.yml``, if it is there; the environment's addresses win.

    Raises:
        UserError: names the file and the key.
    """
    tree: Any = {}
    if file.is_file():
        try:
            tree = parse(file.read_text(encoding="utf-8")) or {}
        except ValueError as error:
            raise UserError(f"{file}: not readable as YAML 1.2: {error}.") from None
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}") from None
    for field, text in _addresses(settings).items():
        if PASSWORD.search(text or ""):
            raise UserError(f"{file}: {field}: a password stands there; write ${{NAME}} for it and give it in the environment.")
    tracking = os.environ.get("MLFLOW_TRACKING_URI") or filled(settings.server.mlflow_tracking_uri)
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or filled(settings.server.mlflow_registry_uri or "")
    addresses = {"mlflow_tracking_uri": _anonymous(tracking), "mlflow_registry_uri": _anonymous(registry) or None}
    server = settings.server.model_copy(update=addresses)
    place = settings.tracking.model_copy(update={"artifact_location": filled(settings.tracking.artifact_location)})
    return settings.model_copy(update={"server": server, "tracking": place})


def filled(text: str) -> str:
    """A text with each ``${NAME}`` replaced by what the environment says.

    Raises:
        UserError: the environment does not know a name.
    """
    try:
        return Template(text).substitute({**os.environ, "FUSELINE_HOME": str(home())})
    except KeyError as error:
        raise UserError(f"mlflow.yml: ${{{error.args[0]}}}: the environment has no such variable; set it.") from None
    except ValueError:
        raise UserError(f"mlflow.yml: {text!r}: a $ that is meant as such is written $$.") from None


def parted(address: str) -> tuple[str, str | None, str | None]:
    """An address without who asks, and who that is: name and password.

    >>> parted("http://me:a%2Fb@host:5000/api")
    ('http://host:5000/api', 'me', 'a/b')
    """
    parts = urlsplit(address)
    who, _, place = parts.netloc.rpartition("@")
    name, _, password = who.partition(":")
    return urlunsplit(parts._replace(netloc=place)) if who else address, unquote(name) or None, unquote(password) or None


def _addresses(settings: Settings) -> dict[str, str | None]:
    return {
        "server.mlflow_tracking_uri": settings.server.mlflow_tracking_uri,
        "server.mlflow_registry_uri": settings.server.mlflow_registry_uri,
        "server.backend_store_uri": settings.server.backend_store_uri,
        "prefect.database_uri": settings.prefect.database_uri,
    }


def _anonymous(address: str) -> str:
    """The address of a server; who asks goes where MLflow's client looks for it, so that no record can hold it."""
    if not address.startswith("http"):
        return address
    place, name, password = parted(address)
    for variable, value in (("MLFLOW_TRACKING_USERNAME", name), ("MLFLOW_TRACKING_PASSWORD", password)):
        if value is not None:
            os.environ[variable] = value
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        if os.environ.get(variable) == address:
            os.environ[variable] = place
    return place
