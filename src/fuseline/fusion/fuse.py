"""Fuse one target from the bank: compare the rules, refit them, choose one, calibrate all. Kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from fuseline.bank import Bank, BankRows
from fuseline.component import Component
from fuseline.data.dataset import Dataset
from fuseline.data.dealing import deal
from fuseline.data.split import Split, strata
from fuseline.evaluation.calibration import fit_calibration
from fuseline.fusion.combine import Combiner
from fuseline.fusion.combiners import COMBINERS, combiner_name
from fuseline.fusion.crossfit import Learnable, allowed, best_member, compare, fit, sample, summary
from fuseline.fusion.reading import pick, say, say_alone
from fuseline.fusion.rules import needs
from fuseline.partition import Rows
from fuseline.seeding import FUSION, stream
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.threads import limited_to


@dataclass(frozen=True)
class FuseSpec:
    """How one target is fused: leaf values."""

    target: str
    rules: list[Component]
    folds: int
    calibrated: bool
    seed: int
    threads: int


@dataclass(frozen=True)
class Candidate:
    """A fitted rule, or a member alone, with the number that calibrates it."""

    name: str
    combiner: Combiner
    number: float


@dataclass(frozen=True)
class FusedTarget:
    """One target's fitted candidates.

    Attributes:
        candidates: one per rule, in the order of ``FUSIONS``.
        members: each member alone, calibrated, in the order of the bank.
        comparison: the cross-fitted losses of the rules, as :func:`fuseline.fusion.crossfit.summary` gives them; with how many
            rows there were to learn from, and how many were ``sampled`` for rules that can't be fitted on so many.
        chosen: the rule that serves.
        best_member: the position of the best single member on the rows that the rules were compared on.
        needs: what the candidates look at besides the members' outputs.
    """

    key: str
    target: str
    candidates: list[Candidate]
    members: list[Candidate]
    comparison: dict[str, Any]
    chosen: str
    best_member: int
    needs: frozenset[str]

    @property
    def winner(self) -> Candidate:
        return next(c for c in self.candidates if c.name == self.chosen)

    @classmethod
    def open(cls, folder: Path) -> FusedTarget:
        meta = read_json(folder / "fusion.json")
        tensors = load_file(folder / "tensors.safetensors")

        def combiner(rule: str, kind: str) -> Combiner:
            own = {n.split("/")[1]: t for n, t in tensors.items() if n.split("/")[0] == rule}
            return COMBINERS[kind](own)

        count = len(meta["members"])
        return cls(
            folder.name,
            meta["target"],
            [Candidate(c["name"], combiner(c["name"], c["combiner"]), c["number"]) for c in meta["candidates"]],
            [Candidate(m["name"], pick(i, count), m["number"]) for i, m in enumerate(meta["members"])],
            meta["comparison"],
            meta["comparison"]["chosen"],
            meta["best_member"],
            frozenset(meta["needs"]),
        )


def learnable(bank: Bank, dataset: Dataset, split: Split, spec: FuseSpec, units: Rows) -> Learnable:
    """The rows with a target on which every member is finite, among the fusion rows and, out of fold, the training rows."""
    rows = bank.finite(spec.target, dataset.known(spec.target, split.rows("train", "fusion")))
    generator = np.random.default_rng(stream(spec.seed, FUSION, 0))
    held_out = np.isin(rows, split.rows("fusion"))
    return Learnable(
        said=BankRows(bank, dataset, spec.target, rows),
        target=torch.from_numpy(np.asarray(dataset.targets[spec.target])[rows]),
        held_out=held_out,
        fold=deal(2 * strata(dataset, rows) + held_out, units[rows], [1 / spec.folds] * spec.folds, generator),
        unit=units[rows],
        calibrated=spec.calibrated,
    )


def fuse_target(
    store: Store, bank: Bank, dataset: Dataset, split: Split, spec: FuseSpec, units: Rows
) -> tuple[FusedTarget, bool]:
    """Fit every candidate of a target, or find them in the store.

    The rules learn from the bank's finite training and fusion rows, calibration from the calibration rows; the test rows are
    not looked at. ``units`` (N,) says which rows no fold parts.
    """
    key = content_key(
        bank=bank.key,
        target=spec.target,
        rules=[rule.model_dump(mode="json") for rule in spec.rules],
        rest=[spec.folds, spec.calibrated, spec.seed, spec.threads],
        units=units,
        code=code_version("fusion", "evaluation", "bank", "data", "seeding", "threads"),
    )

    def build(folder: Path) -> None:
        pool = learnable(bank, dataset, split, spec, units)
        seed = stream(spec.seed, FUSION, 1)
        comparison = compare(spec.rules, pool, seed)
        fitted = {rule.name: fit(rule, pool, seed) for rule in spec.rules}
        numbers, singles = _calibrate(bank, dataset, split, spec, fitted)
        save_file(
            {f"{name}/{part}": t.contiguous() for name, c in fitted.items() for part, t in c.tensors().items()},
            folder / "tensors.safetensors",
        )
        write_json(
            folder / "fusion.json",
            {
                "target": spec.target,
                "candidates": [
                    {"name": name, "combiner": combiner_name(c), "number": numbers[name]} for name, c in fitted.items()
                ],
                "members": [{"name": name, "number": n} for name, n in zip(bank.members, singles, strict=True)],
                "comparison": {**summary(comparison), "learnt_from": len(pool.target), "sampled": _sampled(spec, pool, seed)},
                "best_member": best_member(pool, comparison.rows, len(bank.members)),
                "needs": sorted(needs(spec.rules)),
            },
        )

    with limited_to(spec.threads):
        place, reused = store.make("fusion", key, build)
    return FusedTarget.open(place), reused


def _sampled(spec: FuseSpec, pool: Learnable, seed: np.random.SeedSequence) -> dict[str, int]:
    """How many rows those rules were fitted on that had too many to be fitted on all."""
    taken = {rule.name: int(sample(rule, pool, seed).sum()) for rule in spec.rules}
    return {rule.name: taken[rule.name] for rule in spec.rules if taken[rule.name] < allowed(rule, pool).sum()}


def _calibrate(
    bank: Bank, dataset: Dataset, split: Split, spec: FuseSpec, combiners: Mapping[str, Combiner]
) -> tuple[dict[str, float], list[float]]:
    """The numbers that calibrate the rules, by name, and each member alone."""
    if not spec.calibrated:
        return dict.fromkeys(combiners, 1.0), [1.0] * len(bank.members)
    rows = dataset.known(spec.target, split.rows("calibration"))
    said, every = BankRows(bank, dataset, spec.target, rows), np.arange(len(rows))
    target = torch.from_numpy(np.asarray(dataset.targets[spec.target])[rows])
    numbers = {rule.name: fit_calibration(say(combiners[rule.name], said, every, needs([rule])), target) for rule in spec.rules}
    return numbers, [fit_calibration(say_alone(m, said, every), target) for m in range(len(bank.members))]
