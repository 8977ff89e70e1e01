"""The registry: a package as an MLflow model, its versions, and their aliases."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType

import fuseline
from fuseline.apart import apart
from fuseline.data.schema import Schema as DataSchema
from fuseline.store import locked
from fuseline.tracking.delivery import Registered
from fuseline.tracking.records import Version
from fuseline.tracking.runs import Tracker
from fuseline.tracking.sealing import seal_model
from fuseline.tracking.tags import MANIFEST

PACKAGE = "fuseline.package"
NEW = "fuseline.new"
"""The tag of a version that has not got its alias yet."""

CHAMPION, CHALLENGER = "champion", "challenger"


def register(tracker: Tracker, run_id: str, wanted: Version) -> Registered:
    """Register a package as a new version, the ``challenger``; the first one that clears its floors becomes ``champion`` too.

    A package that is registered already gets no new version, but the tags and aliases that it is due.
    """
    client, name = tracker.client, wanted.name
    with locked(tracker.home / "locks" / f"registry-{name}.lock"):
        found = _find(tracker, wanted)
        if found is None:
            version = _new_version(tracker, run_id, wanted)
        else:
            version = str(found.version)
            for tag, value in sorted(wanted.tags.items() - found.tags.items()):
                client.set_model_version_tag(name, version, tag, value)
        fresh, taken = found is None or NEW in found.tags, _aliases(tracker, name)
        if fresh or CHALLENGER not in taken:
            client.set_registered_model_alias(name, CHALLENGER, version)
        if wanted.may_lead and CHAMPION not in taken:
            client.set_registered_model_alias(name, CHAMPION, version)
        if fresh:
            client.delete_model_version_tag(name, version, NEW)
        held = sorted(alias for alias, holder in _aliases(tracker, name).items() if str(holder) == version)
        return Registered(name, int(version), held, found is not None)


def _find(tracker: Tracker, wanted: Version) -> ModelVersion | None:
    versions = tracker.client.search_model_versions(
        f"name = '{wanted.name}' and tags.`{PACKAGE}` = '{Path(wanted.package).name}'"
    )
    return max(versions, key=lambda v: int(v.version)) if versions else None


def _aliases(tracker: Tracker, name: str) -> dict[str, Any]:
    return dict(tracker.client.get_registered_model(name).aliases)


def _new_version(tracker: Tracker, run_id: str, wanted: Version) -> str:
    client, name, package = tracker.client, wanted.name, Path(wanted.package)
    try:
        client.create_registered_model(name, tags={"fuseline": fuseline.__version__})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    own = {PACKAGE: package.name}
    begun = client.search_logged_models(  # by an attempt that did not come to its end
        [tracker.experiment], f"source_run_id = '{run_id}' and tags.`{PACKAGE}` = '{package.name}'"
    )
    model = begun[0] if begun else client.create_logged_model(tracker.experiment, name, run_id, tags=own)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "model"
        apart("fuseline.tracking.registry:save_model", package, Path(wanted.plan), place)
        own[MANIFEST] = seal_model(place, package, Path(wanted.plan), tracker.signing.private_key)
        client.log_model_artifacts(model.model_id, str(place))
    client.finalize_logged_model(model.model_id, "READY")
    version = client.create_model_version(
        name,
        source=model.artifact_location,
        run_id=run_id,
        tags={**own, **wanted.tags, NEW: "true"},
        model_id=model.model_id,
    )
    return str(version.version)


def save_model(package: Path, plan: Path, place: Path) -> None:
    """Write a package as an MLflow model that carries its code: models-from-code, safetensors and JSON, no pickle.

    It loads torch, and is called in a process of its own.
    """
    from fuseline.package.files import load_description
    from fuseline.plan import Plan

    code, description = Path(fuseline.__file__).parent, load_description(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow asks for type hints; the signature says it all
        mlflow.pyfunc.save_model(
            str(place),
            python_model=str(code / "package" / "pyfunc_model.py"),
            artifacts={"ensemble": str(package)},
            code_paths=[str(code)],
            signature=signature(description.schema_),
            input_example=Plan.open(plan).example(),
            pip_requirements=description.provenance["requirements"],
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
