"""MLflow's client for what is there already, since asking never makes a new, empty database; and how one is made."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from mlflow import MlflowClient

from fuseline.errors import UserError
from fuseline.tracking.settings import Settings

SQLITE = "sqlite:///"


def missing_database(settings: Settings) -> Path | None:
    """The file of the local database, if that is configured and not there."""
    uri = settings.server.mlflow_tracking_uri
    database = Path(uri.removeprefix(SQLITE).partition("?")[0])
    return database if uri.startswith(SQLITE) and not database.is_file() else None


def make_database(settings: Settings) -> None:
    """Make the local database, if it is not there. It is made beside its place and renamed, for MLflow never opens one in which a
    process was killed between two tables."""
    if (database := missing_database(settings)) is None:
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    unfinished = database.with_name(f".{database.name}.unfinished")
    for left in database.parent.glob(f"{unfinished.name}*"):
        left.unlink()
    MlflowClient(f"{SQLITE}{unfinished}", f"{SQLITE}{unfinished}")
    unfinished.replace(database)


def connected(settings: Settings) -> MlflowClient:
    """
    Raises:
        UserError: there is no such database.
    """
    if (database := missing_database(settings)) is not None:
        remedy = "run a recipe first, or see that mlflow.yml names the MLflow that the runs went to"
        raise UserError(f"there is no MLflow database {database}; {remedy}.")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SQLAlchemy has some for mlflow's tables when they are imported
        return MlflowClient(settings.server.mlflow_tracking_uri, settings.server.mlflow_registry_uri)
