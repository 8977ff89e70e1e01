# ruff: noqa: PD011 - `values` are tensors here
"""Every partition rule with every fusion rule, on sets that come with scikit-learn: which pairs help, and by how much.

    .venv/bin/python benchmarks/rules.py --sets wine --seeds 0 1            (a part, in a minute)
    .venv/bin/python benchmarks/rules.py --document docs/experiment.md      (all of it, and the tables and pictures anew)

For each set, partition rule and split seed six networks are trained and banked, once, and all fusion rules are fitted from the
bank. Everything is done by fuseline's own functions, without Prefect and MLflow. Settings stand in ``SETS`` and ``recipe``.

A row that was a test row in any split counts once, by the mean over those splits of its loss (log loss; squared error over the
variance of the target). Rows are resampled, the same ones for everything that is compared, so differences are paired.

What is trained is kept in the store of ``FUSELINE_HOME`` (default ``.fuseline``), so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from inspect import getsource
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from baselines import banked, row_losses
from numpy.typing import NDArray
from rules_report import (
    CHOSEN,
    REFERENCE,
    SINGLE,
    Run,
    fill,
    heat_map,
    losses_table,
    markdown,
    partitions_table,
    plain,
    refusals,
    savings_table,
    summary_table,
)
from sklearn import datasets
from sklearn.neighbors import NearestNeighbors

from fuseline.bank import Bank, build_bank
from fuseline.errors import RecipeError
from fuseline.evaluation.diversity import DIVERSITY, mean_pair
from fuseline.evaluation.report import predicted
from fuseline.fusion.combine import Fused, calibrate
from fuseline.fusion.fuse import Candidate, FusedTarget, fuse_target
from fuseline.fusion.rules import FUSIONS
from fuseline.partition import PARTITIONS
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store, code_version, content_key, home, read_json, sha256_of, write_json
from fuseline.threads import limited_to
from fuseline.training.replica import train_into

Floats = NDArray[np.float64]

TARGET = "target"
MEMBERS = 6
FOLDS = 3
"""For ``kfold``, and for choosing among the fusion rules: three in the place of five, to save time."""

BATCH, RATE = 32, 0.01
"""Rows in a batch, and AdamW's learning rate."""

WRITERS = 13
"""So many people wrote scikit-learn's digits, says its description; who wrote which is not told."""


@dataclass(frozen=True)
class Study:
    """A bundled set: how its members are trained, and the column that ``by_group`` goes by with what that stands for."""

    kind: str
    epochs: int
    hidden: int
    group: str
    meaning: str


SETS = {
    "digits": Study("classification", 20, 64, "writer", f"thirteenths of the rows in their order, for the {WRITERS} writers"),
    "breast_cancer": Study("classification", 20, 32, "site", "sixths of the rows by `mean texture`, in the place of sites"),
    "wine": Study("classification", 40, 32, "site", "sixths of the rows by `ash`, in the place of sites"),
    "diabetes": Study("regression", 20, 32, "site", "sixths of the rows by `age`, in the place of sites"),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "kfold": {"folds": FOLDS},
    "dirichlet": {"alpha": 0.5, "least": 5},
    "cluster": {"overlap": 0.3},
}
"""What is not left at its default."""

CODE = ("plan", "specs", "partition", "recipe", "seeding", "data", "models", "training", "bank", "fusion", "evaluation")
"""What of fuseline determines a run."""

BINNED = {"breast_cancer": "mean texture", "wine": "ash", "diabetes": "age"}


@dataclass(frozen=True)
class Job:
    """One ensemble: a set, a partition rule and a split seed."""

    set: str
    partition: str
    seed: int
    data: Path
    store: Path


def write_data(name: str, folder: Path) -> Path:
    """A set with its group column, as a file that a recipe can name."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "digits":
        digits = datasets.load_digits()
        file = folder / "digits.npz"
        np.savez(file, image=digits.images.astype(np.uint8), target=digits.target, writer=blocks(len(digits.target), WRITERS))
        return file
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    frame["site"] = blocks(len(frame), MEMBERS)[frame[BINNED[name]].rank(method="first").to_numpy(int) - 1]
    file = folder / f"{name}.parquet"
    frame.to_parquet(file)
    return file


def blocks(rows: int, count: int) -> NDArray[np.int64]:
    """The number of each row's block (n,), ``count`` blocks of consecutive rows as even as may be.

    >>> blocks(7, 3).tolist()
    [0, 0, 0, 1, 1, 2, 2]
    """
    return np.arange(rows) * count // rows


def writers() -> str:
    """What the order of the digits tells, in words: how often a digit's nearest neighbour stands in the same thirteenth."""
    digits = datasets.load_digits()
    block = blocks(len(digits.target), WRITERS)
    nearest = NearestNeighbors(n_neighbors=2).fit(digits.data).kneighbors(digits.data, return_distance=False)[:, 1]
    sizes = np.bincount(block)
    chance = (sizes * (sizes - 1)).sum() / (len(block) * (len(block) - 1))
    found = f"{(block[nearest] == block).mean():.0%} of the digits have their nearest neighbour in their own thirteenth"
    return f"{found}, where chance alone would give {chance:.0%}."


