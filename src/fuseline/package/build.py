"""Put the chosen fusion of every target together with the members it needs, as a package in the store."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuseline.bank import Bank
from fuseline.component import Component
from fuseline.errors import PackageError
from fuseline.fusion.combine import Combiner, Mixture
from fuseline.fusion.combiners import combiner_name
from fuseline.fusion.fuse import FusedTarget
from fuseline.fusion.rules import needs
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.network import NetworkSpec
from fuseline.package.coverage import fit_coverage
from fuseline.package.ensemble import Ensemble
from fuseline.package.files import FITTED, Description, MemberFile, TargetFile, assemble, save_ensemble
from fuseline.package.precision import decide
from fuseline.package.reference import reference_key, write_reference
from fuseline.plan import Plan
from fuseline.promotion.rows import fitted_rows
from fuseline.store import Store, code_version, content_key
from fuseline.threads import limited_to
from fuseline.training.messages import KIND
from fuseline.training.replica import load_network
from fuseline.training.train import load

RUNTIME = (
    "component",
    "data",
    "disk",
    "errors",
    "evaluation",
    "family",
    "fusion",
    "models",
    "package",
    "store",
    "terms",
    "threads",
)
"""The parts of fuseline that a packaged ensemble runs."""

REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "pydantic",
    "rtdl_num_embeddings",
    "safetensors",
    "tabm",
    "threadpoolctl",
    "torch",
)


def build_package(store: Store, plan: Plan, bank: Bank, fused: Sequence[FusedTarget]) -> tuple[Path, bool]:
    """The package's folder in the store, and whether it was there already.

    Its key is the hash of all that the package does: members, combiners, calibration and the code that runs them; of the rows
    that they were fitted on; and of the test rows that it keeps counts of. Which rules were compared, or what the recipe is
    called, does not count: the same ensemble is the same package.
    """
    kept = used(fused, len(bank.members))
    names = [bank.members[m] for m in kept]
    combiners = {part.target: only(part.winner.combiner, kept) for part in fused}
    replicas = {name: [job.key(plan.dataset) for job in plan.members[name]] for name in names}
    fitted = fitted_rows(plan.dataset, plan.split, plan.recipe.data.id is not None)
    needed = requirements([plan.members[name][0].spec.network.architecture.name for name in names])
    conformal = {part.target: fit_coverage(plan, bank, part) for part in fused}
    key = content_key(
        replicas=replicas,
        fused={part.target: _content(part, combiners[part.target]) for part in fused},
        conformal=conformal,
        threads=plan.recipe.training.threads,
        fitted=fitted,
        reference=reference_key(plan),
        versions=needed,
        code=code_version(*RUNTIME),
    )

    def build(folder: Path) -> None:
        networks, members = [], []
        for name in names:
            spec = plan.members[name][0].spec.network
            networks.append([_load(store, replica, plan, spec) for replica in replicas[name]])
            members.append(MemberFile(name=name, network=_without_files(spec), replicas=len(replicas[name])))
        description = Description(
            schema_=plan.dataset.schema,
            members=members,
            targets={
                part.target: TargetFile(
                    rule=part.chosen,
                    combiner=combiner_name(combiners[part.target]),
                    number=part.winner.number,
                    looks=sorted(needs(r for r in plan.fuse_spec(part.target).rules if r.name == part.chosen)),
                    conformal=conformal[part.target],
                )
                for part in fused
            },
            threads=plan.recipe.training.threads,
            batch=1,
            provenance={"data": plan.dataset.fingerprint, "code": code_version(*RUNTIME), "requirements": needed},
        )
        save_ensemble(_timed(description, plan, assemble(description, networks, combiners)), networks, combiners, folder)
        np.save(folder / FITTED, fitted)
        write_reference(plan, bank, fused, folder)

    return store.make("package", key, build)


def _timed(description: Description, plan: Plan, ensemble: Ensemble) -> Description:
    """With what is decided once, and read again by whoever loads the package."""
    batch = ensemble.members.rows(plan.dataset.schema)
    with limited_to(description.threads):
        inputs, _ = load(plan.dataset, np.arange(min(batch, len(plan.dataset))), torch.device("cpu"))
        precision = decide(ensemble, inputs)
    return description.model_copy(update={"batch": batch, "precision": precision})


def requirements(architectures: Sequence[str]) -> list[str]:
    """What a packaged ensemble of some architectures needs installed, in the versions it was made with."""
    names = [*REQUIREMENTS, *(["torchvision"] if any(ARCHITECTURES.borrowed(name) for name in architectures) else [])]
    names += ["torch_geometric"] if "graph" in architectures else []
    added = {ARCHITECTURES.requirement(name) for name in architectures}
    return [*(f"{name}=={version(name).split('+')[0]}" for name in names), *sorted(a for a in added if a is not None)]


def _without_files(spec: NetworkSpec) -> NetworkSpec:
    """A specification that no longer names the file which its weights started from: a package has its own."""
    settings = {name: None if name == "weights" else value for name, value in spec.architecture.settings.items()}
    return spec.model_copy(update={"architecture": Component(name=spec.architecture.name, settings=settings)})


def _load(store: Store, key: str, plan: Plan, spec: NetworkSpec) -> Any:
    folder = store.find(KIND, key)
    if folder is None:
        raise PackageError(f"replica {key} is no longer in the store; run the recipe again to make it anew")
    return load_network(folder, plan.dataset.schema, spec)


def used(fused: Sequence[FusedTarget], members: int) -> list[int]:
    """The positions of the members that any target's chosen fusion listens to: all of them, but for those of weight 0."""
    weights = [part.winner.combiner.mixing() for part in fused]
    return [m for m in range(members) if any(w is None or float(w[m]) > 0 for w in weights)]


def only(combiner: Combiner, kept: list[int]) -> Combiner:
    """A combiner for some of the members alone, the others having no weight; what serves no prediction is left behind."""
    weights = combiner.mixing()
    return combiner if weights is None else Mixture({"weights": weights[kept]})


def _content(part: FusedTarget, combiner: Combiner) -> list[Any]:
    tensors = {name: tensor.numpy() for name, tensor in combiner.tensors().items()}
    return [part.winner.name, combiner_name(combiner), part.winner.number, tensors]
