"""Training units: which members share a worker, and whether they are trained as one stacked program there.

Replicas of one shape that are trained on their own rows from the start can be stacked. On a CPU small networks are and large ones
are not; on a GPU a timing decides, once for each shape on each machine. A stack's numbers differ from those of networks alone by
rounding, so the answer is part of a replica's key; it goes by the shape alone, so that members that are added change no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from fuseline.component import Part
from fuseline.data.dataset import Dataset
from fuseline.devices import seeded, synchronise
from fuseline.models.network import blank, parameters
from fuseline.models.stack import known
from fuseline.partition import Share
from fuseline.store import Store
from fuseline.threads import limited_to
from fuseline.timing import Decision, decided
from fuseline.training.pace import Pace, quickest
from fuseline.training.replica import ReplicaJob
from fuseline.training.train import Trainer, stacking

SMALL = 500_000
"""On a CPU networks of at most so many numbers are stacked. One thread, AVX2, time of eight apart over time of the stack:
two hidden layers of 32 at batch 32 7.5, of 64 at batch 128 3.2, of 256 2.7 (at batch 512 1.1), of 512 1.6, of 1,024 0.75."""

TRIED, BATCHES = 8, 4
"""On a GPU so many networks take so many steps in a trial."""

Jobs = Mapping[str, list[ReplicaJob]]


class TrainingUnit(Part):
    """Members that share a worker, how they are computed there, and why."""

    members: list[str]
    pace: Pace
    why: str


def plan_units(jobs: Jobs, dataset: Dataset, store: Store, processes: int, stack: str, tune: bool) -> list[TrainingUnit]:
    """The units of a run, in the order of their first members. A stack is divided among as many processes as there are.

    Args:
        stack: ``auto``, ``always`` or ``never``, as the recipe says.
        tune: whether timings may decide about precision, order of memory and compilation.
    """
    answers: dict[str, tuple[Pace, str]] = {}
    groups: dict[tuple[str, str], list[str]] = {}
    for name, its in jobs.items():
        shape = f"{its[0].strategy} {its[0].spec.model_dump_json()}"
        if shape not in answers:
            answers[shape] = _pace(its[0], dataset, store, stack, tune)
        groups.setdefault((shape, "" if answers[shape][0].stacked else name), []).append(name)
    units: list[TrainingUnit] = []
    for (shape, _), names in groups.items():
        pace, why = answers[shape]
        parts = np.array_split(np.array(names, object), min(processes, len(names)))
        units += [TrainingUnit(members=part.tolist(), pace=pace, why=why) for part in parts]
    order = list(jobs)
    return sorted(units, key=lambda unit: order.index(unit.members[0]))


def marked(jobs: Jobs, units: Sequence[TrainingUnit]) -> dict[str, list[ReplicaJob]]:
    """The jobs, with what was decided about them, those among them that others follow too."""
    paces = {name: unit.pace for unit in units for name in unit.members}
    return {name: [_at(job, paces[name]) for job in its] for name, its in jobs.items()}


def _at(job: ReplicaJob, pace: Pace) -> ReplicaJob:
    """Members that follow each other are of one entry, and so of one pace."""
    before = tuple(_at(earlier, pace) for earlier in job.before)
    return replace(job, spec=job.spec.model_copy(update={"pace": pace}), before=before)


def stacks(dataset: Dataset, jobs: Jobs) -> Iterator[list[tuple[str, int, ReplicaJob]]]:
    """A unit's replicas with their member and number, those together that are trained as one."""
    first = next(iter(jobs.values()))[0]
    same = stacking(dataset.schema, first.spec) if first.spec.pace.stacked else None
    together: dict[str, list[tuple[str, int, ReplicaJob]]] = {}
    for name, its in jobs.items():
        for number, job in enumerate(its):
            together.setdefault(f"{name} {number}" if same is None else same(job.share), []).append((name, number, job))
    yield from together.values()


def _pace(job: ReplicaJob, dataset: Dataset, store: Store, stack: str, tune: bool) -> tuple[Pace, str]:
    """How networks like a replica's are computed, and why."""
    stacked, why = _stacked(job, dataset, store, stack)
    if stacked:
        return Pace(stacked=True), f"as a stack: {why}"
    if not tune or job.spec.trained is not None:
        return Pace(), f"apart: {why}"
    spec, rows = job.spec, len(job.share.train) * job.spec.epochs
    pace, reason = quickest(dataset.schema, spec.network, spec.device, spec.batch_size, rows, store)
    return pace, f"apart: {why}; {reason}"


def _stacked(job: ReplicaJob, dataset: Dataset, store: Store, stack: str) -> tuple[bool, str]:
    """Whether networks of a replica's shape are trained as stacks, and why."""
    if job.strategy is not None:
        return False, f"each follows the one before it ({job.strategy.name})"
    if stacking(dataset.schema, job.spec) is None:
        return False, "this kind of network or training can't be stacked"
    if stack != "auto":
        return stack == "always", f"training.stack is {stack!r}"
    if job.spec.device != "cpu":
        decision = _timed(job, dataset, store)
        return decision.chosen == "stacked", decision.why
    network = blank(dataset.schema, job.spec.network)
    if not known(network):
        return False, "on a CPU mapping over such layers costs more than it saves"
    numbers = parameters(network)
    small = numbers <= SMALL
    return small, f"networks of {numbers:,} numbers, which {'is at most' if small else 'is more than'} {SMALL:,}, on a CPU"


def _timed(job: ReplicaJob, dataset: Dataset, store: Store) -> Decision:
    """A few steps of some networks one after the other, against the same as a stack."""
    spec = job.spec
    share = Share(job.share.train[: BATCHES * spec.batch_size], own=job.share.own, view=job.share.view)
    with limited_to(spec.threads), seeded(0, spec.device):

        @cache  # made when they are first asked for: what was decided before is not tried again
        def trainer(networks: int) -> Trainer:
            return Trainer(dataset, spec, [share] * networks, range(networks))

        def one_by_one() -> None:
            for _ in range(TRIED):
                trainer(1).epoch()
            synchronise(spec.device)

        def stacked() -> None:
            trainer(TRIED).epoch()
            synchronise(spec.device)

        return decided(
            store,
            {"what": "stack", "spec": spec, "schema": dataset.schema, "networks": TRIED, "rows": len(share.train)},
            {"apart": one_by_one, "stacked": stacked},
            work=TRIED * BATCHES,
            unit="a member's step",
        )
