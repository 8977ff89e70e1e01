"""The registry: a package as an MLflow model, its versions, and their aliases."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType
from numpy.typing import NDArray

import fuseline
from fuseline.data.schema import Schema as DataSchema
from fuseline.store import home, locked
from fuseline.tracking.runs import Tracker

PACKAGE = "fuseline.package"
CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Registered:
    """A version in the registry, its aliases, and whether it was there already."""

    name: str
    version: int
    aliases: list[str]
    reused: bool


def register(
    tracker: Tracker,
    run_id: str,
    name: str,
    package: Path,
    schema: DataSchema,
    example: Callable[[], pd.DataFrame | NDArray[Any]],
    tags: Mapping[str, str],
    may_lead: bool,
) -> Registered:
    """Register a package as a new version with the alias ``challenger``; the first one that ``may_lead`` is ``champion`` too.

    A package that is registered already gets no new version, but the tags and aliases that it is due.

    Args:
        package: the package's folder; its name is the hash of all that it does.
        example: gives a few raw rows; asked for a new version alone.
        tags: what the version says of itself.
        may_lead: whether it clears the recipe's floors.
    """
    client = tracker.client
    with locked(home() / "locks" / f"registry-{name}.lock"):
        found = _find(tracker, name, package.name)
        if found is None:
            version = _new_version(tracker, run_id, name, package, schema, example(), tags)
        else:
            version = str(found.version)
            for tag, value in sorted(tags.items() - found.tags.items()):
                client.set_model_version_tag(name, version, tag, value)
        taken = _aliases(tracker, name)
        if found is None or CHALLENGER not in taken:
            client.set_registered_model_alias(name, CHALLENGER, version)
        if may_lead and CHAMPION not in taken:
            client.set_registered_model_alias(name, CHAMPION, version)
        held = sorted(alias for alias, holder in _aliases(tracker, name).items() if str(holder) == version)
        return Registered(name, int(version), held, found is not None)


def _find(tracker: Tracker, name: str, package: str) -> ModelVersion | None:
    versions = tracker.client.search_model_versions(f"name = '{name}' and tags.`{PACKAGE}` = '{package}'")
    return max(versions, key=lambda v: int(v.version)) if versions else None


def _aliases(tracker: Tracker, name: str) -> dict[str, Any]:
    return dict(tracker.client.get_registered_model(name).aliases)


def _new_version(
    tracker: Tracker,
    run_id: str,
    name: str,
    package: Path,
    schema: DataSchema,
    example: pd.DataFrame | NDArray[Any],
    tags: Mapping[str, str],
) -> str:
    client = tracker.client
    try:
        client.create_registered_model(name, tags={"fuseline": fuseline.__version__})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.create_logged_model(tracker.experiment, name, run_id, tags={PACKAGE: package.name})
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "model"
        save_model(package, schema, example, place)
        client.log_model_artifacts(model.model_id, str(place))
    client.finalize_logged_model(model.model_id, "READY")
    version = client.create_model_version(
        name,
        source=model.artifact_location,
        run_id=run_id,
        tags={PACKAGE: package.name, **tags},
        model_id=model.model_id,
    )
    return str(version.version)


def save_model(package: Path, schema: DataSchema, example: pd.DataFrame | NDArray[Any], place: Path) -> None:
    """Write a package as an MLflow model that carries its code: models-from-code, safetensors and JSON, no pickle."""
    from fuseline.package.files import load_description  # it loads torch, and most packages are registered already

    code = Path(fuseline.__file__).parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow asks for type hints; the signature says it all
        mlflow.pyfunc.save_model(
            str(place),
            python_model=str(code / "package" / "pyfunc_model.py"),
            artifacts={"ensemble": str(package)},
            code_paths=[str(code)],
            signature=signature(schema),
            input_example=example,
            pip_requirements=load_description(package).provenance["requirements"],
        )


def signature(schema: DataSchema) -> ModelSignature:
    """The model's inputs and outputs.

    Table columns may hold anything, since MLflow would refuse whole numbers where the training rows had fractions; the
    package itself checks every value and names the row and column that is wrong.
    """
    inputs: Schema
    if schema.image is not None:
        inputs = Schema([TensorSpec(np.dtype(schema.image_dtype), (-1, *schema.image))])
    else:
        inputs = Schema([ColSpec(AnyType(), name) for name in schema.columns])  # type: ignore[no-untyped-call]
    outputs: list[ColSpec | TensorSpec] = []
    for target, its in schema.targets.items():
        outputs += [ColSpec(TYPES[kind], column) for column, kind in its.answers(target)]
    return ModelSignature(inputs=inputs, outputs=Schema(outputs))


TYPES: dict[type, DataType] = {
    bool: DataType.boolean,
    int: DataType.long,
    float: DataType.double,
    str: DataType.string,
}
