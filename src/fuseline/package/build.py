"""Put the chosen fusion of every target together with the members it needs, as a package in the store."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fuseline.bank import Bank
from fuseline.errors import PackageError
from fuseline.fusion.combine import combiner_name
from fuseline.fusion.fuse import FusedTarget
from fuseline.models.network import NetworkSpec
from fuseline.package.files import Description, MemberFile, TargetFile, save_ensemble
from fuseline.plan import Plan
from fuseline.store import Store, code_version, content_key
from fuseline.training.replica import KIND, load_network
from fuseline.training.train import EVALUATION_BATCH

RUNTIME = ("component", "data", "errors", "evaluation", "fusion", "models", "package", "store", "terms", "threads")
"""The parts of fuseline that a packaged ensemble runs."""

REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "threadpoolctl", "torch")


def build_package(store: Store, plan: Plan, bank: Bank, fused: Sequence[FusedTarget]) -> tuple[Path, bool]:
    """The package's folder in the store, and whether it was there already.

    Its key is the hash of all that the package does: members, combiners, calibration and the code that runs them. Which rules
    were compared, or what the recipe is called, does not count: the same ensemble is the same package.
    """
    replicas = {name: [job.key(plan.dataset) for job in plan.members[name]] for name in bank.members}
    key = content_key(
        replicas=replicas,
        fused={part.target: _content(part) for part in fused},
        threads=plan.recipe.training.threads,
        versions=requirements(),
        code=code_version(*RUNTIME),
    )

    def build(folder: Path) -> None:
        networks, members = [], []
        for name in bank.members:
            spec = plan.members[name][0].spec.network
            networks.append([_load(store, replica, plan, spec) for replica in replicas[name]])
            members.append(MemberFile(name=name, network=spec, replicas=len(replicas[name])))
        description = Description(
            schema_=plan.dataset.schema,
            members=members,
            targets={
                part.target: TargetFile(rule=part.chosen, combiner=combiner_name(part.winner.combiner), number=part.winner.number)
                for part in fused
            },
            threads=plan.recipe.training.threads,
            batch=EVALUATION_BATCH,
            provenance={"data": plan.dataset.fingerprint, "code": code_version(*RUNTIME), "requirements": requirements()},
        )
        save_ensemble(description, networks, {part.target: part.winner.combiner for part in fused}, folder)

    return store.make("package", key, build)


def requirements() -> list[str]:
    """What a packaged ensemble needs installed, in the versions it was made with."""
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def _load(store: Store, key: str, plan: Plan, spec: NetworkSpec) -> Any:
    folder = store.find(KIND, key)
    if folder is None:
        raise PackageError(f"replica {key} is no longer in the store; run the recipe again to make it anew")
    return load_network(folder, plan.dataset.schema, spec)


def _content(part: FusedTarget) -> list[Any]:
    won = part.winner
    return [won.name, combiner_name(won.combiner), won.number, {name: t.numpy() for name, t in won.combiner.tensors().items()}]
