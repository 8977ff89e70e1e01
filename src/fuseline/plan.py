"""The plan: everything that a recipe and its data determine before anything is trained.

A plan is kept in the store, so that every later stage opens it by its folder and reads the same split, shares and
specifications.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fuseline.component import Component, complete, unknown
from fuseline.data import dataset as datasets
from fuseline.data.dataset import Dataset
from fuseline.data.split import ROLES, Split, split, strata, units
from fuseline.errors import RecipeError
from fuseline.evaluation.metrics import METRICS
from fuseline.fusion.fuse import FuseSpec
from fuseline.fusion.rules import ON_FEATURES, rules_for
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS, LOSSES
from fuseline.models.network import Network, NetworkSpec, parameters
from fuseline.partition import PARTITIONS, Pool, Share, Shares, check_shares, hold_out, overlap
from fuseline.recipe import Member, Recipe
from fuseline.seeding import MEMBERS, PARTITION, stream, torch_seed
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.threads import limited_to
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.optimizers import OPTIMIZERS, SCHEDULES
from fuseline.training.replica import ReplicaJob
from fuseline.training.train import TrainSpec, train
from fuseline.training.worker import MemberJob


@dataclass(frozen=True)
class Plan:
    """A checked recipe with its data, split, and per member what each replica is to be trained from."""

    key: str
    recipe: Recipe
    data: Path
    dataset: Dataset
    split: Split
    members: dict[str, list[ReplicaJob]]

    @classmethod
    def open(cls, folder: Path) -> Plan:
        meta = read_json(folder / "plan.json")
        data = folder.parents[1] / "data" / meta["data"]
        rows = np.load(folder / "shares.npz", allow_pickle=False)
        members = {
            name: [
                ReplicaJob(
                    TrainSpec.model_validate(replica["spec"]),
                    Share(*(rows[f"{name}/{k}/{use}"] for use in ("train", "holdout", "judged"))),
                    replica["seed"],
                )
                for k, replica in enumerate(replicas)
            ]
            for name, replicas in meta["members"].items()
        }
        split_ = Split(np.load(folder / "roles.npy"))
        return cls(folder.name, Recipe.model_validate(meta["recipe"]), data, datasets.read(data), split_, members)

    @property
    def units(self) -> NDArray[np.int64]:
        return units(self.dataset, self.recipe.data.split)

    def job(self, member: str, store: Store) -> MemberJob:
        return MemberJob(member, store.root, self.data, self.members[member])

    def fuse_spec(self, target: str) -> FuseSpec:
        recipe = self.recipe
        calibrated = recipe.calibration.method != "none"
        return FuseSpec(target, rules_for(recipe, target), recipe.fusion.folds, calibrated, recipe.seed, recipe.training.threads)

    def example(self, rows: int = 3) -> pd.DataFrame | NDArray[Any]:
        """A few raw training rows, as a packaged ensemble takes them."""
        index = self.split.rows("train")[:rows]
        return self.dataset.schema.decode({name: np.asarray(array[index]) for name, array in self.dataset.inputs.items()})

    def metric_names(self, target: str) -> list[str]:
        spec = self.recipe.targets[target]
        return spec.metrics or list(METRICS[spec.kind])


def make_plan(recipe: Recipe, store: Store) -> tuple[Plan, Path]:
    """Check a recipe against its data and divide the rows; the plan and its folder in the store.

    Raises:
        RecipeError, DataError: one sentence that says what is wrong and where.
    """
    dataset, _ = datasets.prepare(recipe.data, recipe.targets, store)
    _check_targets(recipe)
    for name in (answers := dataset.schema.answers):
        if answers.count(name) > 1:
            raise RecipeError(f"targets: two columns of the answer would be called {name!r}; rename a target.")
    split_ = split(dataset, recipe.data.split)
    specs = [_train_spec(recipe, i, dataset) for i in range(len(recipe.members))]
    partition = complete(recipe.partition, PARTITIONS, "partition")
    shares = _divide(recipe, partition, dataset, split_)
    _check_rows(recipe, dataset, split_, shares)
    members = _jobs(recipe, specs, shares)
    key = content_key(
        recipe=recipe,
        data=dataset.fingerprint,
        where=dataset.key,
        device=[spec.device for spec in specs],
        code=code_version("plan", "partition", "recipe", "seeding", "data", "models", "training"),
    )

    def build(folder: Path) -> None:
        np.save(folder / "roles.npy", split_.roles)
        np.savez(
            folder / "shares.npz",
            **{
                f"{name}/{k}/{use}": getattr(job.share, use)
                for name, jobs in members.items()
                for k, job in enumerate(jobs)
                for use in ("train", "holdout", "judged")
            },
        )
        meta = {name: [{"spec": j.spec, "seed": j.seed} for j in jobs] for name, jobs in members.items()}
        write_json(folder / "plan.json", {"recipe": recipe, "data": dataset.key, "members": meta})
        tables(dataset, split_, members, folder)
        write_json(folder / "statistics.json", statistics(dataset, split_, members))

    place, _ = store.make("plan", key, build)
    return Plan.open(place), place


def _check_targets(recipe: Recipe) -> None:
    for name, target in recipe.targets.items():
        rules_for(recipe, name)
        for metric in target.metrics or []:
            if metric not in METRICS[target.kind]:
                raise RecipeError(f"targets.{name}.metrics: the metric {unknown(metric, list(METRICS[target.kind]))}")
        judged = target.metrics or list(METRICS[target.kind])
        for metric in recipe.registry.floors.get(name, {}):
            if metric not in judged:
                raise RecipeError(f"registry.floors.{name}: the metric {unknown(metric, judged)}")


def _check_rows(recipe: Recipe, dataset: Dataset, split_: Split, shares: Shares) -> None:
    classes = {name: schema.width for name, schema in dataset.schema.targets.items() if schema.kind == "classification"}
    check_shares(shares, recipe.member_names, dataset.targets, classes)
    out_of_fold = all(len(share.judged) for replicas in shares for share in replicas)
    on_features = any(rule.name in ON_FEATURES for name in recipe.targets for rule in rules_for(recipe, name))
    held_out = len(split_.rows("fusion"))
    if held_out < recipe.fusion.folds and (on_features or not out_of_fold):
        why = "the rule 'features' learns from held-out rows only" if on_features else "fusions learn from them"
        raise RecipeError(f"data.split.fusion: {held_out} fusion rows are too few, and {why}; enlarge that share.")
    if recipe.calibration.method != "none" and not len(split_.rows("calibration")):
        raise RecipeError(
            "data.split.calibration: there are no calibration rows; enlarge that share or set calibration.method: none."
        )


def _train_spec(recipe: Recipe, position: int, dataset: Dataset) -> TrainSpec:
    entry: Member = recipe.members[position]
    field = f"members.{position}"
    losses, heads = {}, {}
    for name, target in recipe.targets.items():
        family = LOSSES[target.kind]
        losses[name] = complete(target.loss or Component(name=next(iter(family))), family, f"targets.{name}.loss")
        heads[name] = complete(target.head, HEADS, f"targets.{name}.head")
    network = NetworkSpec(architecture=complete(entry.architecture, ARCHITECTURES, f"{field}.architecture"), heads=heads)
    augment = [complete(a, AUGMENTATIONS, f"{field}.augment.{i}") for i, a in enumerate(entry.augment)]
    if augment and dataset.schema.image is None:
        raise RecipeError(f"{field}.augment: {augment[0].name!r} works on pictures, and the data are a table; remove it.")
    try:
        Network(dataset.schema, network)  # built once, to find settings that don't fit the data
    except (RecipeError, RuntimeError) as error:
        raise RecipeError(f"{field}.architecture: this does not fit the data: {str(error).rstrip('.')}.") from None
    device = recipe.training.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(f"training.device: {device!r} is not here; use 'cpu' or 'auto'.")
    return TrainSpec(
        network=network,
        losses=losses,
        weights={name: target.weight for name, target in recipe.targets.items()},
        epochs=entry.epochs,
        batch_size=entry.batch_size,
        optimizer=complete(entry.optimizer, OPTIMIZERS, f"{field}.optimizer"),
        schedule=complete(entry.schedule, SCHEDULES, f"{field}.schedule"),
        augment=augment,
        patience=None if entry.early_stopping is None else entry.early_stopping.patience,
        device=device,
        threads=recipe.training.threads,
    )


def _positions(recipe: Recipe) -> list[tuple[int, int]]:
    """Each member's entry in the recipe and its number within it."""
    return [(e, c) for e, entry in enumerate(recipe.members) for c in range(entry.count)]


