"""Invariants 4, 5 and 6: members stay what they are, differ, and do not depend on who joins them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

from fuseline.plan import make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store


def hashes(files: list[Path]) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_fusion_and_evaluation_never_change_a_member(wine_made: Any) -> None:
    files = [Path(name) for name in wine_made.before]
    assert {file.name for file in files} >= {"weights.safetensors", "features.npy", "values-wine.npy"}
    assert dict(zip(wine_made.before, hashes(files), strict=True)) == wine_made.before


def test_members_and_replicas_have_weights_of_their_own(wine_made: Any) -> None:
    found = hashes(wine_made.weights())
    assert len(found) == sum(map(len, wine_made.plan.members.values()))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("partition", ["full", "bootstrap", {"kfold": {"folds": 3}}], ids=str)
@pytest.mark.parametrize("stopping", [None, {"holdout": 0.2}], ids=["all epochs", "early stopping"])
def test_one_more_member_leaves_the_earlier_ones_as_they_are(
    partition: Any, stopping: Any, tmp_path: Path, wine_of: Callable[..., Any], member_of: Callable[..., Any]
) -> None:
    def keys(*members: dict[str, Any]) -> dict[str, list[str]]:
        plan, _ = make_plan(Recipe.model_validate(wine_of(partition, list(members))), Store(tmp_path / "store"))
        return {name: [job.key(plan.dataset) for job in jobs] for name, jobs in plan.members.items()}

    two = member_of("mlp", [8], count=2, early_stopping=stopping)
    before = keys(two)
    more = keys({**two, "count": 3})
    other = keys(two, member_of("linear", [], early_stopping=stopping))
    assert {name: more[name] for name in before} == before
    assert {name: other[name] for name in before} == before
    assert len({key for part in more.values() for key in part}) == 3 * len(before["mlp-1"])


def test_the_mean_is_never_worse_than_its_members_on_average(wine_made: Any) -> None:
    """Jensen's inequality, on the real bank and by scikit-learn's log loss."""
    values = np.asarray(wine_made.bank.values("wine"), float)
    rows = np.flatnonzero(np.isfinite(values).all((0, 2)))
    p, y = values[:, rows], np.asarray(wine_made.plan.dataset.targets["wine"])[rows]
    p /= p.sum(2, keepdims=True)

    def brier(q: Any) -> float:
        return float(((q - np.eye(3)[y]) ** 2).sum(1).mean())

    assert log_loss(y, p.mean(0), labels=range(3)) <= np.mean([log_loss(y, q, labels=range(3)) for q in p]) + 1e-12
    assert brier(p.mean(0)) <= np.mean([brier(q) for q in p]) + 1e-12


def test_banked_probabilities_sum_to_one(wine_made: Any) -> None:
    values = np.asarray(wine_made.bank.values("wine"), float)
    sums = values[np.isfinite(values).all(2)].sum(1)
    np.testing.assert_allclose(sums, 1, atol=1e-6)
