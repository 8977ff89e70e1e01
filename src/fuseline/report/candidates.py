"""The leaderboard of a sweep: ensembles of several recipes on the same test rows.

Which one is chosen is decided by the cross-fitted loss of its fusion, on rows that no test metric is computed from. If the test
rows chose, the best of K equal candidates would look better than it is (of 30 with a true accuracy of 0.800 the best shows
0.836 on a few hundred rows), and the test report of what is registered would no longer be one. So the test metrics only report,
and that honestly for all candidates at once: the intervals are simultaneous by Bonferroni's inequality, at level 1 − α/K each,
and those of the paired gains over the chosen one, of which there are K − 1, at level 1 − α/(K − 1).

Only candidates with the same test rows and targets are compared. Their cross-fitted losses need not be of the same rows: by
``kfold`` a fusion learns from the training rows too. Each is an honest estimate of the same loss.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fuseline.data import dataset as datasets
from fuseline.data.dataset import Dataset
from fuseline.data.schema import TargetSchema
from fuseline.data.split import units
from fuseline.evaluation.intervals import Scores, independent_rows, interval, paired_gain, resamples, score
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.report import GAINS
from fuseline.evaluation.room import Room, room_in
from fuseline.planned import Planned
from fuseline.seeding import EVALUATION, stream
from fuseline.store import content_key, read_json

TAIL = 10
"""So many resamples should lie beyond each end of an interval, ..."""
RESAMPLES = 10_000
"""... but there are never more than so many."""

Tree = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """A candidate that has been trained: its label, its plan and its report."""

    label: str
    plan: Planned
    folder: Path
    report: Tree

    @classmethod
    def open(cls, label: str, plan: Path, report: Path) -> Ran:
        return cls(label, Planned.open(plan), report, read_json(report / "report.json"))

    def loss(self, target: str) -> float:
        """The cross-fitted loss of the rule that was chosen."""
        comparison = self.report["targets"][target]["comparison"]
        return float(comparison["rules"][comparison["chosen"]]["loss"])

    def rows(self, target: str) -> NDArray[np.int64]:
        """The test rows that have a target."""
        return np.load(self.folder / f"rows-{target}.npy")  # type: ignore[no-any-return]


def leaderboards(ran: Sequence[tuple[str, Path, Path]], folder: Path) -> list[Tree]:
    """A leaderboard for each set of candidates that share their test rows, the largest first.

    Args:
        ran: of each candidate its label, and the folders of its plan and its report.
        folder: where there is room for resamples, until this returns.

    Returns:
        Of each set: ``rows`` (test rows by target), ``level`` (of all intervals together), ``chosen``, and ``candidates``, the
        best first: ``label``, ``loss`` (cross-fitted, by target), ``rule``, ``metrics`` (by target, each with its interval) and
        ``gain`` over the chosen one, above 0 is better.
    """
    groups: dict[str, list[Ran]] = {}
    for its in (Ran.open(*one) for one in ran):
        groups.setdefault(_same_rows(its), []).append(its)
    with tempfile.TemporaryDirectory(dir=folder) as place, room_in(Path(place)) as room:
        return [_board(group, room) for group in sorted(groups.values(), key=len, reverse=True)]


def in_order(losses: NDArray[np.float64]) -> list[int]:
    """Candidates (K,) from the best to the worst by their losses (K, T): by the mean of their ranks over the T targets, whose
    losses have units of their own; of equal ones the first comes first. A loss that is not a number is the worst.

    >>> in_order(np.array([[0.3, 10.0], [0.2, 11.0], [0.1, 9.0]]))
    [2, 0, 1]
    """
    ranks = rankdata(np.where(np.isnan(losses), np.inf, losses), axis=0)
    return [int(k) for k in np.argsort(ranks.mean(1), kind="stable")]


def simultaneous(level: float, count: int) -> float:
    """The level that each of some intervals needs for all of them together to hold with a level.

    >>> simultaneous(0.95, 5)
    0.99
    """
    return round(1 - (1 - level) / max(count, 1), 12)


def _same_rows(ran: Ran) -> str:
    """The same for candidates with the same test rows and targets."""
    dataset = _dataset(ran)
    return content_key(
        targets={
            name: [schema, dataset.content[ran.rows(name)], np.asarray(dataset.targets[name])[ran.rows(name)]]
            for name, schema in dataset.schema.targets.items()
        }
    )


def _dataset(ran: Ran) -> Dataset:
    return datasets.read(ran.plan.folder.parents[1] / "data" / ran.plan.data)


def _board(group: Sequence[Ran], room: Room) -> Tree:
    first, dataset = group[0], _dataset(group[0])
    targets = list(dataset.schema.targets)
    order = in_order(np.array([[ran.loss(target) for target in targets] for ran in group]))
    ranked = [group[k] for k in order]
    level = first.plan.recipe.evaluation.level
    metrics: list[Tree] = [{} for _ in ranked]
    gains: list[Tree] = [{} for _ in ranked]
    for target in targets:
        scores = _scores(ranked, dataset, target, simultaneous(level, len(group)), room)
        for own, gain, its in zip(metrics, gains, scores, strict=True):
            own[target] = {name: interval(its, name, simultaneous(level, len(group)))._asdict() for name in its.point}
            gain[target] = {
                name: paired_gain(its, scores[0], name, simultaneous(level, len(group) - 1))._asdict() for name in its.point
            }
    return {
        "rows": {target: len(first.rows(target)) for target in targets},
        "level": level,
        "chosen": ranked[0].label,
        "candidates": [
            {
                "label": ran.label,
                "loss": {target: ran.loss(target) for target in targets},
                "rule": {target: ran.report["targets"][target]["chosen"] for target in targets},
                "metrics": own,
                "gain": gain if ran is not ranked[0] else None,
            }
            for ran, own, gain in zip(ranked, metrics, gains, strict=True)
        ],
    }


def _scores(ranked: Sequence[Ran], dataset: Dataset, target: str, level: float, room: Room) -> list[Scores]:
    """The main metrics of each candidate on the same rows and the same resamples of them."""
    recipe, rows, schema = ranked[0].plan.recipe, ranked[0].rows(target), dataset.schema.targets[target]
    true, own = np.asarray(dataset.targets[target])[rows], units(dataset, recipe.data.split)[rows]
    count = min(RESAMPLES, max(recipe.evaluation.resamples, math.ceil(2 * TAIL / (1 - level))))
    weights = resamples(own, count, np.random.default_rng(stream(recipe.seed, EVALUATION)), room)
    said = [_said(ran, target, schema) for ran in ranked]
    return [score(schema.kind, true, its, weights, list(GAINS[schema.kind]), independent_rows(own)) for its in said]


def _said(ran: Ran, target: str, schema: TargetSchema) -> Predicted:
    """What the chosen fusion of a candidate says of its test rows."""
    said = np.load(ran.folder / f"predictions-{target}.npy", mmap_mode="r")
    return Predicted(said, None, np.array(schema.levels) if schema.levels else None)
