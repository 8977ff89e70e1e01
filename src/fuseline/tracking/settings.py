"""``mlflow.yml``: tracking, registry and server settings, with a default that needs no server.

MLflow reads no such file itself; the key names are those that kedro-mlflow made known.
"""

from __future__ import annotations

import os
from pathlib import Path
from string import Template
from typing import Any

from pydantic import Field, ValidationError

from fuseline.component import Part, explain
from fuseline.errors import UserError
from fuseline.store import home
from fuseline.terms import Name
from fuseline.yaml12 import parse

FILE = Path("mlflow.yml")


class Server(Part):
    """The addresses of MLflow's tracking store and registry."""

    mlflow_tracking_uri: str = "sqlite:///${FUSELINE_HOME}/mlflow.db"
    mlflow_registry_uri: str | None = None


class Experiment(Part):
    """The experiment's name; without one, the recipe's."""

    name: Name | None = None


class Tracking(Part):
    """Where runs go, and where a new experiment keeps its files (unless a server decides)."""

    experiment: Experiment = Experiment()
    artifact_location: str = "${FUSELINE_HOME}/artifacts"


class Ui(Part):
    """Where ``fuseline ui`` shows MLflow's pages."""

    host: str = "127.0.0.1"
    port: int = Field(5000, ge=1, le=65535)


class Settings(Part):
    """All of ``mlflow.yml``."""

    server: Server = Server()
    tracking: Tracking = Tracking()
    ui: Ui = Ui()

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
    server = Server(
        mlflow_tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or _filled(settings.server.mlflow_tracking_uri),
        mlflow_registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or settings.server.mlflow_registry_uri,
    )
    tracking = Tracking(experiment=settings.tracking.experiment, artifact_location=_filled(settings.tracking.artifact_location))
    return Settings(server=server, tracking=tracking, ui=settings.ui)


def _filled(text: str) -> str:
    return Template(text).safe_substitute(FUSELINE_HOME=str(home()))
