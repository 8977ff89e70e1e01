"""The numbers of a report: every member and every fusion rule on the same test rows, with intervals.

This is the one place that looks at the test rows, and it does so after every choice has been made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.bank import Bank
from fuseline.data.dataset import Dataset
from fuseline.data.split import Split
from fuseline.evaluation import diversity, metrics
from fuseline.evaluation.intervals import Scores, independent_rows, interval, paired_gain, resamples, score
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.uncertainty import decompose
from fuseline.fusion.combine import Fused, Outputs, calibrate
from fuseline.fusion.fuse import Candidate, FusedTarget
from fuseline.fusion.pruned import Pruned, front_table
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
            rows = dataset.known(part.target, split.rows("test"))
            weights = resamples(units[rows], count, np.random.default_rng(stream(seed, EVALUATION)))
            outputs = bank.outputs(dataset, part.target, rows, part.needs)
            target = np.asarray(dataset.targets[part.target])[rows]
            report["targets"][part.target] = _target_report(
                part, outputs, target, weights, names[part.target], level, bank.members, independent_rows(units[rows])
            )
            np.save(folder / f"predictions-{part.target}.npy", _say(part.winner, outputs).values.numpy())
            np.save(folder / f"rows-{part.target}.npy", rows)
        write_json(folder / "report.json", report)

    place, reused = store.make("report", key, build)
    return read_json(place / "report.json"), place, reused


def predicted(fused: Fused) -> Predicted:
    """What a fusion says, as metrics take it."""
    levels = None if fused.task is None or not fused.task.levels else np.array(fused.task.levels)
    return Predicted(fused.values.numpy(), None if fused.variances is None else fused.variances.numpy(), levels)


def _say(candidate: Candidate, outputs: Outputs) -> Fused:
    return calibrate(candidate.combiner(outputs), candidate.number)


def _target_report(
    part: FusedTarget,
    outputs: Outputs,
    target: NDArray[Any],
    weights: NDArray[np.float64],
    names: list[str],
    level: float,
    members: list[str],
    independent: float,
) -> dict[str, Any]:
    schema = outputs.task
    assert schema is not None
    wanted = list(dict.fromkeys([*names, *GAINS[schema.kind]]))

    def scored(candidate: Candidate) -> Scores:
        return score(schema.kind, target, predicted(_say(candidate, outputs)), weights, wanted, independent)

    alone = [scored(member) for member in part.members]
    reference = alone[part.best_member]

    def entry(candidate: Candidate, scores: Scores) -> dict[str, Any]:
        return {
            "name": candidate.name,
            "calibration": candidate.number,
            "metrics": {name: interval(scores, name, level)._asdict() for name in names},
            "gain": {name: paired_gain(scores, reference, name, level)._asdict() for name in GAINS[schema.kind]},
        }

    uncertainty = decompose(outputs, part.winner.combiner.mixing())
    winner = _say(part.winner, outputs).values.numpy()
    report: dict[str, Any] = {
        "kind": schema.kind,
        "classes": schema.classes,
        "chosen": part.chosen,
        "best_member": members[part.best_member],
        "comparison": part.comparison,
        "members": [entry(c, s) for c, s in zip(part.members, alone, strict=True)],
        "candidates": [entry(c, scored(c)) for c in part.candidates],
        "uncertainty": {name: float(value.mean()) for name, value in uncertainty._asdict().items()},
    }
    report["rows"] = len(target)
    if schema.exclusive:
        report["confusion"] = metrics.confusion(target, winner).tolist()
        report["per_class"] = metrics.per_class(target, winner)
        report["reliability"] = metrics.reliability(target, winner)
    for candidate in part.candidates:
        if isinstance(candidate.combiner, Pruned):
            report["pareto"] = front_table(candidate.combiner, members)
    levels = np.array(schema.levels) if schema.levels else None
    tables = diversity.DIVERSITY[schema.kind](target, Predicted(outputs.values.numpy(), levels=levels))
    report["diversity"] = {
        "pairs": {name: table.tolist() for name, table in tables.items()},
        "mean": {name: diversity.mean_pair(table) for name, table in tables.items()},
    }
    return report
