"""Fixtures that several unit tests share. Functions are session-wide, so that Hypothesis tests may use them too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import ArrayLike

from fuseline.bank import Bank, BankedMember, build_bank
from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset, content_hash
from fuseline.data.schema import Schema, TargetSchema
from fuseline.data.split import ROLES, Split
from fuseline.errors import UserError
from fuseline.fusion.combine import Outputs
from fuseline.fusion.rules import FUSIONS, UNFIT
from fuseline.models.losses import LOSSES
from fuseline.models.network import NetworkSpec
from fuseline.partition import Share
from fuseline.store import Store
from fuseline.terms import Kind
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
    """A data set straight from arrays: columns (N, P) or pictures (N, C, H, W), and targets (N,) or (N, C); int64 means classes
    where no ``tasks`` say otherwise."""

    def make(
        inputs: ArrayLike,
        targets: Mapping[str, ArrayLike],
        split_column: ArrayLike | None = None,
        classes: Mapping[str, list[str | int | bool]] | None = None,
        tasks: Mapping[str, TargetSchema] | None = None,
    ) -> Dataset:
        x = np.asarray(inputs)
        values = {name: np.asarray(y) for name, y in targets.items()}
        kinds = (
            {
                name: TargetSchema(kind="classification", classes=(classes or {}).get(name) or list(range(int(y.max()) + 1)))
                if y.dtype.kind == "i"
                else TargetSchema(kind="regression")
                for name, y in values.items()
            }
            if tasks is None
            else dict(tasks)
        )
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
        targets = dataset.schema.targets
        network = NetworkSpec(
            architecture=Component.model_validate(architecture), heads={name: Component(name="linear") for name in targets}
        )
        defaults: dict[str, Any] = {
            "network": network,
            "losses": {name: Component(name=next(iter(LOSSES[target.kind]))) for name, target in targets.items()},
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


TASKS: dict[str, TargetSchema] = {
    "kind": TargetSchema(kind="classification", classes=[0, 1, 2]),
    "grade": TargetSchema(kind="ordinal", classes=["low", "middle", "high", "highest"]),
    "signs": TargetSchema(kind="multilabel", classes=["u", "v", "w"]),
    "size": TargetSchema(kind="regression"),
    "range": TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.9]),
}
"""One target of each kind."""

QUICK: dict[str, dict[str, Any]] = {"features": {"steps": 20}, "gate": {"steps": 20}}
OTHERWISE: dict[str, dict[str, Any]] = {
    "trimmed": {"cut": 0.4},
    "greedy": {"steps": 5, "bags": 3},
    "stacking": {"passthrough": True},
    "gate": {"steps": 20, "sees": "inputs", "hidden": 0},
    "dynamic": {"sees": "inputs", "method": "ola"},
    "features": {"steps": 20, "merge": "attention"},
}
"""Settings by which rules do something else than by default."""


@pytest.fixture(scope="session")
def rules_of() -> Callable[..., list[Component]]:
    """Rules that fit a kind, checked and completed, quick to fit: all of them or those named, by default or ``otherwise``."""

    def make(kind: Kind, *names: str, otherwise: bool = False) -> list[Component]:
        settings = OTHERWISE if otherwise else QUICK
        fitting = [name for name in FUSIONS if kind not in UNFIT.get(name, ()) and (not names or name in names)]
        return [complete(Component(name=name, settings=settings.get(name, {})), FUSIONS, "rules") for name in fitting]

    return make


def drawn(task: TargetSchema, rows: int, random: np.random.Generator) -> Any:
    """Targets of a kind, without any missing."""
    if task.exclusive:
        return random.permutation(np.arange(rows) % task.width)
    if task.kind == "multilabel":
        return random.integers(0, 2, (rows, task.width)).astype(np.float32)
    return random.normal(5, 2, rows)


def masked(target: Any, share: float, random: np.random.Generator) -> Any:
    """The same with some unknown; of several labels each by itself, and of some rows all."""
    target = target.copy()
    if target.ndim == 2:
        target[random.random(target.shape) < share] = np.nan
    target[random.random(len(target)) < share] = -1 if target.dtype.kind == "i" else np.nan
    return target


def imagined(task: TargetSchema, truth: Any, skill: float, random: np.random.Generator) -> Any:
    """What a member of some skill says (N, C); at 0 it has nothing to do with the truth."""
    n = len(truth)
    if task.exclusive:
        odds = np.exp(random.normal(size=(n, task.width)) + skill * np.eye(task.width)[truth])
        return odds / odds.sum(1, keepdims=True)
    if task.kind == "multilabel":
        return 1 / (1 + np.exp(-random.normal(size=truth.shape) - skill * (2 * truth - 1)))
    middle = (truth + random.normal(0, 2 / skill, n) if skill else random.normal(5, 2, n))[:, None]
    if task.kind == "regression":
        return middle
    steps = random.uniform(0.2, 1.5, (n, task.width))
    return middle + steps.cumsum(1) - steps.cumsum(1)[:, task.middle : task.middle + 1]


@pytest.fixture(scope="session")
def said_of() -> Callable[..., tuple[Outputs, torch.Tensor]]:
    """What imagined members say of one target of a kind, and the target; features, inputs and costs are noise."""

    def make(
        kind: Kind, seed: int = 0, skills: tuple[float, ...] = (2.0, 1.0, 0.5), rows: int = 60, unknown: float = 0.0
    ) -> tuple[Outputs, torch.Tensor]:
        random = np.random.default_rng(seed)
        task = next(task for task in TASKS.values() if task.kind == kind)
        truth, members = drawn(task, rows, random), len(skills)
        values = torch.from_numpy(np.stack([imagined(task, truth, skill, random) for skill in skills]))
        outputs = Outputs(
            values,
            torch.from_numpy(random.uniform(0.5, 2, (members, rows, 1))) if kind == "regression" else None,
            torch.from_numpy(random.normal(size=(rows, 3 * members))),
            torch.from_numpy(random.normal(size=(rows, 2))),
            task,
            (3,) * members,
            torch.from_numpy(random.uniform(1, 9, (members, 2))),
        )
        target = torch.from_numpy(masked(truth, unknown, random) if unknown else truth)
        return outputs, target

    return make


@dataclass(frozen=True)
class World:
    """A data set with a target of each kind, some missing, its split, and members that were never trained: each replica is a
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

    def rows(self, target: str, *roles: str) -> Any:
        """The rows of some roles that have a target."""
        return self.dataset.known(target, self.split.rows(*roles))  # type: ignore[arg-type]

    def unknown(self, target: str) -> Any:
        """The rows that lack a target."""
        return np.setdiff1d(np.arange(len(self.dataset)), self.dataset.known(target, np.arange(len(self.dataset))))

    def truth(self, target: str, *roles: str) -> Any:
        return np.asarray(self.dataset.targets[target])[self.rows(target, *roles)]


