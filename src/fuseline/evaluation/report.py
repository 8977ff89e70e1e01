"""The numbers of a report: every member and every fusion rule on the same test rows, with intervals.

This is the one place that looks at the test rows, and it does so after every choice has been made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuseline.bank import Bank
from fuseline.data.dataset import Dataset
from fuseline.data.schema import TargetSchema
from fuseline.data.split import Split
from fuseline.evaluation import diversity, metrics
from fuseline.evaluation.intervals import Scores, independent_rows, interval, paired_gain, resamples, score
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.metrics.sums import blocks
from fuseline.evaluation.room import Room, room_in
from fuseline.evaluation.uncertainty import decompose
from fuseline.fusion.combine import Fused, calibrate
from fuseline.fusion.fuse import Candidate, FusedTarget
from fuseline.fusion.pruned import Pruned, front_table
from fuseline.partition import Rows
from fuseline.seeding import EVALUATION, stream
from fuseline.store import Store, code_version, content_key, read_json, write_json
from fuseline.terms import Kind

GAINS: dict[Kind, tuple[str, ...]] = {
    "classification": ("log_loss", "accuracy"),
    "ordinal": ("log_loss", "rps"),
    "multilabel": ("log_loss", "subset_accuracy"),
    "regression": ("rmse",),
    "quantile": ("pinball",),
}
"""The metrics whose paired gain over the best single member is reported."""


def evaluate(
    store: Store,
    bank: Bank,
    dataset: Dataset,
    split: Split,
    units: NDArray[np.int64],
    fused: Sequence[FusedTarget],
    names: dict[str, list[str]],
    count: int,
    level: float,
    seed: int,
) -> tuple[dict[str, Any], Path, bool]:
    """Score all candidates of all targets on the test rows, or find the report in the store.

    Args:
        units: which rows are resampled together (N,). A target is judged on the test rows that have it.
        names: per target the metrics to report.
        count: bootstrap resamples.
        level: the intervals' level.

    Returns:
        The report, the folder that holds it as ``report.json`` beside the winners' ``predictions-TARGET.npy``, and whether it
        was there already. Per target: ``members`` and ``candidates``, each with ``metrics`` ``{name: {value, low, high}}`` and
        ``gain`` over the best single member; ``diversity``, ``uncertainty``; of classes ``confusion``, ``per_class`` and
        ``reliability``.
    """
    key = content_key(
        bank=bank.key,
        fused=[f.key for f in fused],
        names=names,
        rest=[count, level, seed],
        roles=split.roles,
        units=units,
        code=code_version("fusion", "evaluation", "bank", "seeding"),
    )

    def build(folder: Path) -> None:
        report: dict[str, Any] = {"rows": len(split.rows("test")), "level": level, "resamples": count, "targets": {}}
        for part in fused:
            with room_in(folder) as room:
                judged = _read(bank, dataset, part, dataset.known(part.target, split.rows("test")), room)
                own = units[judged.rows]
                weights = resamples(own, count, np.random.default_rng(stream(seed, EVALUATION)), room)
                report["targets"][part.target] = _target_report(
                    part, bank, judged, weights, names[part.target], level, independent_rows(own), room
                )
                np.save(folder / f"predictions-{part.target}.npy", judged.winner.values)
                np.save(folder / f"rows-{part.target}.npy", judged.rows)
        write_json(folder / "report.json", report)

    place, reused = store.make("report", key, build)
    return read_json(place / "report.json"), place, reused


def predicted(fused: Fused) -> Predicted:
    """What a fusion says, as metrics take it."""
    return Predicted(
        fused.values.numpy(),
        None if fused.variances is None else fused.variances.numpy(),
        None if fused.task is None else _levels(fused.task),
    )


@dataclass(frozen=True)
class Judged:
    """The N test rows of a target, what is true of them, and what one reading of the bank says of them."""

    schema: TargetSchema
    rows: Rows
    target: NDArray[Any]
    said: Mapping[str, Predicted]
    """By candidate, as it serves."""
    winner: Predicted
    uncertainty: Mapping[str, float]
    """The rows' means."""
    counted: diversity.Counted


