"""The plan: everything that a recipe and its data determine before anything is trained.

A plan is kept in the store, so that every later stage opens it by its folder and reads the same split, shares and
specifications.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fuseline.component import Component, complete, unknown
from fuseline.data import dataset as datasets
from fuseline.data.dataset import Dataset
from fuseline.data.split import ROLES, Split, split, strata, units
from fuseline.devices import here, resolve
from fuseline.errors import DataError, RecipeError, TrainingError
from fuseline.evaluation.metrics import METRICS
from fuseline.fusion.fuse import FuseSpec
from fuseline.fusion.rules import needs, rules_for
from fuseline.models.network import blank, parameters
from fuseline.partition import PARTITIONS, Pool, Share, Shares, check_shares, coverage, expert_target, hold_out, overlap
from fuseline.recipe import Recipe
from fuseline.seeding import MEMBERS, PARTITION, stream, torch_seed
from fuseline.specs import train_spec
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.threads import limited_to
from fuseline.training.replica import ReplicaJob, stack_key
from fuseline.training.strategies import STRATEGIES
from fuseline.training.train import TrainSpec, train_together
from fuseline.training.units import TRIED, TrainingUnit, marked, plan_units, stacks
from fuseline.training.worker import UnitJob

_opening = threading.Lock()

USES = ("train", "holdout", "judged", "view", "own")
"""The parts of a share, as a plan keeps them."""


@dataclass(frozen=True)
class Plan:
    """A checked recipe with its data, split, and per member what each replica is to be trained from; ``after`` says which
    member another one must wait for."""

    key: str
    recipe: Recipe
    data: Path
    dataset: Dataset
    split: Split
    members: dict[str, list[ReplicaJob]]
    after: dict[str, str]
    training_units: list[TrainingUnit]

    @classmethod
    def open(cls, folder: Path) -> Plan:
        """A stored plan. One thread at a time: NumPy reads a file's header by Python's parser, which in CPython 3.11 may fail
        where two threads use it ("AST constructor recursion depth mismatch", python/cpython#106905)."""
        with _opening:
            return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> Plan:
        meta = read_json(folder / "plan.json")
        data = folder.parents[1] / "data" / meta["data"]
        rows = np.load(folder / "shares.npz", allow_pickle=False)
        members = {
            name: [
                ReplicaJob(
                    TrainSpec.model_validate(replica["spec"]),
                    Share(*(rows[f"{name}/{k}/{use}"] for use in USES)),
                    replica["seed"],
                    None if replica["strategy"] is None else Component.model_validate(replica["strategy"]),
                )
                for k, replica in enumerate(replicas)
            ]
            for name, replicas in meta["members"].items()
        }
        split_ = Split(np.load(folder / "roles.npy"))
        recipe = Recipe.model_validate(meta["recipe"])
        training_units = [TrainingUnit.model_validate(unit) for unit in meta["training_units"]]
        members = marked(_chained(members, meta["after"]), training_units)
        return cls(folder.name, recipe, data, datasets.read(data), split_, members, meta["after"], training_units)

    @property
    def units(self) -> NDArray[np.int64]:
        return units(self.dataset, self.recipe.data.split)

    def job(self, member: str, store: Store) -> UnitJob:
        """The training of the unit that a member belongs to."""
        names = next(unit.members for unit in self.training_units if member in unit.members)
        training = self.recipe.training
        jobs = {name: self.members[name] for name in names}
        return UnitJob(store.root, self.data, jobs, training.checkpoint_minutes, training.limits)

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
    partition = complete(recipe.partition, PARTITIONS, "partition")
    dataset, _ = datasets.prepare(recipe.data, recipe.targets, store, _group_column(partition))
    _check_targets(recipe)
    for name in (answers := dataset.schema.answers):
        if answers.count(name) > 1:
            raise RecipeError(f"targets: two columns of the answer would be called {name!r}; rename a target.")
    split_ = split(dataset, recipe.data.split)
    specs = [train_spec(recipe, i, dataset.schema) for i in range(len(recipe.members))]
    shares = _divide(recipe, partition, dataset, split_)
    _check_rows(recipe, dataset, split_, shares, specs)
    members = _jobs(recipe, specs, shares)
    training_units = plan_units(members, dataset, store, processes(recipe), recipe.training.stack, recipe.training.tune)
    members = marked(members, training_units)
    key = content_key(
        recipe=recipe,
        training_units=training_units,
        data=dataset.fingerprint,
        where=dataset.key,
        device=[spec.device for spec in specs],
        files=[spec.files for spec in specs],
        code=code_version("plan", "specs", "partition", "recipe", "seeding", "data", "models", "training"),
        plugin=PARTITIONS.version(partition.name),
    )

    def build(folder: Path) -> None:
        np.save(folder / "roles.npy", split_.roles)
        np.savez(
            folder / "shares.npz",
            **{
                f"{name}/{k}/{use}": getattr(job.share, use)
                for name, jobs in members.items()
                for k, job in enumerate(jobs)
                for use in USES
            },
        )
        meta = {
            name: [{"spec": j.spec, "seed": j.seed, "strategy": j.strategy, "key": j.key(dataset)} for j in jobs]
            for name, jobs in members.items()
        }
        crews = [{name: members[name] for name in unit.members} for unit in training_units]
        together = [[meta[name][k]["key"] for name, k, _ in part] for crew in crews for part in stacks(dataset, crew)]
        rest = {
            "members": meta,
            "after": _after(recipe),
            "training_units": training_units,
            "stacks": {stack_key(keys): keys for keys in together if len(keys) > 1},
        }
        write_json(folder / "plan.json", {"recipe": recipe, "data": dataset.key, **rest})
        tables(dataset, split_, members, folder)
        counted = statistics(dataset, split_, members)
        write_json(folder / "statistics.json", {**counted, "training_units": [unit.model_dump() for unit in training_units]})

    place, _ = store.make("plan", key, build)
    return Plan.open(place), place


def processes(recipe: Recipe) -> int:
    """How many workers run side by side: so many as the recipe says; else one for each GPU, or as many as there are cores for."""
    training = recipe.training
    device = resolve(training.device)
    return training.processes or (max(1, (os.cpu_count() or 1) // training.threads) if device == "cpu" else len(here(device)))


def _group_column(partition: Component) -> str | None:
    """The column that a partition rule goes by: its setting ``column``, of fuseline's own rules and of others."""
    column = partition.settings.get("column")
    return column if isinstance(column, str) else None


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


def _check_rows(recipe: Recipe, dataset: Dataset, split_: Split, shares: Shares, specs: list[TrainSpec]) -> None:
    classes = {name: schema.width for name, schema in dataset.schema.targets.items() if schema.exclusive}
    check_shares(shares, recipe.member_names, dataset.targets, classes)
    out_of_fold = all(len(share.judged) for replicas in shares for share in replicas)
    for member, replicas in zip(recipe.member_names, shares, strict=True):
        for target in recipe.targets:
            if any(len(dataset.known(target, share.train)) < 2 for share in replicas):
                text = f"partition: member {member!r} would get training rows that lack the target {target!r}"
                raise RecipeError(f"{text}; use fewer members, more data or another rule.")
    experts = any(len(share.own) for replicas in shares for share in replicas)
    known_to = expert_target(dataset.schema)
    if experts and known_to is not None and specs[0].losses[known_to].name == "ranked_probability":
        text = f"targets.{known_to}.loss: 'ranked_probability' needs every class in its place, and to an expert some are one"
        raise RecipeError(f"{text}; use 'cross_entropy', or by_class with 'rest: absent'.")
    on_features = any("features" in needs(rules_for(recipe, name)) for name in recipe.targets)
    unit = units(dataset, recipe.data.split)
    held_out = min(len(np.unique(unit[dataset.known(name, split_.rows("fusion"))])) for name in recipe.targets)
    if held_out < recipe.fusion.folds and (on_features or not out_of_fold):
        why = "rules that look at features learn from held-out rows only" if on_features else "fusions learn from them"
        raise RecipeError(f"data.split.fusion: {held_out} fusion rows or groups are too few, and {why}; enlarge that share.")
    for name, schema in dataset.schema.targets.items():
        for role in ("train", "test"):
            if not len(dataset.known(name, split_.rows(role))):
                text = f"{dataset.origin}: target {name!r} is missing in all {role} rows of its {schema.kind}"
                raise DataError(f"{text}; use more rows or a larger share.")
    if recipe.calibration.method != "none" and not len(split_.rows("calibration")):
        raise RecipeError(
            "data.split.calibration: there are no calibration rows; enlarge that share or set calibration.method: none."
        )


def _positions(recipe: Recipe) -> list[tuple[int, int]]:
    """Each member's entry in the recipe and its number within it."""
    return [(e, c) for e, entry in enumerate(recipe.members) for c in range(entry.count)]


def _divide(recipe: Recipe, partition: Component, dataset: Dataset, split_: Split) -> Shares:
    """Every member's shares. A member that is trained already has part in no division: who knows what it has seen?"""
    rows = np.unique(np.concatenate([dataset.known(target, split_.rows("train")) for target in recipe.targets]))
    pool = Pool(rows, strata(dataset, rows), units(dataset, recipe.data.split)[rows], dataset)
    positions = _positions(recipe)
    learning = [(e, c) for e, c in positions if recipe.members[e].trained is None]
    own = [np.random.default_rng(stream(recipe.seed, MEMBERS, e, c, 0)) for e, c in learning]
    common = np.random.default_rng(stream(recipe.seed, PARTITION))
    dealt = PARTITIONS[partition.name](pool, own, common, **partition.settings) if learning else []
    shares = dict(zip(learning, dealt, strict=True))
    return [
        [_held_out(recipe, e, c, k, shares, pool) for k in range(len(shares[e, c]))] if (e, c) in shares else [Share(pool.rows)]
        for e, c in positions
    ]


def _held_out(recipe: Recipe, e: int, c: int, replica: int, shares: Mapping[tuple[int, int], list[Share]], pool: Pool) -> Share:
    """A share without its rows for early stopping. Snapshots of one run hold out the same rows of all that the run sees: each
    starts from what those before it have learnt."""
    entry, share = recipe.members[e], shares[e, c][replica]
    if entry.early_stopping is None:
        return share
    one_run = entry.strategy is not None and entry.strategy.name == "snapshot"
    address = (recipe.seed, MEMBERS, e, 0 if one_run else c, replica + 1, 0)
    whole = np.unique(np.concatenate([shares[e, i][replica].train for i in range(entry.count)])) if one_run else share.train
    aside = hold_out(Share(whole), pool, entry.early_stopping.holdout, np.random.default_rng(stream(*address))).holdout
    train = share.train[~np.isin(share.train, aside)]
    return replace(share, train=train, holdout=aside[np.isin(aside, share.train)])


def _jobs(recipe: Recipe, specs: list[TrainSpec], shares: Shares) -> dict[str, list[ReplicaJob]]:
    jobs = {}
    for name, (e, c), replicas in zip(recipe.member_names, _positions(recipe), shares, strict=True):
        rule = recipe.members[e].strategy
        strategy = None if rule is None else complete(rule, STRATEGIES, f"members.{e}.strategy")
        seeds = [torch_seed(stream(recipe.seed, MEMBERS, e, c, k + 1)) for k in range(len(replicas))]
        jobs[name] = [ReplicaJob(specs[e], share, seed, strategy) for share, seed in zip(replicas, seeds, strict=True)]
    chained = _chained(jobs, _after(recipe))
    pairs = [(name, job, before) for name, its in chained.items() for job in its for before in job.before]
    for name, job, before in pairs:
        if np.isin(job.share.judged, np.concatenate([before.share.train, before.share.holdout])).any():
            text = f"partition: {name!r} would judge rows that a member which it follows has learnt from"
            raise RecipeError(f"{text}; use a rule that gives both the same folds.")
    return chained


def _after(recipe: Recipe) -> dict[str, str]:
    """Which member each one must wait for, where a strategy makes it follow another."""
    positions = list(zip(recipe.member_names, _positions(recipe), strict=True))
    return {name: positions[i - 1][0] for i, (name, (e, c)) in enumerate(positions) if c and recipe.members[e].strategy}


def _chained(members: dict[str, list[ReplicaJob]], after: dict[str, str]) -> dict[str, list[ReplicaJob]]:
    """The jobs with those that they follow, replica by replica."""
    done: dict[str, list[ReplicaJob]] = {}
    for name, jobs in members.items():
        earlier = done.get(after.get(name, ""), [])
        done[name] = [replace(j, before=(*b.before, b)) for j, b in zip(jobs, earlier, strict=True)] if earlier else jobs
    return done


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
                "parameters": parameters(blank(dataset.schema, jobs[0].spec.network)),
                **_balance(dataset, np.concatenate([job.share.train for job in jobs])),
            }
            for name, jobs in members.items()
        },
        "overlap": overlap(shares).tolist(),
        "coverage": {
            name: coverage(shares, np.asarray(dataset.targets[name]), task.width).tolist()
            for name, task in schema.targets.items()
            if task.exclusive
        },
    }