def _divide(recipe: Recipe, partition: Component, dataset: Dataset, split_: Split) -> Shares:
    rows = split_.rows("train")
    pool = Pool(rows, strata(dataset, rows), units(dataset, recipe.data.split)[rows])
    positions = _positions(recipe)
    own = [np.random.default_rng(stream(recipe.seed, MEMBERS, e, c, 0)) for e, c in positions]
    common = np.random.default_rng(stream(recipe.seed, PARTITION))
    shares = PARTITIONS[partition.name](pool, own, common, **partition.settings)
    held: Shares = []
    for (e, c), replicas in zip(positions, shares, strict=True):
        stopping = recipe.members[e].early_stopping
        held.append(
            [
                share
                if stopping is None
                else hold_out(share, pool, stopping.holdout, np.random.default_rng(stream(recipe.seed, MEMBERS, e, c, k + 1, 0)))
                for k, share in enumerate(replicas)
            ]
        )
    return held


def _jobs(recipe: Recipe, specs: list[TrainSpec], shares: Shares) -> dict[str, list[ReplicaJob]]:
    return {
        name: [
            ReplicaJob(specs[e], share, torch_seed(stream(recipe.seed, MEMBERS, e, c, k + 1))) for k, share in enumerate(replicas)
        ]
        for name, (e, c), replicas in zip(recipe.member_names, _positions(recipe), shares, strict=True)
    }


