"""Invariants 10 and 11: calibration hangs on the calibration rows alone, and no choice hangs on the test rows.

One table, whose labels are changed in the rows of one role at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

KINDS = {"a class": "kind", "a value": "size"}


@dataclass(frozen=True)
class Choices:
    """All that is decided before the test rows are looked at, without the keys, which hold the data's fingerprint."""

    tensors: dict[str, torch.Tensor]
    comparison: Any
    best_member: int
    numbers: list[float]
    weights: list[dict[str, torch.Tensor]]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def all_same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def table() -> pd.DataFrame:
    random = np.random.default_rng(3)
    n = 240
    x, y = random.normal(size=(2, n))
    return pd.DataFrame(
        {
            "x": x,
            "y": y,
            "role": np.repeat(["train", "fusion", "calibration", "test"], n // 4)[random.permutation(n)],
            "kind": np.where(x + 0.5 * random.normal(size=n) > 0, "up", "down"),
            "size": np.exp(y) + 0.3 * random.normal(size=n),
        }
    )


@pytest.fixture(scope="module", params=KINDS, ids=str)
def target(request: pytest.FixtureRequest) -> str:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def made_with(
    target: str, make: Callable[..., Any], member_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str | None], Any]:
    """The whole way of the data, with the labels of one role turned upside down."""
    kept: dict[str | None, Any] = {}

    def go(role: str | None) -> Any:
        if role not in kept:
            folder = tmp_path_factory.mktemp(f"changed-{role}")
            frame = table()
            rows = frame["role"] == role
            frame.loc[rows, "kind"] = frame.loc[rows, "kind"].map({"up": "down", "down": "up"})
            frame.loc[rows, "size"] = 50 - 7 * frame.loc[rows, "size"]
            frame.to_parquet(folder / "table.parquet")
            kind = "classification" if target == "kind" else "regression"
            rules = ["mean", "weights", "greedy", "stacking"]
            tree = {
                "name": "table",
                "data": {
                    "source": {"parquet": {"path": str(folder / "table.parquet")}},
                    "inputs": ["x", "y"],
                    "split": {"rule": "column", "column": "role"},
                },
                "targets": {target: {"kind": kind}},
                "partition": {"kfold": {"folds": 2}},
                "members": [member_of("linear", [], 6), member_of("mlp", [8], 6)],
                "fusion": {"rules": rules},
                "evaluation": {"resamples": 100},
            }
            kept[role] = make(tree, folder)
        return kept[role]

    return go


def choices(made: Any, target: str) -> Choices:
    fused = made.fused[target]
    folder = made.store.path("fusion", fused.key)
    numbers = [candidate.number for candidate in (*fused.candidates, *fused.members)]
    weights = [load_file(file) for file in made.weights()]
    return Choices(load_file(folder / "tensors.safetensors"), fused.comparison, fused.best_member, numbers, weights)


def test_changed_test_labels_change_no_choice(made_with: Callable[..., Any], target: str) -> None:
    before, after = choices(made_with(None), target), choices(made_with("test"), target)
    assert all_same(before.weights, after.weights)
    assert same(before.tensors, after.tensors)
    assert before.comparison == after.comparison
    assert before.best_member == after.best_member
    assert before.numbers == after.numbers


def test_changed_test_labels_change_the_report(made_with: Callable[..., Any], target: str) -> None:
    """Else the test above would hold for a pipeline that never looks at any label."""
    one, other = (made_with(role).report["targets"][target]["candidates"] for role in (None, "test"))
    assert [c["name"] for c in one] == [c["name"] for c in other]
    assert all(a["metrics"] != b["metrics"] for a, b in zip(one, other, strict=True))


def test_changed_calibration_labels_change_the_numbers_alone(made_with: Callable[..., Any], target: str) -> None:
    before, after = choices(made_with(None), target), choices(made_with("calibration"), target)
    assert all_same(before.weights, after.weights)
    assert same(before.tensors, after.tensors)
    assert before.comparison == after.comparison
    assert before.best_member == after.best_member
    assert all(a != b for a, b in zip(before.numbers, after.numbers, strict=True))


def test_changed_fusion_labels_change_the_fusions_and_no_member(made_with: Callable[..., Any], target: str) -> None:
    before, after = choices(made_with(None), target), choices(made_with("fusion"), target)
    assert all_same(before.weights, after.weights)
    learnt = [name for name in before.tensors if name.startswith("stacking/")]
    assert learnt
    assert not any(torch.equal(before.tensors[name], after.tensors[name]) for name in learnt)
    singles = slice(-2, None)  # a member alone is calibrated on calibration rows, whatever the fusion rows say
    assert before.numbers[singles] == after.numbers[singles]
    mean = next(i for i, c in enumerate(made_with(None).fused[target].candidates) if c.name == "mean")
    assert before.numbers[mean] == after.numbers[mean]


def test_changed_training_labels_change_the_members(made_with: Callable[..., Any], target: str) -> None:
    before, after = choices(made_with(None), target), choices(made_with("train"), target)
    assert not any(same(a, b) for a, b in zip(before.weights, after.weights, strict=True))


def test_the_report_stands_on_the_test_rows_alone(made_with: Callable[..., Any], target: str) -> None:
    made = made_with(None)
    (place,) = (made.store.root / "report").glob("[!.]*")
    rows = np.load(place / f"rows-{target}.npy")
    assert rows.tolist() == made.plan.split.rows("test").tolist()
    said, truth = np.load(place / f"predictions-{target}.npy"), np.asarray(made.plan.dataset.targets[target])[rows]
    chosen = made.report["targets"][target]["chosen"]
    metrics = next(c["metrics"] for c in made.report["targets"][target]["candidates"] if c["name"] == chosen)
    if target == "kind":
        assert metrics["accuracy"]["value"] == pytest.approx((said.argmax(1) == truth).mean())
    else:
        assert metrics["rmse"]["value"] == pytest.approx(np.sqrt(((said[:, 0] - truth) ** 2).mean()))
