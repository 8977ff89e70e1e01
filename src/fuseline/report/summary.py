"""What a run says of itself in the end: as a plain tree for ``--json`` and for the leaderboard."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fuseline.tracking.delivery import Registered

Tree = dict[str, Any]


def member_entries(report: Mapping[str, Any], members: Sequence[Result]) -> list[Tree]:
    """Every member with its status and, per target, its test metrics; or why it failed."""
    return [
        {"name": m.name, "status": m.status, "metrics": _metrics(report, "members", m.name)}
        | ({"reason": getattr(m, "reason", "")} if m.status == "failed" else {})
        for m in members
    ]


def candidate_entries(report: Mapping[str, Any]) -> list[Tree]:
    """Every fusion rule with, per target that it fits, its test metrics."""
    names = dict.fromkeys(entry["name"] for part in report["targets"].values() for entry in part["candidates"])
    return [{"rule": name, "metrics": _metrics(report, "candidates", name)} for name in names]


def best(report: Mapping[str, Any]) -> dict[str, str]:
    """The chosen rule of each target."""
    return {target: part["chosen"] for target, part in report["targets"].items()}


def winner(report: Mapping[str, Any], target: str) -> Tree:
    """The chosen rule's entry of a target."""
    part = report["targets"][target]
    return next(dict(entry) for entry in part["candidates"] if entry["name"] == part["chosen"])


def below_floor(report: Mapping[str, Any], floors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line for each floor that the chosen fusion does not clear; a value that is not a number never clears one."""
    from fuseline.evaluation.metrics import LOWER_IS_BETTER  # only a new report is held against floors

    lines = []
    for target, bounds in floors.items():
        metrics = winner(report, target)["metrics"]
        for name, bound in bounds.items():
            value = metrics[name]["value"]
            known = value is not None and math.isfinite(value)
            clears = known and (value <= bound if name in LOWER_IS_BETTER else value >= bound)
            if not clears:
                lines.append(f"{target}: {name} is {f'{value:.4g}' if known else 'not a number'}, and the floor is {bound:g}")
    return lines


ENDS = (("value", ""), ("low", "_low"), ("high", "_high"))
"""The parts of a score, and what a metric of MLflow's that holds one ends in."""


def flat_metrics(report: Mapping[str, Any], role: str, name: str) -> dict[str, float]:
    """A member's or a rule's test metrics as ``test/TARGET/METRIC`` with ``_low`` and ``_high``."""
    flat = {}
    for target, metrics in _metrics(report, role, name).items():
        for metric, score in metrics.items():
            for part, suffix in ENDS:
                if score[part] is not None:
                    flat[f"test/{target}/{metric}{suffix}"] = float(score[part])
    return flat


def _metrics(report: Mapping[str, Any], role: str, name: str) -> Tree:
    return {
        target: finite(entry["metrics"])
        for target, part in report["targets"].items()
        for entry in part[role]
        if entry["name"] == name
    }


def finite(tree: Any) -> Any:
    """A tree with null in the place of numbers that JSON does not know."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class Result(Protocol):
    """What became of a member."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> str: ...


def assemble(recipe: str, members: Sequence[Result], report: Mapping[str, Any]) -> Tree:
    """The summary of a run, all but its timing and what only MLflow knows: see :func:`tracked`."""
    counts = Counter(member.status for member in members)
    return {
        "run_id": None,
        "recipe": recipe,
        "members": member_entries(report, members),
        "candidates": candidate_entries(report),
        "best": best(report),
        "registered": None,
        "tracking": "waiting",
        "refused": 0,
        **{status: counts[status] for status in ("trained", "reused", "failed")},
    }


def tracked(summary: Mapping[str, Any], run_id: str | None, version: Registered | None, waiting: bool, refused: int) -> Tree:
    """A summary with MLflow's id of the run and the version that was registered, as far as MLflow has been told by now, and how
    much of it MLflow refused for good."""
    registered = None if version is None else {"name": version.name, "version": version.version, "aliases": version.aliases}
    state = "waiting" if waiting else "delivered"
    return {**summary, "run_id": run_id, "registered": registered, "tracking": state, "refused": refused}