def recipe(name: str, partition: str, seed: int, data: Path) -> Recipe:
    """The recipe of one ensemble; but for the partition it is the same for all of a set and seed."""
    study = SETS[name]
    settings = {"column": study.group} if partition == "by_group" else SETTINGS.get(partition, {})
    pictures = data.suffix == ".npz"
    inputs = None if pictures else [c for c in pd.read_parquet(data).columns if c not in (TARGET, study.group)]
    member = {
        "name": "mlp",
        "count": MEMBERS,
        "architecture": {"mlp": {"hidden": [study.hidden]}},
        "epochs": study.epochs,
        "batch_size": BATCH,
        "optimizer": {"adamw": {"lr": RATE}},
        "early_stopping": None,
    }
    return Recipe.model_validate(
        {
            "name": f"{name}-{partition}",
            "seed": seed,
            "data": {
                "source": {"npz" if pictures else "parquet": {"path": str(data)}},
                "inputs": inputs,
                "split": {"rule": "stratified", "seed": seed, "fusion": 0.2, "calibration": 0.1, "test": 0.25},
            },
            "targets": {TARGET: {"kind": study.kind}},
            "partition": {partition: settings},
            "members": [member],
            "training": {"device": "cpu", "threads": 1},
            "fusion": {"rules": list(FUSIONS), "folds": FOLDS},
        }
    )


def measure(job: Job) -> Run:
    """Train, bank, fuse and score one ensemble, or find what it said in the store."""
    store, asked = Store(job.store), recipe(job.set, job.partition, job.seed, job.data)
    key = content_key(recipe=asked, data=sha256_of(job.data), code=[code_version(*CODE), getsource(scored)])
    place, _ = store.make("rules", key, lambda folder: write_json(folder / "run.json", asdict(ensemble(job, asked, store))))
    return Run(**read_json(place / "run.json"))


def ensemble(job: Job, asked: Recipe, store: Store) -> Run:
    """Train, bank, fuse and score one ensemble, in this process."""
    try:
        plan, _ = make_plan(asked, store)
    except RecipeError as error:
        return Run(job.set, job.partition, job.seed, refused=str(error))
    with limited_to(1):
        started = time.perf_counter()
        for replicas in plan.members.values():
            for replica in replicas:
                train_into(store, plan.data, replica, lambda _: None)
        trained = time.perf_counter()
        bank, _ = build_bank(store, plan.dataset, plan.split, banked(plan, store))
        fused, _ = fuse_target(store, bank, plan.dataset, plan.split, plan.fuse_spec(TARGET), plan.units)
        seconds = trained - started, time.perf_counter() - trained
        return scored(job, plan, bank, fused, seconds)


def scored(job: Job, plan: Plan, bank: Bank, fused: FusedTarget, seconds: tuple[float, float]) -> Run:
    """The losses of everything on the test rows."""
    kind, rows = SETS[job.set].kind, plan.split.rows("test")
    truths = np.asarray(plan.dataset.targets[TARGET])
    truth, unit = truths[rows], 1.0 if kind == "classification" else float(truths.var())
    outputs = bank.outputs(plan.dataset, TARGET, rows, fused.needs)

    def said(candidate: Candidate) -> Floats:
        return np.asarray(calibrate(candidate.combiner(outputs), candidate.number).values.numpy())

    rules = {c.name: said(c) for c in fused.candidates}
    members = [said(c) for c in fused.members]
    judged = {**rules, CHOSEN: rules[fused.chosen], SINGLE: members[fused.best_member]}
    losses = {name: row_losses(kind, truth, values) / unit for name, values in judged.items()}
    right = {name: (v.argmax(1) == truth) * 1.0 for name, v in judged.items()} if kind == "classification" else {}
    table = DIVERSITY[plan.dataset.schema.targets[TARGET].kind](truth, predicted(Fused(outputs.values, None, outputs.task)))
    return Run(
        job.set,
        job.partition,
        job.seed,
        rows=rows.tolist(),
        units=plan.units[rows].tolist(),
        losses={name: values.tolist() for name, values in losses.items()},
        right={name: values.tolist() for name, values in right.items()},
        alone=[float(row_losses(kind, truth, v).mean() / unit) for v in members],
        alone_right=[float((v.argmax(1) == truth).mean()) for v in members] if right else [],
        disagreement=mean_pair(table["disagreement"]) / (1.0 if right else float(np.sqrt(unit))),
        chosen=fused.chosen,
        sizes=[sum(len(job.share.train) for job in replicas) for replicas in plan.members.values()],
        seconds=seconds,
    )


