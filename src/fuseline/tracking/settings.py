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


class Signing(Part):
    """The key that signs new packages, and the keys of which one must have signed a package that is loaded.

    All are files; relative names are meant from where ``mlflow.yml`` is. Without ``public_keys`` a package need not be signed.
    """

    private_key: str | None = None
    public_keys: tuple[str, ...] = ()


class Settings(Part):
    """All of ``mlflow.yml``."""

    server: Server = Server()
    tracking: Tracking = Tracking()
    ui: Ui = Ui()
    signing: Signing = Signing()

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
    its = settings.signing
    signing = Signing(
        private_key=None if its.private_key is None else _beside(file, its.private_key),
        public_keys=tuple(_beside(file, key) for key in its.public_keys),
    )
    return settings.model_copy(update={"server": server, "tracking": tracking, "signing": signing})


def check_signing(signing: Signing) -> None:
    """
    Raises:
        UserError: a key that is named can't be used.
    """
    if signing.private_key is not None or signing.public_keys:
        from fuseline.package.signing import sign, trusted

        trusted([Path(key) for key in signing.public_keys])
        if signing.private_key is not None:
            sign(b"", Path(signing.private_key))


def _beside(file: Path, name: str) -> str:
    return str((file.parent / Path(_filled(name)).expanduser()).absolute())


def _filled(text: str) -> str:
    return Template(text).safe_substitute(FUSELINE_HOME=str(home()))
