"""A whole way of the data without a flow: real tiny members, the bank, the fusions and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuseline.bank import Bank, BankedMember, build_bank
from fuseline.evaluation.report import evaluate
from fuseline.fusion.fuse import FusedTarget, fuse_target
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store, sha256_of
from fuseline.training.messages import KIND
from fuseline.training.replica import train_into


@dataclass(frozen=True)
class Made:
    """What a recipe has come to."""

    store: Store
    plan: Plan
    bank: Bank
    fused: dict[str, FusedTarget] = field(default_factory=dict)
    report: Any = None
    before: dict[str, str] = field(default_factory=dict)
    """The sha256 of each of the members' files before anything was made of them."""

    def folders(self, member: str) -> list[Path]:
        return [self.store.path(KIND, job.key(self.plan.dataset)) for job in self.plan.members[member]]

    def weights(self) -> list[Path]:
        return [folder / "weights.safetensors" for name in self.plan.members for folder in self.folders(name)]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make() -> Callable[..., Made]:
    """Go through a recipe in this process, up to the report."""

    def go(tree: Mapping[str, Any], root: Path) -> Made:
        store = Store(root / "store")
        plan, _ = make_plan(Recipe.model_validate(tree), store)
        banked = []
        for name, jobs in plan.members.items():
            for job in jobs:
                train_into(store, plan.data, job, lambda epoch: None)
            keys = [job.key(plan.dataset) for job in jobs]
            banked.append(BankedMember(name, keys, [store.path(KIND, k) for k in keys], [job.share for job in jobs]))
        before = {str(path): sha256_of(path) for path in sorted((store.root / KIND).rglob("*")) if path.is_file()}
        bank, _ = build_bank(store, plan.dataset, plan.split, banked)
        fused = {
            target: fuse_target(store, bank, plan.dataset, plan.split, plan.fuse_spec(target), plan.units)[0]
            for target in plan.recipe.targets
        }
        settings = plan.recipe.evaluation
        report, _, _ = evaluate(
            store, bank, plan.dataset, plan.split, plan.units, list(fused.values()),
            {target: plan.metric_names(target) for target in fused},
            settings.resamples, settings.level, plan.recipe.seed,
        )  # fmt: skip
        return Made(store, plan, bank, fused, report, before)

    return go


def member(name: str, hidden: list[int], epochs: int = 4, **rest: Any) -> dict[str, Any]:
    return {
        "name": name,
        "architecture": {"mlp": {"hidden": hidden}},
        "epochs": epochs,
        "batch_size": 16,
        "optimizer": {"adamw": {"lr": 0.03}},
        "early_stopping": None,
        **rest,
    }


def wine(partition: Any, members: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "name": "wine",
        "data": {"source": {"sklearn": {"name": "wine"}}, "split": {"rule": "stratified", "fusion": 0.15}},
        "targets": {"wine": {"kind": "classification", "column": "target"}},
        "partition": partition,
        "members": members or [member("linear", []), member("mlp", [8], count=2)],
        "fusion": {"rules": ["mean", "vote", "weights", "greedy", "stacking", "features"]},
        "evaluation": {"resamples": 200},
    }


@pytest.fixture(scope="session")
def member_of() -> Callable[..., dict[str, Any]]:
    return member


@pytest.fixture(scope="session")
def wine_of() -> Callable[..., dict[str, Any]]:
    return wine


@pytest.fixture(scope="session", params=["full", "bootstrap", "kfold", "disjoint"])
def wine_made(request: pytest.FixtureRequest, make: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Wine by each partition rule."""
    tree = wine({"kfold": {"folds": 3}} if request.param == "kfold" else request.param)
    if request.param != "kfold":
        tree["fusion"] = {"rules": ["mean", "weights", "features"]}
    return make(tree, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def loss() -> Callable[..., float]:
    """Log loss over rows, by the formula."""
    return lambda p, y: float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, None)).mean())