def jobs(sets: Sequence[str], partitions: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Every ensemble, seed by seed, so that a run that is cut off has whole seeds."""
    data = {name: write_data(name, home() / "experiment") for name in sets}
    return [Job(name, rule, seed, data[name], home() / "store") for seed in seeds for name in sets for rule in partitions]


def measure_all(wanted: Sequence[Job], processes: int) -> list[Run]:
    """All ensembles, so many side by side, in the order in which they were asked for."""
    runs: dict[Job, Run] = {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver")) as executor:
        asked = {executor.submit(measure, job): job for job in wanted}
        for done in as_completed(asked):
            runs[asked[done]] = run = done.result()
            what = "refused" if run.refused else f"trained in {run.seconds[0]:.1f} s, fused in {run.seconds[1]:.1f} s"
            print(f"{len(runs)} of {len(wanted)}: {run.set}, {run.partition}, split seed {run.seed}: {what}", file=sys.stderr)
    return [runs[job] for job in wanted]


def parts(runs: Sequence[Run]) -> dict[str, str]:
    """The document's tables and figures in words, by the names of their markers."""
    found = {
        "summary": summary_table(runs),
        "refused": refusals(runs),
        "time": took(runs),
        "settings": settings(),
        "writers": writers(),
    }
    for name in dict.fromkeys(run.set for run in runs):
        own = [run for run in runs if run.set == name]
        found[f"{name}: members"] = partitions_table(own)
        found[f"{name}: losses"] = losses_table(own)
        found[f"{name}: against mean"] = savings_table(own, "mean")
        found[f"{name}: against member"] = savings_table(own, "member")
    return found


def took(runs: Sequence[Run]) -> str:
    """How long it took, in words."""
    training, fusing = np.sum([run.seconds for run in runs], axis=0) / 60
    done = sum(not run.refused for run in runs)
    return (
        f"{done} ensembles: {training:.0f} minutes of training and {fusing:.0f} minutes of fusing, over all processes together."
    )


def settings() -> str:
    """How the members of each set are trained, as a table."""
    lines = []
    for name, study in SETS.items():
        member = f"{MEMBERS} × one hidden layer of {study.hidden}, {study.epochs} epochs"
        lines.append([name, study.kind, member, f"`{study.group}`: {study.meaning}"])
    return markdown(["set", "kind", "members", "what `by_group` goes by"], lines)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET", help=", ".join(SETS))
    rules = list(PARTITIONS)
    parser.add_argument("--partitions", nargs="+", default=rules, choices=rules, metavar="RULE", help=", ".join(rules))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="split seeds (default: 0 to 4)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="ensembles side by side (default: cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the heat maps there")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables between its markers, all sets needed")
    asked = parser.parse_args(given)
    asked.partitions = list(dict.fromkeys([REFERENCE[0], *asked.partitions]))  # all is compared with it
    return asked


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write what was asked for."""
    asked = arguments(given)
    runs = measure_all(jobs(asked.sets, asked.partitions, asked.seeds), asked.processes)
    tables = parts(runs)
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")
    by_set = {name: [run for run in runs if run.set == name] for name in asked.sets}
    if asked.json is not None:
        numbers = {name: plain(own) for name, own in by_set.items()}
        asked.json.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    for name, own in by_set.items() if asked.pictures is not None else ():
        what = "log loss" if SETS[name].kind == "classification" else "squared error / variance"
        heat_map(own, what).savefig(asked.pictures / f"experiment-{name}.png", dpi=110)
    if asked.document is not None:
        text = fill(asked.document.read_text(encoding="utf-8"), tables)
        asked.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
