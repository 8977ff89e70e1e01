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
from fuseline.evaluation.calibration import calibrated_scores, fit_calibration
from fuseline.fusion.combine import Combiner, Fused
from fuseline.fusion.reading import Said, put, say, say_alone, unsaid
from fuseline.fusion.rules import BY_PROGRAMME, BY_TRUTH, FUSIONS, NOTHING_TO_FIT, needs
from fuseline.fusion.scores import row_scores
from fuseline.seeding import torch_seed

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEARNT = 1 << 23
"""A rule is fitted on at most so many numbers that members say: 64 MB in float64, of which rules make a few copies."""

PROGRAMMED = 1 << 19
"""The same of a rule that solves a linear programme: so many took HiGHS some seconds."""

NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Learnable:
    """What fusions of one target may learn from.

    Attributes:
        said: what the members say of the B rows; features are NaN where replicas' features don't align.
        target: codes or values (B,), or labels (B, C).
        held_out: which of the B rows no replica was trained on (B,); rules on features learn from these alone.
        fold: the cross-fitting fold of each row (B,).
        unit: the unit of each row (B,); rows of one unit are not independent.
        calibrated: whether outputs will be calibrated when they serve, and so are to be judged calibrated.
    """

    said: Said
    target: Tensor
    held_out: Mask
    fold: NDArray[np.int64]
    unit: NDArray[np.int64]
    calibrated: bool


def fit(rule: Component, learnable: Learnable, seed: np.random.SeedSequence, rows: Mask | None = None) -> Combiner:
    """Fit a rule on some of the rows that it may learn from (all of them if not said): on a :func:`sample` of too many."""
    keep = sample(rule, learnable, seed)
    index = np.flatnonzero(keep if rows is None else keep & rows)
    target = learnable.target[index]
    generator = torch.Generator().manual_seed(torch_seed(seed))
    if rule.name in NOTHING_TO_FIT:
        outputs, target = learnable.said.outputs(NO_ROWS), target[:0]
    elif _by_truth(rule, learnable):
        outputs, target = learnable.said.true(index, target.numpy()), torch.zeros_like(target)
    else:
        outputs = learnable.said.outputs(index, needs([rule]))
    return FUSIONS[rule.name](outputs, target, generator, **rule.settings)


def sample(rule: Component, learnable: Learnable, seed: np.random.SeedSequence) -> Mask:
    """Which rows a rule learns from (B,): all that it may, or as many as :func:`_room` leaves, drawn evenly over the folds."""
    may, room = allowed(rule, learnable), _room(rule, learnable)
    if may.sum() <= room:
        return may
    generator = np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 0)))
    order = generator.permutation(np.flatnonzero(may))
    place = np.empty(len(order))
    for number in np.unique(learnable.fold[order]):
        own = learnable.fold[order] == number
        place[own] = (np.arange(own.sum()) + 0.5) / own.sum()
    drawn = np.zeros(len(may), bool)
    drawn[order[np.argsort(place, kind="stable")[:room]]] = True
    return drawn


def allowed(rule: Component, learnable: Learnable) -> Mask:
    """Which rows a rule may learn from (B,)."""
    return learnable.held_out if "features" in needs([rule]) else np.ones(len(learnable.target), bool)


def _room(rule: Component, learnable: Learnable) -> int:
    """How many rows a rule is fitted on at most; those with nothing to fit are given none in any case."""
    if rule.name in NOTHING_TO_FIT:
        return len(learnable.target)
    row = learnable.said.outputs(NO_ROWS, needs([rule]))
    programme = row.kind == "quantile" and rule.name in BY_PROGRAMME
    width = len(row.values) if _by_truth(rule, learnable) else row.width
    return max(1, (PROGRAMMED if programme else LEARNT) // width)


def _by_truth(rule: Component, learnable: Learnable) -> bool:
    return rule.name in BY_TRUTH and learnable.said.outputs(NO_ROWS).exclusive


def cross_fit(rule: Component, learnable: Learnable, seed: np.random.SeedSequence) -> Fused:
    """What the rule says of each row, fitted on the other folds; NaN where the rule can't say anything."""
    needed = needs([rule])
    together: Fused | None = None
    for number in np.unique(learnable.fold):
        outside = learnable.fold == number
        combiner = fit(rule, learnable, seed, ~outside)
        judged = np.flatnonzero(outside & learnable.held_out if "features" in needed else outside)
        part = say(combiner, learnable.said, judged, needed)
        together = unsaid(part, len(outside)) if together is None else together
        put(together, judged, part)
    assert together is not None
    return together


@dataclass(frozen=True)
class Comparison:
    """The rules compared on the same rows (n,): each one's mean loss, and its difference to the best with its standard error."""

    rows: NDArray[np.int64]
    table: dict[str, dict[str, float]]
    best: str
    chosen: str


def judge(fused: Fused, learnable: Learnable, common: NDArray[np.int64]) -> Floats:
    """The losses (n,) of the ``common`` rows, of the output as it will be used: calibrated by one number, fitted on them."""
    return _losses(fused if len(common) == len(fused.values) else fused.rows(torch.from_numpy(common)), learnable, common)


def _losses(fused: Fused, learnable: Learnable, common: NDArray[np.int64]) -> Floats:
    """:func:`judge` of what is said of the ``common`` rows alone."""
    target = learnable.target[common]
    if not learnable.calibrated:
        return row_scores(fused, target)
    return calibrated_scores(fused, target, fit_calibration(fused, target))


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
    common = _common(rules, learnable)
    scores = {rule.name: judge(cross_fit(rule, learnable, seed), learnable, common) for rule in rules}
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


def best_member(learnable: Learnable, common: NDArray[np.int64], members: int) -> int:
    """The position of the member with the lowest calibrated loss on the ``common`` rows."""
    alone = (say_alone(member, learnable.said, common) for member in range(members))
    return int(np.argmin([_losses(fused, learnable, common).mean() for fused in alone]))


def _common(rules: Sequence[Component], learnable: Learnable) -> NDArray[np.int64]:
    return np.flatnonzero(learnable.held_out) if "features" in needs(rules) else np.arange(len(learnable.target))


def summary(comparison: Comparison) -> dict[str, Any]:
    return {
        "rows": len(comparison.rows),
        "best": comparison.best,
        "chosen": comparison.chosen,
        "rules": comparison.table,
    }
