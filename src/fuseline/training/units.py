"""Training units: which members share a worker, and whether they are trained as one stacked program there.

Replicas of one shape that are trained on their own rows from the start can be stacked. On a CPU small networks are and large ones
are not; on a GPU a timing decides, once for each shape on each machine. A stack's numbers differ from those of networks alone by
rounding, so the answer is part of a replica's key; it goes by the shape alone, so that members that are added change no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

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
from fuseline.training.replica import ReplicaJob
from fuseline.training.train import Trainer, stacking

SMALL = 500_000
"""On a CPU networks of at most so many numbers are stacked. One thread, AVX2, time of eight apart over time of the stack:
two hidden layers of 32 at batch 32 7.5, of 64 at batch 128 3.2, of 256 2.7 (at batch 512 1.1), of 512 1.6, of 1,024 0.75."""

TRIED, BATCHES = 8, 4
"""On a GPU so many networks take so many steps in a trial."""

Jobs = Mapping[str, list[ReplicaJob]]


class TrainingUnit(Part):
    """Members that share a worker, whether as a stack, and why."""

    members: list[str]
    stacked: bool
    why: str


def plan_units(jobs: Jobs, dataset: Dataset, store: Store, processes: int, how: str) -> list[TrainingUnit]:
    """The units of a run, in the order of their first members. A stack is divided among as many processes as there are.

    Args:
        how: ``auto`` for a timing to decide, else ``always`` or ``never``.
    """
    answers: dict[str, tuple[bool, str]] = {}
    groups: dict[str, list[str]] = {}
    for name, its in jobs.items():
        shape = its[0].spec.model_dump_json()
        if shape not in answers:
            answers[shape] = _stacked(its[0], dataset, store, how)
        stacked = answers[shape][0] and its[0].strategy is None
        groups.setdefault(shape if stacked else f"{name} {shape}", []).append(name)
    units: list[TrainingUnit] = []
    for names in groups.values():
        first = jobs[names[0]][0]
        stacked, why = answers[first.spec.model_dump_json()]
        if first.strategy is not None:
            stacked, why = False, f"each follows the one before it ({first.strategy.name})"
        parts = np.array_split(np.array(names, object), min(processes, len(names)) if stacked else len(names))
        units += [TrainingUnit(members=part.tolist(), stacked=stacked, why=why) for part in parts]
    order = list(jobs)
    return sorted(units, key=lambda unit: order.index(unit.members[0]))


def marked(jobs: Jobs, units: Sequence[TrainingUnit]) -> dict[str, list[ReplicaJob]]:
    """The jobs, with what was decided about them."""
    stacked = {name: unit.stacked for unit in units for name in unit.members}
    return {name: [replace(job, stacked=stacked[name]) for job in its] for name, its in jobs.items()}


def stacks(dataset: Dataset, jobs: Jobs) -> Iterator[list[tuple[str, int, ReplicaJob]]]:
    """A unit's replicas with their member and number, those together that are trained as one."""
    first = next(iter(jobs.values()))[0]
    same = stacking(dataset.schema, first.spec) if first.stacked else None
    together: dict[str, list[tuple[str, int, ReplicaJob]]] = {}
    for name, its in jobs.items():
        for number, job in enumerate(its):
            together.setdefault(f"{name} {number}" if same is None else same(job.share), []).append((name, number, job))
    yield from together.values()


def _stacked(job: ReplicaJob, dataset: Dataset, store: Store, how: str) -> tuple[bool, str]:
    """Whether networks of a replica's shape are trained as stacks, and why."""
    if stacking(dataset.schema, job.spec) is None:
        return False, "this kind of network or training can't be stacked"
    if how != "auto":
        return how == "always", f"training.stack is {how!r}"
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
        apart, together = (Trainer(dataset, spec, [share] * count, range(count)) for count in (1, TRIED))

        def one_by_one() -> None:
            for _ in range(TRIED):
                apart.epoch()
            synchronise(spec.device)

        def stacked() -> None:
            together.epoch()
            synchronise(spec.device)

        return decided(
            store,
            {"what": "stack", "spec": spec, "schema": dataset.schema, "networks": TRIED, "rows": len(share.train)},
            {"apart": one_by_one, "stacked": stacked},
            work=TRIED * BATCHES,
            unit="a member's step",
        )
