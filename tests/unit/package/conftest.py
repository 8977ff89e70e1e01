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
from fuseline.fusion.combine import Combiner
from fuseline.fusion.combiners import COMBINERS
from fuseline.fusion.fuse import FusedTarget, fuse_target
from fuseline.models.network import Network, NetworkSpec
from fuseline.package.ensemble import Ensemble
from fuseline.package.files import Description, MemberFile, TargetFile, assemble, save_ensemble
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store
from fuseline.training.messages import KIND
from fuseline.training.replica import train_into

MEMBERS, WIDTH = 3, 4
TARGETS = {
    "kind": TargetSchema(kind="classification", classes=["up", "down", "still"]),
    "grade": TargetSchema(kind="ordinal", classes=[1, 2, 3, 5]),
    "signs": TargetSchema(kind="multilabel", classes=["u", "v"]),
    "size": TargetSchema(kind="regression"),
    "range": TargetSchema(kind="quantile", levels=[0.05, 0.5, 0.95]),
}
TABLE = Schema(numeric=["x", "y"], categorical={"color": ["blue", "red"]}, targets=TARGETS)
PICTURES = Schema(image=(1, 4, 4), image_dtype="uint8", targets=TARGETS)
INPUTS = 2 * 2 + 4
"""Of a table row as plain numbers."""
LOOKS = {"gate": ["inputs"], "feature_head": ["features"], "attention_head": ["features"]}


@dataclass(frozen=True)
class Made:
    """An ensemble in memory and what it takes to write it."""

    description: Description
    networks: list[list[Network]]
    combiners: dict[str, Combiner]

    @property
    def ensemble(self) -> Ensemble:
        return assemble(self.description, self.networks, self.combiners)

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_ensemble(self.description, self.networks, self.combiners, folder)
        return folder


def tensors(kind: str, classes: int, random: torch.Generator) -> dict[str, torch.Tensor]:
    """What a fitted combiner of a kind holds, for any target of the ensemble; a gate sees the inputs."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    width = WIDTH * (MEMBERS + 1)  # the first member has two replicas
    return {
        "mixture": {"weights": torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)},
        "vote": {},
        "logistic": {"coefficients": normal(classes, MEMBERS * classes), "intercept": normal(classes)},
        "linear": {"coefficients": normal(MEMBERS), "intercept": normal()},
        "entrywise": {"coefficients": normal(classes, MEMBERS), "intercept": normal(classes)},
        "product": {"weights": torch.full((MEMBERS,), 1 / MEMBERS, dtype=torch.float64)},
        "trimmed": {"cut": torch.tensor(1)},
        "pruned": {
            "weights": torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64), "objectives": normal(2, 4),
            "front": torch.tensor([[True, False, True], [False, True, False]]),
        },
        "gate": {
            "sees": torch.tensor(2), "mean": normal(INPUTS), "scale": normal(INPUTS).exp(), "v": normal(MEMBERS, 5),
            "c": normal(MEMBERS), "w": normal(5, INPUTS), "b": normal(5),
        },
        "neighbours": {
            "sees": torch.tensor(0), "mean": normal(MEMBERS * classes), "scale": normal(MEMBERS * classes).exp(),
            "method": torch.tensor(3), "count": torch.tensor(2), "rows": normal(9, MEMBERS * classes),
            "record": normal(9, MEMBERS, 1).exp(),
        },
        "attention_head": {
            "mean": normal(width), "scale": normal(width).exp(), "widths": torch.tensor([2 * WIDTH, WIDTH, WIDTH]),
            "w1": normal(5, width), "b1": normal(MEMBERS, 5), "v": normal(5, 5), "q": normal(5), "w2": normal(classes, 5),
            "b2": normal(classes), "center": normal(), "unit": normal().exp(), "activation": torch.tensor(2),
        },
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
        kinds = dict.fromkeys(TARGETS, "mixture") | dict(kinds or {})
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
            targets={
                t: TargetFile(rule="any", combiner=kind, number=number, looks=LOOKS.get(kind, [])) for t, kind in kinds.items()
            },
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


def table() -> pd.DataFrame:
    """Rows with a target of each kind, some of them missing, and inputs with gaps."""
    random = np.random.default_rng(1)
    n = 150
    x, y = random.normal(size=(2, n))
    color = random.choice(["red", "green"], n)
    score = x + (color == "red") + 0.3 * random.normal(size=n)
    frame = pd.DataFrame(
        {
            "x": np.where(random.random(n) < 0.1, np.nan, x),
            "y": y,
            "color": pd.Series(color, dtype=object).where(random.random(n) > 0.1, None),
            "kind": np.where(score > 0.5, "up", "down"),
            "grade": np.digitize(score, [-0.5, 0.5]) + 1.0,
            "u": (y + 0.5 * random.normal(size=n) > 0).astype(float),
            "v": (score > 1).astype(float),
            "size": 3 * y + random.normal(size=n),
            "range": 100 + 10 * x + 5 * random.normal(size=n),
        }
    )
    for name in ("grade", "u", "v", "range"):
        frame.loc[random.random(n) < 0.08, name] = np.nan
    return frame


TASKS: dict[str, dict[str, Any]] = {
    "kind": {"kind": "classification"},
    "grade": {"kind": "ordinal", "missing": "mask"},
    "signs": {"kind": "multilabel", "columns": ["u", "v"], "missing": "mask"},
    "size": {"kind": "regression", "loss": "gaussian_nll"},
    "range": {"kind": "quantile", "levels": [0.1, 0.5, 0.9], "missing": "mask"},
}


@pytest.fixture(scope="session")
def gone_to_fusion(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Gone]:
    """Train tiny members on a table, bank and fuse; whatever is in the store already is reused."""
    root = tmp_path_factory.mktemp("gone")
    frame = table()
    frame.to_parquet(root / "table.parquet")
    shape = {"architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "batch_size": 16, "early_stopping": None}

    def go(**changes: Any) -> Gone:
        tree = {
            "name": "table",
            "data": {
                "source": {"parquet": {"path": str(root / "table.parquet")}},
                "inputs": ["x", "y", "color"],
                "split": {"rule": "stratified", "fusion": 0.25, "calibration": 0.15, "test": 0.2},
            },
            "targets": TASKS,
            "partition": "full",
            "members": [{"name": "a", **shape}, {"name": "b", **shape}, {"name": "c", **shape}],
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
