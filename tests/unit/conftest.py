"""Fixtures that several unit tests share. Functions are session-wide, so that Hypothesis tests may use them too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import ArrayLike

from fuseline.bank import Bank, BankedMember, build_bank
from fuseline.component import Component
from fuseline.data.dataset import Dataset, content_hash
from fuseline.data.schema import Schema, TargetSchema
from fuseline.data.split import ROLES, Split
from fuseline.errors import UserError
from fuseline.models.network import NetworkSpec
from fuseline.partition import Share
from fuseline.store import Store
from fuseline.training.train import TrainSpec

# Nothing depends on the clock or on chance: a busy machine and a second run give the same answers.
settings.register_profile("unit", deadline=None, derandomize=True, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """Call a function that must refuse what it is given, check that it does so in one sentence, and return the sentence."""

    def call(error: type[UserError], function: Callable[..., Any], *args: Any, **settings: Any) -> str:
        with pytest.raises(error) as caught:
            function(*args, **settings)
        sentence = str(caught.value)
        assert caught.value.exit_code == 2
        assert len(sentence.splitlines()) == 1, f"more than one line: {sentence!r}"
        assert sentence.endswith((".", "?")), f"not a sentence: {sentence!r}"
        return sentence

    return call


@pytest.fixture(scope="session")
def dataset_of() -> Callable[..., Dataset]:
    """A data set straight from arrays: columns (N, P) or pictures (N, C, H, W), and targets (N,); int64 means classes."""

    def make(
        inputs: ArrayLike,
        targets: Mapping[str, ArrayLike],
        split_column: ArrayLike | None = None,
        classes: Mapping[str, list[str | int | bool]] | None = None,
    ) -> Dataset:
        x = np.asarray(inputs)
        values = {name: np.asarray(y) for name, y in targets.items()}
        kinds = {
            name: TargetSchema(kind="classification", classes=(classes or {}).get(name) or list(range(int(y.max()) + 1)))
            if y.dtype.kind == "i"
            else TargetSchema(kind="regression")
            for name, y in values.items()
        }
        if x.ndim == 4:
            schema = Schema(image=x.shape[1:], image_dtype=str(x.dtype), targets=kinds)
            arrays = {"image": x}
        else:
            schema = Schema(numeric=[f"x{j}" for j in range(x.shape[1])], targets=kinds)
            arrays = {"numeric": x.astype(np.float32)}
        column = None if split_column is None else np.asarray(split_column)
        content = content_hash(schema, arrays)
        return Dataset("", "memory", "", schema, np.arange(len(x)).astype(str), content, arrays, values, column)

    return make


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., TrainSpec]:
    """How to train a small network on a data set; anything may be set differently."""

    def make(dataset: Dataset, architecture: str | dict[str, Any] = "mlp", **changes: Any) -> TrainSpec:
        losses = {"classification": "cross_entropy", "regression": "squared_error"}
        targets = dataset.schema.targets
        network = NetworkSpec(
            architecture=Component.model_validate(architecture), heads={name: Component(name="linear") for name in targets}
        )
        defaults: dict[str, Any] = {
            "network": network,
            "losses": {name: Component(name=losses[target.kind]) for name, target in targets.items()},
            "weights": dict.fromkeys(targets, 1.0),
            "epochs": 3,
            "batch_size": 16,
            "optimizer": Component(name="adamw"),
            "schedule": Component(name="one_cycle"),
            "augment": [],
            "patience": None,
            "device": "cpu",
            "threads": 1,
        }
        return TrainSpec(**(defaults | changes))

    return make


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class World:
    """A data set with a class ``kind`` and a value ``size``, its split, and members that were never trained: each replica is a
    folder with arrays made by hand, as training leaves it in the store."""

    store: Store
    dataset: Dataset
    split: Split
    members: list[BankedMember]
    bank: Bank

    @property
    def units(self) -> Any:
        return np.arange(len(self.dataset))

    def said(self, member: int, replica: int, name: str) -> Any:
        """One of a replica's arrays."""
        return np.load(self.members[member].folders[replica] / f"{name}.npy")

    def truth(self, target: str, *roles: str) -> Any:
        return np.asarray(self.dataset.targets[target])[self.split.rows(*roles)]  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, dataset_of: Callable[..., Dataset]) -> World:
    """200 rows: 80 to train on, 40 in each other role and none out of fold but for the first two members, which have two
    replicas; the third has one and judges nothing."""
    random = np.random.default_rng(0)
    n, classes = 200, 3
    x = random.normal(size=(n, 2))
    kind, size = random.integers(0, classes, n), random.normal(5, 2, n)
    dataset = dataset_of(x, {"kind": kind, "size": size})
    roles = np.repeat([0, 0, 1, 2, 3], n // 5).astype(np.int8)
    roles[-3:] = -1  # excluded
    roles = roles[random.permutation(n)]
    split = Split(roles)
    train = split.rows("train")
    halves = [train[::2], train[1::2]]
    members = []
    for m, (name, skill) in enumerate([("a", 2.0), ("b", 1.0), ("c", 0.5)]):
        keys = [f"{name}{k}" for k in range(2 if m < 2 else 1)]
        folders = [tmp_path_factory.mktemp(key) for key in keys]
        for folder in folders:
            scores = random.normal(size=(n, classes)) + skill * np.eye(classes)[kind]
            odds = np.exp(scores)
            np.save(folder / "values-kind.npy", (odds / odds.sum(1, keepdims=True)).astype(np.float32))
            np.save(folder / "values-size.npy", (size + random.normal(0, 2 / skill, n))[:, None].astype(np.float32))
            np.save(folder / "variances-size.npy", random.uniform(0.5, 2, (n, 1)).astype(np.float32))
            np.save(folder / "features.npy", random.normal(size=(n, 2 + m)).astype(np.float32))
        shares = [Share(train)] if m == 2 else [Share(halves[k], judged=halves[1 - k]) for k in range(2)]
        members.append(BankedMember(name, keys, folders, shares))
    store = Store(tmp_path_factory.mktemp("world") / "store")
    bank, reused = build_bank(store, dataset, split, members)
    assert not reused
    assert set(ROLES) == {"train", "fusion", "calibration", "test"}
    return World(store, dataset, split, members, bank)
