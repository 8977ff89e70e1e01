"""Ensembles of networks that were never trained, and a recipe that has gone as far as its fusions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fuseline.bank import Bank, BankedMember, build_bank
from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.fusion.combine import COMBINERS, Combiner
from fuseline.fusion.fuse import FusedTarget, fuse_target
from fuseline.models.network import Network, NetworkSpec, Replicated
from fuseline.package.ensemble import Ensemble
from fuseline.package.files import Description, MemberFile, TargetFile, save_ensemble
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store
from fuseline.training.replica import KIND, train_into

MEMBERS, WIDTH = 3, 4
TARGETS = {"kind": TargetSchema(kind="classification", classes=["up", "down", "still"]), "size": TargetSchema(kind="regression")}
TABLE = Schema(numeric=["x", "y"], categorical={"color": ["blue", "red"]}, targets=TARGETS)
PICTURES = Schema(image=(1, 4, 4), image_dtype="uint8", targets=TARGETS)


@dataclass(frozen=True)
class Made:
    """An ensemble in memory and what it takes to write it."""

    description: Description
    networks: list[list[Network]]
    combiners: dict[str, Combiner]

    @property
    def ensemble(self) -> Ensemble:
        numbers = {name: target.number for name, target in self.description.targets.items()}
        members = [Replicated(replicas) for replicas in self.networks]
        return Ensemble(self.description.schema_, members, self.combiners, numbers).eval()

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_ensemble(self.description, self.networks, self.combiners, folder)
        return folder


def tensors(kind: str, classes: int, random: torch.Generator) -> dict[str, torch.Tensor]:
    """What a fitted combiner of a kind holds, for any target of the ensemble."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    width = WIDTH * (MEMBERS + 1)  # the first member has two replicas
    return {
        "mixture": {"weights": torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)},
        "vote": {},
        "logistic": {"coefficients": normal(classes, MEMBERS * classes), "intercept": normal(classes)},
        "linear": {"coefficients": normal(MEMBERS), "intercept": normal()},
        "feature_head": {
            "mean": normal(width), "scale": normal(width).exp(), "w1": normal(5, width), "b1": normal(5),
            "w2": normal(classes, 5), "b2": normal(classes), "center": normal(), "unit": normal().exp(),
            "activation": torch.tensor(1),
        },
    }[kind]  # fmt: skip


@pytest.fixture(scope="session")
def ensemble_of() -> Callable[..., Made]:
    """Three members, the first one with two replicas, random weights, and the combiners asked for."""

    def make(kinds: Mapping[str, str] | None = None, number: float = 1.7, pictures: bool = False, seed: int = 0) -> Made:
        kinds = kinds or {"kind": "mixture", "size": "mixture"}
        schema = PICTURES if pictures else TABLE
        spec = NetworkSpec(
            architecture=Component(name="mlp", settings={"hidden": [WIDTH]}),
            heads={name: Component(name="linear") for name in TARGETS},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            counts = [2, *[1] * (MEMBERS - 1)]
            networks = [[Network(schema, spec).eval() for _ in range(count)] for count in counts]
        random = torch.Generator().manual_seed(seed)
        combiners = {t: COMBINERS[kind](tensors(kind, TARGETS[t].width, random)) for t, kind in kinds.items()}
        description = Description(
            schema_=schema,
            members=[MemberFile(name=f"m{i}", network=spec, replicas=count) for i, count in enumerate(counts)],
            targets={t: TargetFile(rule="any", combiner=kind, number=number) for t, kind in kinds.items()},
            threads=1,
            batch=16,
            provenance={},
        )
        return Made(description, networks, combiners)

    return make


@pytest.fixture(scope="session")
def raw() -> pd.DataFrame:
    """Raw rows for the ensemble, by an index of their own."""
    random = np.random.default_rng(0)
    n = 50
    return pd.DataFrame(
        {
            "x": np.where(random.random(n) < 0.2, np.nan, random.normal(size=n)),
            "y": random.normal(size=n),
            "color": random.choice(["blue", "red", "green"], n),
        },
        index=pd.Index([f"row {i}" for i in range(n)], name="name"),
    )


@dataclass(frozen=True)
class Gone:
    """A recipe that has gone as far as its fusions."""

    store: Store
    plan: Plan
    bank: Bank
    fused: list[FusedTarget]
    frame: pd.DataFrame


@pytest.fixture(scope="session")
def gone_to_fusion(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Gone]:
    """Train tiny members on a table, bank and fuse; whatever is in the store already is reused."""
    root = tmp_path_factory.mktemp("gone")
    random = np.random.default_rng(1)
    n = 150
    x, y = random.normal(size=(2, n))
    kind = np.where(x + 0.3 * random.normal(size=n) > 0, "up", "down")
    frame = pd.DataFrame({"x": x, "y": y, "kind": kind, "size": 3 * y + random.normal(size=n)})
    frame.to_parquet(root / "table.parquet")
    shape = {"architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "batch_size": 16, "early_stopping": None}

    def go(**changes: Any) -> Gone:
        tree = {
            "name": "table",
            "data": {
                "source": {"parquet": {"path": str(root / "table.parquet")}},
                "split": {"rule": "stratified", "fusion": 0.25, "calibration": 0.15, "test": 0.2},
            },
            "targets": {"kind": {"kind": "classification"}, "size": {"kind": "regression"}},
            "partition": "full",
            "members": [{"name": "a", **shape}, {"name": "b", **shape}],
            "fusion": {"rules": ["mean"]},
            "training": {"device": "cpu"},
            **changes,
        }
        store = Store(root / "store")
        plan, _ = make_plan(Recipe.model_validate(tree), store)
        banked = []
        for name, jobs in plan.members.items():
            for job in jobs:
                train_into(store, plan.data, job, lambda epoch: None)
            keys = [job.key(plan.dataset) for job in jobs]
            banked.append(BankedMember(name, keys, [store.path(KIND, key) for key in keys], [job.share for job in jobs]))
        bank, _ = build_bank(store, plan.dataset, plan.split, banked)
        fused = [
            fuse_target(store, bank, plan.dataset, plan.split, plan.fuse_spec(target), plan.units)[0]
            for target in plan.recipe.targets
        ]
        return Gone(store, plan, bank, fused, frame)

    return go
