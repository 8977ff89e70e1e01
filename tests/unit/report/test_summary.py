"""What a run says of itself, from a report made by hand."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest

from fuseline.report.summary import assemble, below_floor, best, candidate_entries, finite, flat_metrics, tracked, winner
from fuseline.tracking.delivery import Registered


def score(value: float, low: float = 0.0, high: float = 1.0) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def entry(name: str, **metrics: float) -> dict[str, Any]:
    return {"name": name, "metrics": {n: score(v) for n, v in metrics.items()}, "gain": {}}


REPORT = {
    "targets": {
        "kind": {
            "chosen": "vote",
            "members": [entry("a", accuracy=0.7, log_loss=0.6), entry("b", accuracy=0.8, log_loss=0.5)],
            "candidates": [entry("mean", accuracy=0.81, log_loss=0.4), entry("vote", accuracy=0.9, log_loss=0.45)],
        },
        "size": {
            "chosen": "mean",
            "members": [entry("a", rmse=3.0, r2=math.nan), entry("b", rmse=2.0, r2=0.5)],
            "candidates": [entry("mean", rmse=1.5, r2=0.75)],
        },
        "range": {
            "chosen": "mean",
            "members": [entry("a", pinball=0.4, coverage=0.7), entry("b", pinball=0.3, coverage=0.95)],
            "candidates": [entry("mean", pinball=0.2, coverage=0.9)],
        },
    }
}


@dataclass(frozen=True)
class Member:
    name: str
    status: str


def test_a_summary_has_every_part_and_is_json() -> None:
    members = [Member("a", "trained"), Member("b", "reused")]
    made = assemble("recipe", members, REPORT)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert (made["trained"], made["reused"]) == (1, 1)
    assert [m["status"] for m in made["members"]] == ["trained", "reused"]
    assert made["members"][0]["metrics"]["size"]["r2"]["value"] is None


def test_what_only_mlflow_knows_is_filled_in_when_it_has_been_told() -> None:
    made = assemble("recipe", [], REPORT)
    assert (made["run_id"], made["registered"], made["tracking"]) == (None, None, "waiting")
    told = tracked(made, "run", Registered("model", 3, ["challenger"], False), waiting=False, refused=2)
    assert (told["run_id"], told["tracking"]) == ("run", "delivered")
    assert told["refused"] == 2
    assert told["registered"] == {"name": "model", "version": 3, "aliases": ["challenger"]}
    assert list(told) == list(made)
    assert tracked(made, "run", None, waiting=True, refused=0) == {**made, "run_id": "run"}


def test_a_rule_unfit_for_a_target_is_absent_there() -> None:
    assert {c["rule"]: list(c["metrics"]) for c in candidate_entries(REPORT)} == {
        "mean": ["kind", "size", "range"],
        "vote": ["kind"],
    }


def test_the_chosen_rule_is_named_and_found() -> None:
    assert best(REPORT) == {"kind": "vote", "size": "mean", "range": "mean"}
    assert winner(REPORT, "kind")["metrics"]["accuracy"]["value"] == 0.9


@pytest.mark.parametrize(
    ("floors", "unmet"),
    [
        ({}, 0),
        ({"kind": {"accuracy": 0.9}}, 0),  # just reached
        ({"kind": {"accuracy": 0.91}}, 1),
        ({"kind": {"log_loss": 0.45}}, 0),
        ({"kind": {"log_loss": 0.44}}, 1),  # lower is better
        ({"range": {"pinball": 0.2, "coverage": 0.9}}, 0),  # of a coverage the least that will do
        ({"range": {"pinball": 0.1, "coverage": 0.91}}, 2),
        ({"kind": {"log_loss": 0.44}, "size": {"r2": 0.8, "rmse": 1.0}}, 3),
    ],
)
def test_floors(floors: Any, unmet: int) -> None:
    lines = below_floor(REPORT, floors)
    assert len(lines) == unmet
    assert all("floor" in line for line in lines)


@pytest.mark.parametrize("as_read", [lambda report: report, finite], ids=["as it is", "as JSON knows it"])
def test_what_is_no_number_clears_no_floor(as_read: Any) -> None:
    part = {"chosen": "mean", "members": [], "candidates": [entry("mean", r2=math.nan)]}
    assert len(below_floor(as_read({"targets": {"size": part}}), {"size": {"r2": -5.0}})) == 1


def test_flat_metrics_hold_bounds_and_leave_out_what_is_no_number() -> None:
    flat = flat_metrics(REPORT, "members", "a")
    assert flat["test/kind/accuracy"] == 0.7
    assert (flat["test/kind/accuracy_low"], flat["test/kind/accuracy_high"]) == (0, 1)
    assert "test/size/r2" not in flat
    assert all(math.isfinite(value) for value in flat.values())


def test_finite_keeps_everything_else() -> None:
    assert finite({"a": [1, 2.5, math.nan, "nan", None], "b": (math.inf, True)}) == {
        "a": [1, 2.5, None, "nan", None],
        "b": [None, True],
    }