def write_replica(folder: Path, truth: Mapping[str, Any], skill: float, width: int, random: np.random.Generator) -> None:
    """A replica's arrays, of all targets, as training leaves them."""
    n = len(truth["size"])
    for name, task in TASKS.items():
        np.save(folder / f"values-{name}.npy", imagined(task, truth[name], skill, random).astype(np.float32))
    np.save(folder / "variances-size.npy", random.uniform(0.5, 2, (n, 1)).astype(np.float32))
    np.save(folder / "features.npy", random.normal(size=(n, width)).astype(np.float32))
    (folder / "training.json").write_text(json.dumps({"latency": round(width + skill, 3), "bytes": 100 * width}))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, dataset_of: Callable[..., Dataset]) -> World:
    """200 rows: 80 to train on, 40 in each other role and none out of fold but for the first two members, which have two
    replicas; the third has one and judges nothing. Of each target some are missing."""
    random = np.random.default_rng(0)
    n = 200
    x = random.normal(size=(n, 2))
    truth = {name: drawn(task, n, random) for name, task in TASKS.items()}
    dataset = dataset_of(x, {name: masked(y, 0.1, random) for name, y in truth.items()}, tasks=TASKS)
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
            write_replica(folder, truth, skill, 2 + m, random)
        shares = [Share(train)] if m == 2 else [Share(halves[k], judged=halves[1 - k]) for k in range(2)]
        members.append(BankedMember(name, keys, folders, shares))
    store = Store(tmp_path_factory.mktemp("world") / "store")
    bank, reused = build_bank(store, dataset, split, members)
    assert not reused
    assert set(ROLES) == {"train", "fusion", "calibration", "test"}
    return World(store, dataset, split, members, bank)


@pytest.fixture(scope="session")
def retold(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """The world with members that say something else, by ``change(name, array) → array`` of each replica's arrays."""

    def make(change: Callable[[str, Any], Any]) -> World:
        root, members = tmp_path_factory.mktemp("retold"), []
        for member in world.members:
            folders = [Path(shutil.copytree(folder, root / key)) for folder, key in zip(member.folders, member.keys, strict=True)]
            for file in (file for folder in folders for file in folder.glob("*.npy")):
                np.save(file, change(file.stem, np.load(file)))
            members.append(replace(member, keys=[f"{root.name}/{key}" for key in member.keys], folders=folders))
        bank, _ = build_bank(world.store, world.dataset, world.split, members)
        return World(world.store, world.dataset, world.split, members, bank)

    return make
