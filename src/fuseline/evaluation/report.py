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
from fuseline.data.schema import TargetSchema
from fuseline.data.split import Split
from fuseline.evaluation import diversity, metrics
from fuseline.evaluation.intervals import Scores, independent_rows, interval, paired_gain, resamples, score
from fuseline.evaluation.uncertainty import decompose
from fuseline.fusion.combine import Fused, Outputs, calibrate
from fuseline.fusion.fuse import Candidate, FusedTarget
from fuseline.fusion.rules import ON_FEATURES
from fuseline.seeding import EVALUATION, stream
from fuseline.store import Store, code_version, content_key, read_json, write_json

GAINS = {"classification": ("log_loss", "accuracy"), "regression": ("rmse",)}
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
        units: which rows are resampled together (N,).
        names: per target the metrics to report.
        count: bootstrap resamples.
        level: the intervals' level.

    Returns:
        The report, the folder that holds it as ``report.json`` beside the winners' ``predictions-TARGET.npy``, and whether it
        was there already. Per target: ``members`` and ``candidates``, each with ``metrics`` ``{name: {value, low, high}}`` and
        ``gain`` over the best single member; ``diversity``, ``uncertainty``, ``confusion``, ``reliability``, ``per_class``.
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
        rows = split.rows("test")
        generator = np.random.default_rng(stream(seed, EVALUATION))
        weights = resamples(units[rows], count, generator)
        independent = independent_rows(units[rows])
        report: dict[str, Any] = {"rows": len(rows), "level": level, "resamples": count, "targets": {}}
        for part in fused:
            on_features = any(c.name in ON_FEATURES for c in part.candidates)
            outputs = bank.outputs(part.target, rows, features=on_features)
            target = np.asarray(dataset.targets[part.target])[rows]
            schema = dataset.schema.targets[part.target]
            report["targets"][part.target] = _target_report(
                part, outputs, target, schema, weights, names[part.target], level, bank.members, independent
            )
            np.save(folder / f"predictions-{part.target}.npy", _say(part.winner, outputs).values.numpy())
        np.save(folder / "rows.npy", rows)
        write_json(folder / "report.json", report)

    place, reused = store.make("report", key, build)
    return read_json(place / "report.json"), place, reused


def _say(candidate: Candidate, outputs: Outputs) -> Fused:
    return calibrate(candidate.combiner(outputs), candidate.number)


def _target_report(
    part: FusedTarget,
    outputs: Outputs,
    target: NDArray[Any],
    schema: TargetSchema,
    weights: NDArray[np.float64],
    names: list[str],
    level: float,
    members: list[str],
    independent: float,
) -> dict[str, Any]:
    wanted = list(dict.fromkeys([*names, *GAINS[schema.kind]]))

    def scored(candidate: Candidate) -> Scores:
        return score(schema.kind, target, _say(candidate, outputs).values.numpy(), weights, wanted, independent)

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
    values = outputs.values.numpy()
    if schema.kind == "classification":
        tables = diversity.classification_diversity(target, values)
        report["confusion"] = metrics.confusion(target, winner).tolist()
        report["reliability"] = metrics.reliability(target, winner)
        report["per_class"] = metrics.per_class(target, winner)
    else:
        tables = diversity.regression_diversity(target, values[:, :, 0])
    report["diversity"] = {
        "pairs": {name: table.tolist() for name, table in tables.items()},
        "mean": {name: diversity.mean_pair(table) for name, table in tables.items()},
    }
    return report
