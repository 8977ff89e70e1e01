"""``mlflow.yml``: tracking, registry and server settings, with a default that needs no server.

MLflow reads no such file itself; the key names are those that kedro-mlflow made known.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from fuseline.component import Part, explain
from fuseline.errors import UserError
from fuseline.terms import Name
from fuseline.tracking.addresses import anonymous, filled, holds_password
from fuseline.yaml12 import parse

FILE = Path("mlflow.yml")
LOCAL = "sqlite:///${FUSELINE_HOME}/mlflow.db"


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
    prefect: Prefect = Prefect()
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
    for field, text in _addresses(settings).items():
        if holds_password(text or ""):
            raise UserError(f"{file}: {field}: a password stands there; write ${{NAME}} for it and give it in the environment.")
    tracking = os.environ.get("MLFLOW_TRACKING_URI") or filled(settings.server.mlflow_tracking_uri)
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or filled(settings.server.mlflow_registry_uri or "")
    addresses = {"mlflow_tracking_uri": anonymous(tracking), "mlflow_registry_uri": anonymous(registry) or None}
    server = settings.server.model_copy(update=addresses)
    place = settings.tracking.model_copy(update={"artifact_location": filled(settings.tracking.artifact_location)})
    its = settings.signing
    signing = Signing(
        private_key=None if its.private_key is None else _beside(file, its.private_key),
        public_keys=tuple(_beside(file, key) for key in its.public_keys),
    )
    return settings.model_copy(update={"server": server, "tracking": place, "signing": signing})


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
    return str((file.parent / Path(filled(name)).expanduser()).absolute())


def _addresses(settings: Settings) -> dict[str, str | None]:
    return {
        "server.mlflow_tracking_uri": settings.server.mlflow_tracking_uri,
        "server.mlflow_registry_uri": settings.server.mlflow_registry_uri,
        "server.backend_store_uri": settings.server.backend_store_uri,
        "prefect.database_uri": settings.prefect.database_uri,
    }