def tables(dataset: Dataset, split_: Split, members: dict[str, list[ReplicaJob]], folder: Path) -> None:
    """Write who sees what, by row id: ``split.parquet`` (id, role) and ``partition.parquet`` (member, replica, use, id)."""
    roles = np.array([*ROLES, "excluded"])[split_.roles]
    pd.DataFrame({"id": dataset.ids, "role": roles}).to_parquet(folder / "split.parquet")
    parts = [
        pd.DataFrame({"member": name, "replica": k, "use": use, "id": dataset.ids[rows]})
        for name, jobs in members.items()
        for k, job in enumerate(jobs)
        for use, rows in (("train", job.share.train), ("holdout", job.share.holdout), ("judged", job.share.judged))
    ]
    pd.concat(parts, ignore_index=True).to_parquet(folder / "partition.parquet")


def statistics(dataset: Dataset, split_: Split, members: dict[str, list[ReplicaJob]]) -> dict[str, Any]:
    """Rows and balance per role and per member, the members' pairwise overlap, and their parameters."""
    shares = [[job.share for job in jobs] for jobs in members.values()]
    schema = dataset.schema
    return {
        "rows": len(dataset),
        "inputs": [f"pictures {schema.image}"] if schema.image else schema.columns,
        "excluded": len(split_.excluded),
        "roles": {role: {"rows": len(rows), **_balance(dataset, rows)} for role in ROLES for rows in [split_.rows(role)]},
        "members": {
            name: {
                "replicas": len(jobs),
                "rows": len(np.concatenate([job.share.train for job in jobs])),
                "holdout": len(np.concatenate([job.share.holdout for job in jobs])),
                "parameters": parameters(Network(dataset.schema, jobs[0].spec.network)),
                **_balance(dataset, np.concatenate([job.share.train for job in jobs])),
            }
            for name, jobs in members.items()
        },
        "overlap": overlap(shares).tolist(),
    }


def _balance(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Per classification target the rows of each class; per regression target mean and standard deviation."""
    balance: dict[str, Any] = {}
    for name, schema in dataset.schema.targets.items():
        values = np.asarray(dataset.targets[name])[rows]
        if schema.kind == "classification":
            counts = np.bincount(values, minlength=schema.width)
            balance[name] = {str(label): int(n) for label, n in zip(schema.classes, counts, strict=True)}
        elif len(values):
            balance[name] = {"mean": float(values.mean()), "deviation": float(values.std())}
    return {"balance": balance}


def rough_seconds(plan: Plan) -> dict[str, float]:
    """What training each member would take in one process, from two epochs of a few steps that are thrown away."""
    costs: dict[str, float] = {}
    known: dict[str, float] = {}
    with limited_to(plan.recipe.training.threads):
        for name, jobs in plan.members.items():
            spec = jobs[0].spec
            shape = spec.model_dump_json()
            if shape not in known:
                trial = spec.model_copy(update={"epochs": 2, "patience": None})
                rows = Share(jobs[0].share.train[: 4 * spec.batch_size])
                first, second = train(plan.dataset, trial, rows, 0).curve
                known[shape] = (second.at - first.at) / 1000 / len(rows.train)
            costs[name] = known[shape] * spec.epochs * sum(len(job.share.train) for job in jobs)
    return costs