def _balance(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Per target the rows of each class or label, or the mean and standard deviation of its values; unknown ones left out."""
    balance: dict[str, Any] = {}
    for name, schema in dataset.schema.targets.items():
        values = np.asarray(dataset.targets[name])[dataset.known(name, rows)]
        if schema.classes:
            counts = np.bincount(values, minlength=schema.width) if schema.exclusive else np.nansum(values, 0)
            balance[name] = {str(label): int(n) for label, n in zip(schema.classes, counts, strict=True)}
        elif len(values):
            balance[name] = {"mean": float(values.mean()), "deviation": float(values.std())}
    return {"balance": balance}


def rough_seconds(plan: Plan) -> dict[str, float]:
    """What training each member would take in one process, from two epochs of a few steps that are thrown away."""
    costs: dict[str, float] = {}
    known: dict[str, float] = {}
    sizes = {name: len(unit.members) if unit.pace.stacked else 1 for unit in plan.training_units for name in unit.members}
    with limited_to(plan.recipe.training.threads):
        for name, jobs in plan.members.items():
            spec = jobs[0].spec
            networks = min(TRIED, sizes[name] * len(jobs)) if spec.pace.stacked else 1
            shape = f"{networks} {spec.model_dump_json()}"
            if spec.trained is not None:
                known[shape] = 0.0
            if shape not in known:
                trial = spec.model_copy(update={"epochs": 2, "patience": None})
                first_known = [plan.dataset.known(name, jobs[0].share.train)[: 4 * spec.batch_size] for name in spec.losses]
                share = Share(np.unique(np.concatenate(first_known)))
                trained = train_together(plan.dataset, trial, [share] * networks, range(networks))[0]
                if isinstance(trained, TrainingError):
                    raise trained
                first, second = trained.curve
                known[shape] = (second.at - first.at) / 1000 / len(share.train) / networks
            costs[name] = known[shape] * spec.epochs * sum(len(job.share.train) for job in jobs)
    return costs
