"""A large bank on disk, fused and judged: what the driver takes is the peak of its anonymous memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from fuseline.bank import Bank
from fuseline.component import Component, complete
from fuseline.data.split import ROLES, Split
from fuseline.evaluation.metrics import METRICS
from fuseline.evaluation.report import evaluate
from fuseline.fusion.fuse import FuseSpec, fuse_target
from fuseline.fusion.rules import FUSIONS
from fuseline.store import Store, write_json
from speed import fuselines
from speed.clock import timed

RULES = ["mean", "vote", "weights", "greedy", "stacking"]
SHARES = {"train": 0.0, "fusion": 0.4, "calibration": 0.1, "test": 0.5}


def prepare(folder: str, members: int, rows: int, classes: int) -> None:
    """The bank as the pipeline leaves it, member by member, so that making it needs little memory either."""
    place, random = Path(folder) / "bank", np.random.default_rng(0)
    place.mkdir()
    truth = random.integers(0, classes, rows)
    values = open_memmap(place / f"values-{fuselines.TARGET}.npy", "w+", np.float32, (members, rows, classes))
    for member in range(members):
        odds = random.standard_normal((rows, classes), dtype=np.float32)
        odds[np.arange(rows), truth] += np.float32(random.uniform(1.0, 4.0))
        np.exp(odds, out=odds)
        values[member] = odds / odds.sum(1, keepdims=True)
    values.flush()
    np.save(Path(folder) / "truth.npy", truth)
    _describe(place, members)


def fuse(folder: str, round: int) -> dict[str, float]:
    """Fuse by all rules, compare, calibrate and judge with 1,000 resamples; one thread. ``round`` only names the store."""
    place = Path(folder)
    truth = np.load(place / "truth.npy")
    rows, classes = len(truth), int(truth.max()) + 1
    dataset = fuselines.table(np.arange(rows, dtype=np.float64)[:, None], truth, classes)
    roles = np.repeat([ROLES.index(name) for name in SHARES], [int(share * rows + 0.5) for share in SHARES.values()])
    split, units, bank = Split(roles.astype(np.int8)), np.arange(rows), Bank.open(place / "bank")
    store, spec = (
        Store(place / f"store-{round}"),
        FuseSpec(fuselines.TARGET, rules([Component(name=n) for n in RULES]), 5, True, 0, 1),
    )
    (part, _), fusing = timed(lambda: fuse_target(store, bank, dataset, split, spec, units))
    names = {fuselines.TARGET: list(METRICS["classification"])}
    _, judging = timed(lambda: evaluate(store, bank, dataset, split, units, [part], names, 1000, 0.95, 0))
    return {"seconds": fusing + judging, "fusing": fusing, "judging": judging}


def rules(named: Sequence[Component]) -> list[Component]:
    """Rules with their defaults, in the order in which the pipeline compares them."""
    made = {rule.name: complete(rule, FUSIONS, "rules") for rule in named}
    return [made[name] for name in FUSIONS if name in made]


def write(folder: Path, said: NDArray[np.float32]) -> Bank:
    """A bank of what members say of every row (M, N, C), without features."""
    folder.mkdir(parents=True)
    np.save(folder / f"values-{fuselines.TARGET}.npy", said)
    _describe(folder, len(said))
    return Bank.open(folder)


def _describe(folder: Path, members: int) -> None:
    names = [f"m{member}" for member in range(members)]
    write_json(folder / "bank.json", {"members": names, "keys": {}, "costs": [(1.0, 1.0)] * members})
