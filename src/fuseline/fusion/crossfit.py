"""Compare fusion rules by cross-fitting: each row is judged by a fit that did not see it.

Shapes: B rows that a fusion may learn from, on which every member is finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fuseline.component import Component
from fuseline.evaluation.calibration import fit_calibration
from fuseline.fusion.combine import Combiner, Fused, Mixture, Outputs, calibrate
from fuseline.fusion.rules import FUSIONS, needs
from fuseline.fusion.scores import row_scores
from fuseline.seeding import torch_seed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Learnable:
    """What fusions of one target may learn from.

    Attributes:
        outputs: what the members say of the B rows; features are NaN where replicas' features don't align.
        target: codes or values (B,), or labels (B, C).
        held_out: which of the B rows no replica was trained on (B,); rules on features learn from these alone.
        fold: the cross-fitting fold of each row (B,).
        unit: the unit of each row (B,); rows of one unit are not independent.
        calibrated: whether outputs will be calibrated when they serve, and so are to be judged calibrated.
    """

    outputs: Outputs
    target: Tensor
    held_out: NDArray[np.bool_]
    fold: NDArray[np.int64]
    unit: NDArray[np.int64]
    calibrated: bool


def fit(rule: Component, learnable: Learnable, seed: np.random.SeedSequence, rows: NDArray[np.bool_] | None = None) -> Combiner:
    """Fit a rule on some of the rows that it may learn from (all of them if not said)."""
    keep = np.ones(len(learnable.target), bool) if rows is None else rows
    needed = needs([rule])
    if "features" in needed:
        keep = keep & learnable.held_out
    index = torch.from_numpy(np.flatnonzero(keep))
    generator = torch.Generator().manual_seed(torch_seed(seed))
    outputs = learnable.outputs.rows(index)
    outputs = outputs if "features" in needed else outputs._replace(features=None)
    outputs = outputs if "inputs" in needed else outputs._replace(inputs=None)
    return FUSIONS[rule.name](outputs, learnable.target[index], generator, **rule.settings)


def cross_fit(rule: Component, learnable: Learnable, seed: np.random.SeedSequence) -> Fused:
    """What the rule says of each row, fitted on the other folds; NaN where the rule can't say anything."""
    parts: list[tuple[NDArray[np.int64], Fused]] = []
    for number in np.unique(learnable.fold):
        outside = learnable.fold == number
        combiner = fit(rule, learnable, seed, ~outside)
        judged = np.flatnonzero(outside & learnable.held_out if "features" in needs([rule]) else outside)
        parts.append((judged, combiner(learnable.outputs.rows(torch.from_numpy(judged)))))
    values = torch.full((len(learnable.target), learnable.outputs.values.shape[2]), torch.nan, dtype=torch.float64)
    variances = None if learnable.outputs.variances is None else values[:, :1].clone()
    for judged, fused in parts:
        values[judged] = fused.values
        if variances is not None and fused.variances is not None:
            variances[judged] = fused.variances
    return Fused(values, variances, learnable.outputs.task)


@dataclass(frozen=True)
class Comparison:
    """The rules compared on the same rows (n,): each one's mean loss, and its difference to the best with its standard error."""

    rows: NDArray[np.int64]
    table: dict[str, dict[str, float]]
    best: str
    chosen: str


def judge(fused: Fused, learnable: Learnable, common: NDArray[np.int64]) -> Floats:
    """The losses (n,) of the ``common`` rows, of the output as it will be used: calibrated by one number, fitted on them."""
    part, target = fused.rows(torch.from_numpy(common)), learnable.target[common]
    return row_scores(calibrate(part, fit_calibration(part, target)) if learnable.calibrated else part, target)


def clustered_error(gap: Floats, unit: NDArray[np.int64]) -> float:
    """The standard error of the mean of ``gap`` (n,) over G units: √(G/(G−1) Σ_u (Σ_{i∈u} (gᵢ − ḡ))²) / n.

    With units of one row each it is the usual one (Liang and Zeger 1986).

    >>> round(clustered_error(np.array([1.0, 2.0, 3.0, 4.0]), np.arange(4)), 4), round(float(np.std([1, 2, 3, 4], ddof=1)) / 2, 4)
    (0.6455, 0.6455)
    """
    sums = np.bincount(np.unique(unit, return_inverse=True)[1], gap - gap.mean())
    count = len(sums)
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(gap)) if count > 1 else 0.0


def compare(rules: Sequence[Component], learnable: Learnable, seed: np.random.SeedSequence) -> Comparison:
    """Cross-fit every rule and choose: the first (simplest) within one standard error of the best.

    The standard error is that of the paired difference of the rows' losses (after Breiman et al. 1984, section 3.4.3), with
    units as clusters. All rules are compared on the same rows: the held-out ones, if a rule that uses features is among them.
    """
    fused = {rule.name: cross_fit(rule, learnable, seed) for rule in rules}
    common = _common(rules, learnable)
    scores = {name: judge(said, learnable, common) for name, said in fused.items()}
    best = min(scores, key=lambda name: float(scores[name].mean()))
    table: dict[str, dict[str, float]] = {}
    chosen: str | None = None
    for name, score in scores.items():
        gap = score - scores[best]
        error = clustered_error(gap, learnable.unit[common])
        table[name] = {"loss": float(score.mean()), "gap": float(gap.mean()), "standard_error": error}
        if chosen is None and gap.mean() <= error:
            chosen = name
    return Comparison(common, table, best, chosen or best)


def best_member(learnable: Learnable, common: NDArray[np.int64]) -> int:
    """The position of the member with the lowest calibrated loss on the ``common`` rows."""
    losses = [judge(single(m, learnable.outputs), learnable, common).mean() for m in range(len(learnable.outputs.values))]
    return int(np.argmin(losses))


def single(member: int, outputs: Outputs) -> Fused:
    """One member, as the fusion that listens to it alone."""
    fused: Fused = pick(member, len(outputs.values))(outputs)
    return fused


def pick(member: int, members: int) -> Combiner:
    """The mixture with all weight on one member."""
    weights = torch.zeros(members, dtype=torch.float64)
    weights[member] = 1
    return Mixture({"weights": weights})


def _common(rules: Sequence[Component], learnable: Learnable) -> NDArray[np.int64]:
    return np.flatnonzero(learnable.held_out) if "features" in needs(rules) else np.arange(len(learnable.target))


def summary(comparison: Comparison) -> dict[str, Any]:
    return {
        "rows": len(comparison.rows),
        "best": comparison.best,
        "chosen": comparison.chosen,
        "rules": comparison.table,
    }
