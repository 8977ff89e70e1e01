"""The last thing done to a model's folder before it is registered: nothing of this machine is left in it, and it is sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import Model

from fuseline.package.trust import MODEL, seal
from fuseline.planned import Planned
from fuseline.report.environment import environment
from fuseline.store import content_key, read_json, sha256_of


def seal_model(place: Path, package: Path, plan: Path, private_key: str | None) -> str:
    """Take the paths of this machine out of a saved model, and write its manifest; signed, if there is a key.

    Args:
        place: the model's folder, as MLflow saved it.
        package, plan: the folders of the package and of the plan in the store.

    Returns:
        The sha256 of the manifest.
    """
    inside = f"artifacts/{package.name}"
    _without_paths(place / MODEL, inside)
    return seal(place, inside, provenance(package, plan), None if private_key is None else Path(private_key))


def _without_paths(file: Path, package: str) -> None:
    """MLflow notes where the model file and the package were taken from; what it loads are the copies beside this file."""
    model = Model.load(str(file))
    function = model.flavors["python_function"]
    function["model_code_path"] = Path(function["model_code_path"]).name
    function["artifacts"]["ensemble"]["uri"] = package
    model.save(str(file))


def provenance(package: Path, plan: Path) -> dict[str, Any]:
    """Where a package comes from: recipe, data, code, environment, and the keys of plan, split, shares and replicas."""
    its = Planned.open(plan)
    made = read_json(package / "ensemble.json")["provenance"]  # `package.files` would load torch
    replicas = {name: [replica.key for replica in replicas] for name, replicas in its.members.items()}
    return {
        "recipe": its.recipe.model_dump(mode="json"),
        "data": {"fingerprint": its.fingerprint, "origin": its.origin, "key": its.data},
        "code": made["code"],
        "plan": its.key,
        "package": package.name,
        "split": content_key(rows=sha256_of(plan / "split.parquet")),
        "partition": content_key(rows=sha256_of(plan / "partition.parquet")),
        "replicas": replicas,
        "requirements": made["requirements"],
        "environment": environment().splitlines(),
    }