def _read(bank: Bank, dataset: Dataset, part: FusedTarget, rows: Rows, room: Room) -> Judged:
    """Read the bank's rows once, block by block: each is fused by every candidate, and looked at for how the members differ."""
    schema, target = dataset.schema.targets[part.target], np.asarray(dataset.targets[part.target])[rows]
    said = dict(zip((c.name for c in part.candidates), _spaces(schema, len(part.candidates), len(rows), room), strict=True))
    uncertainty: dict[str, float] = {}
    counted: diversity.Counted | None = None
    for some, outputs in bank.blocks(dataset, part.target, rows, part.needs):
        for candidate in part.candidates:
            _write(said[candidate.name], some, calibrate(candidate.combiner(outputs), candidate.number))
        for name, value in decompose(outputs, part.winner.combiner.mixing())._asdict().items():
            uncertainty[name] = uncertainty.get(name, 0.0) + float(value.sum()) / len(rows)
        here = diversity.COUNTED[schema.kind](target[some], Predicted(outputs.values.numpy(), levels=_levels(schema)))
        counted = here if counted is None else counted + here
    assert counted is not None
    return Judged(schema, rows, target, said, said[part.chosen], uncertainty, counted)


def _alone(bank: Bank, part: FusedTarget, judged: Judged, place: int, own: Predicted) -> Predicted:
    """What a member alone says of the rows, written to ``own``."""
    values, variances = bank.values(part.target)[place], None
    if own.variances is not None:
        variances = np.load(bank.folder / f"variances-{part.target}.npy", mmap_mode="r")[place]
    for some in blocks(len(judged.rows), judged.schema.width):
        said = [None if a is None else torch.from_numpy(a[judged.rows[some]].astype(np.float64)) for a in (values, variances)]
        assert said[0] is not None
        _write(own, some, calibrate(Fused(said[0], said[1], judged.schema), part.members[place].number))
    return own


def _spaces(schema: TargetSchema, count: int, rows: int, room: Room) -> list[Predicted]:
    """Room for what each of so many says of some rows."""
    values = room((count, rows, schema.width), np.float64)
    variances = room((count, rows, 1), np.float64) if schema.kind == "regression" else [None] * count
    return [Predicted(own, spread, _levels(schema)) for own, spread in zip(values, variances, strict=True)]


def _write(place: Predicted, rows: slice, fused: Fused) -> None:
    place.values[rows] = fused.values.numpy()
    if place.variances is not None and fused.variances is not None:
        place.variances[rows] = fused.variances.numpy()


def _levels(schema: TargetSchema) -> NDArray[np.float64] | None:
    return np.array(schema.levels) if schema.levels else None


def _target_report(
    part: FusedTarget,
    bank: Bank,
    judged: Judged,
    weights: NDArray[np.uint8],
    names: list[str],
    level: float,
    independent: float,
    room: Room,
) -> dict[str, Any]:
    schema, target, winner = judged.schema, judged.target, judged.winner.values
    wanted = list(dict.fromkeys([*names, *GAINS[schema.kind]]))

    def scored(said: Predicted) -> Scores:
        return score(schema.kind, target, said, weights, wanted, independent)

    [own] = _spaces(schema, 1, len(target), room)
    alone = [scored(_alone(bank, part, judged, place, own)) for place in range(len(part.members))]
    reference = alone[part.best_member]

    def entry(candidate: Candidate, scores: Scores) -> dict[str, Any]:
        return {
            "name": candidate.name,
            "calibration": candidate.number,
            "metrics": {name: interval(scores, name, level)._asdict() for name in names},
            "gain": {name: paired_gain(scores, reference, name, level)._asdict() for name in GAINS[schema.kind]},
        }

    report: dict[str, Any] = {
        "kind": schema.kind,
        "classes": schema.classes,
        "chosen": part.chosen,
        "best_member": bank.members[part.best_member],
        "comparison": part.comparison,
        "members": [entry(c, s) for c, s in zip(part.members, alone, strict=True)],
        "candidates": [entry(c, scored(judged.said[c.name])) for c in part.candidates],
        "uncertainty": dict(judged.uncertainty),
        "rows": len(target),
    }
    if schema.exclusive:
        report["confusion"] = metrics.confusion(target, winner).tolist()
        report["per_class"] = metrics.per_class(target, winner)
        report["reliability"] = metrics.reliability(target, winner)
    for candidate in part.candidates:
        if isinstance(candidate.combiner, Pruned):
            report["pareto"] = front_table(candidate.combiner, bank.members)
    tables = judged.counted.tables()
    report["diversity"] = {
        "pairs": {name: table.tolist() for name, table in tables.items()},
        "mean": {name: diversity.mean_pair(table) for name, table in tables.items()},
    }
    return report
