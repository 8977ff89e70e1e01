"""How much room a run will take on the disk, estimated before anything is trained.

N rows of the data; per target C numbers of a row, and one more of a regression; D features per network; float32 throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fuseline.disk import REMEDY, NoRoomError, free, largest_file, readable
from fuseline.evaluation.room import SMALL
from fuseline.fusion.crossfit import LEARNT
from fuseline.fusion.rules import needs
from fuseline.models.network import NetworkSpec, blank
from fuseline.plan import Plan, processes
from fuseline.store import Store, read_json
from fuseline.training.messages import KIND
from fuseline.training.replica import ReplicaJob, size

CHECKPOINT = 6
"""A checkpoint holds a network and what its optimizer knows, three times its numbers; an old one goes when the new one stands."""

RECORDS, RECORDS_OF_A_MEMBER = 4_000_000, 200_000
"""Pictures, tables, and what MLflow keeps of a run and of each member."""


class Need(NamedTuple):
    """Bytes that a run will take, by what they are for, and those of its largest file."""

    replicas: int
    checkpoints: int
    bank: int
    fusion: int
    report: int
    package: int
    records: int
    largest_file: int

    @property
    def total(self) -> int:
        return sum(self) - self.largest_file


class _Kind(NamedTuple):
    """A kind of network: the bytes of its tensors, and the width of its features."""

    bytes: int
    features: int


def require_room(plan: Plan, store: Store) -> Need:
    """What a run of a plan will take on the disk, which is there.

    Raises:
        NoRoomError: there is less, or a file of that size can't be written here.
    """
    need, there = estimate(plan, store), free(store.root)
    if need.total > there:
        text = f"The run needs about {readable(need.total)} in {store.root}, where {readable(there)} are free"
        raise NoRoomError(f"{text}; {REMEDY}.")
    if need.largest_file > largest_file():
        text = f"The run needs a file of about {readable(need.largest_file)} in {store.root}, and none may be larger than"
        raise NoRoomError(f"{text} {readable(largest_file())} (`ulimit -f`); raise that limit.")
    return need


def estimate(plan: Plan, store: Store) -> Need:
    """What a run of a plan will take on the disk beside what stands there: replicas and a bank that are there take nothing."""
    dataset, members = plan.dataset, plan.members
    n, targets = len(dataset), dataset.schema.targets
    kinds = _kinds(plan)
    said = 4 * n * sum(target.width + (target.kind == "regression") for target in targets.values())
    missing = {name: [job for job in jobs if not _stands(plan, store, job)] for name, jobs in members.items()}
    networks = [kinds[name] for name, jobs in members.items() for _ in jobs]
    features = 4 * n * sum(kind.features for kind in networks)
    weights = sum(kind.bytes for kind in networks)
    replicas = sum(len(jobs) * (said + 4 * n * kinds[name].features + kinds[name].bytes) for name, jobs in missing.items())
    bank = 0 if _has_bank(plan, store) else len(members) * said + features
    fusion = sum(_fusion(plan, target, features // (4 * n)) for target in targets)
    widest = max(target.width for target in targets.values())
    return Need(
        replicas=replicas,
        checkpoints=CHECKPOINT * _in_training(plan, missing, kinds),
        bank=bank,
        fusion=fusion,
        report=sum(_report(plan, target) for target in targets),
        package=2 * weights,  # in the store, and as a version that MLflow keeps
        records=RECORDS + RECORDS_OF_A_MEMBER * len(members),
        largest_file=max(
            0,  # else a single number would be taken for a list of them
            weights,
            *(4 * n * max(widest, kinds[name].features) for name, jobs in missing.items() if jobs),
            *(4 * n * max(widest * len(members), kinds[name].features * len(jobs)) for name, jobs in members.items() if bank),
        ),
    )


def _kinds(plan: Plan) -> dict[str, _Kind]:
    """The kind of each member's networks; one of a kind is looked at."""
    known: dict[str, _Kind] = {}
    specs: dict[str, NetworkSpec] = {name: jobs[0].spec.network for name, jobs in plan.members.items()}
    for spec in specs.values():
        shape = spec.model_dump_json()
        if shape not in known:
            network = blank(plan.dataset.schema, spec)
            known[shape] = _Kind(size(network), int(network.backbone.features))
    return {name: known[spec.model_dump_json()] for name, spec in specs.items()}


def _stands(plan: Plan, store: Store, job: ReplicaJob) -> bool:
    return store.path(KIND, job.key(plan.dataset)).is_dir()


def _in_training(plan: Plan, missing: dict[str, list[ReplicaJob]], kinds: dict[str, _Kind]) -> int:
    """The bytes of the networks that are trained at a time: of the largest units, as many as there are processes. A unit's are
    trained together, if it is a stack, and else one after the other."""
    units = []
    for unit in plan.training_units:
        networks = [kinds[name].bytes for name in unit.members for _ in missing[name]]
        units.append(sum(networks) if unit.pace.stacked else max(networks, default=0))
    return sum(sorted(units, reverse=True)[: processes(plan.recipe)])


def _has_bank(plan: Plan, store: Store) -> bool:
    """Whether a bank of these very replicas is there."""
    keys = {name: [job.key(plan.dataset) for job in jobs] for name, jobs in plan.members.items()}
    return any(_keys(folder) == keys for folder in store.path("bank", "").glob("[!.]*"))


def _keys(folder: Path) -> object:
    try:
        return read_json(folder / "bank.json")["keys"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged
        return None


def _fusion(plan: Plan, target: str, features: int) -> int:
    """Roughly: ``dynamic`` keeps the rows that it learns from, any other rule a few numbers for each that it looks at."""
    schema, count = plan.dataset.schema, len(plan.members)
    outputs = count * schema.targets[target].width
    rules = plan.fuse_spec(target).rules
    inputs = int(np.prod(schema.image)) if schema.image else len(schema.columns)
    total = 0
    for rule in rules:
        looks = needs([rule])
        seen = outputs + (features if "features" in looks else 0) + (inputs if "inputs" in looks else 0)
        rows = len(plan.split.rows("train", "fusion")) if rule.name == "dynamic" else schema.targets[target].width
        total += 4 * min(LEARNT, seen * rows)
    return total


def _report(plan: Plan, target: str) -> int:
    """What is kept of the test rows, and the scratch files, for large tests, of what each candidate says of them and of how
    often each resample draws them."""
    rows, width = len(plan.split.rows("test")), plan.dataset.schema.targets[target].width
    candidates = 8 * rows * width * (len(plan.fuse_spec(target).rules) + 1)
    draws = rows * plan.recipe.evaluation.resamples
    return 8 * rows * (width + 1) + sum(size for size in (candidates, draws) if size > SMALL)
