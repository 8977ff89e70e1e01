"""Registered versions, found by name and brought here: a private copy that is verified before anything in it is used."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient, artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fuseline.errors import PackageError, UserError, first_line
from fuseline.package.trust import verify
from fuseline.tracking.client import connected
from fuseline.tracking.settings import Settings
from fuseline.tracking.tags import MANIFEST

REFERENCE = re.compile(r"(?P<name>[^@/]+)(@(?P<alias>[^@/]+)|/(?P<version>[1-9]\d*))")


@dataclass(frozen=True)
class Resolved:
    """A version in the registry, its aliases and tags, and the run that made it."""

    name: str
    version: int
    aliases: list[str]
    tags: Mapping[str, str]
    run_id: str


@dataclass(frozen=True)
class Fetched(Resolved):
    """A version whose files are here and verified: MLflow's ``model`` folder, the ``package`` of the ensemble within it, and what
    its manifest says of where it comes from."""

    package: Path
    model: Path
    provenance: Mapping[str, Any]


def resolve(settings: Settings, reference: str) -> Resolved:
    """The version that ``NAME@ALIAS`` or ``NAME/VERSION`` means.

    Raises:
        UserError: there is none; names those that there are.
    """
    client = connected(settings)
    return _resolved(client, _found(client, settings, reference))


def fetch(settings: Settings, reference: str, folder: Path) -> Fetched:
    """Bring a version's files into ``folder/model``, where their owner alone may read them, and verify them.

    Args:
        reference: ``NAME@ALIAS`` or ``NAME/VERSION``.
        folder: is made if need be, with the mode 0700; a ``model`` in it from before is removed.

    Raises:
        UserError: there is no such version, or its files can't be had.
        PackageError: they are not what was registered; they are removed again, and nothing of them was imported or parsed.
    """
    client = connected(settings)
    version = _found(client, settings, reference)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    place = folder / "model"
    shutil.rmtree(place, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as arriving:
            _download(client, settings, version, arriving).rename(place)
        manifest = verify(place, [Path(key) for key in settings.signing.public_keys], version.tags.get(MANIFEST))
    except PackageError as error:
        shutil.rmtree(place, ignore_errors=True)
        said = str(error).removeprefix(f"{place}: ")
        raise PackageError(f"{version.name}/{version.version}: {said}") from None
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    its = _resolved(client, version)
    return Fetched(**vars(its), package=place / manifest.package, model=place, provenance=manifest.provenance)


def _resolved(client: MlflowClient, version: ModelVersion) -> Resolved:
    aliases = client.get_registered_model(version.name).aliases
    held = sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))
    return Resolved(version.name, int(version.version), held, dict(version.tags), version.run_id or "")


def _found(client: MlflowClient, settings: Settings, reference: str) -> ModelVersion:
    wanted = REFERENCE.fullmatch(reference)
    if wanted is None:
        raise UserError(f"{reference!r} names no version of a model; write NAME@ALIAS, as wine@champion, or NAME/VERSION.")
    name = wanted["name"]
    try:
        model = _asked(client.get_registered_model, name)
        if model is None:
            known = [its.name for its in client.search_registered_models(max_results=20)]
            raise UserError(f"no model {name!r} is registered; {_choice(known)}.")
        number = wanted["version"] or model.aliases.get(wanted["alias"])
        if number is None:
            raise UserError(f"the model {name!r} has no alias {wanted['alias']!r}; {_choice(sorted(model.aliases))}.")
        version: ModelVersion | None = _asked(client.get_model_version, name, str(number))
        if version is None:
            numbers = sorted(int(its.version) for its in client.search_model_versions(f"name = '{name}'"))
            raise UserError(f"the model {name!r} has no version {number}; {_choice([str(its) for its in numbers])}.")
    except MlflowException as error:
        raise _unreachable(settings, error) from None
    return version


def _asked(question: Any, *names: str) -> Any:
    """What the registry answers; None where it knows no such thing."""
    try:
        return question(*names)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _choice(known: list[str]) -> str:
    return f"choose from {', '.join(known)}" if known else "there is none yet"


def _download(client: MlflowClient, settings: Settings, version: ModelVersion, folder: str) -> Path:
    server = settings.server
    try:
        source = client.get_logged_model(version.model_id).artifact_location if version.model_id else version.source
        arrived = artifacts.download_artifacts(
            artifact_uri=source,
            dst_path=folder,
            tracking_uri=server.mlflow_tracking_uri,
            registry_uri=server.mlflow_registry_uri,
        )
        return Path(arrived)
    except Exception as error:  # of whatever store the files are in
        text = f"the files of {version.name}/{version.version} can't be had ({first_line(error)})"
        raise UserError(f"{text}; see that MLflow's artifact store can be reached.") from None


def _unreachable(settings: Settings, error: Exception) -> UserError:
    from fuseline.tracking.deliver import without_secrets

    uri = without_secrets(settings.server.mlflow_tracking_uri)
    return UserError(f"MLflow at {uri} can't be asked ({first_line(error)}); see that mlflow.yml names the right one.")
