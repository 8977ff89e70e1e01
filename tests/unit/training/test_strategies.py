"""Strategies: what a member takes over from those before it; boosting against scikit-learn's AdaBoost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import AdaBoostClassifier, AdaBoostRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fuseline.component import Component
from fuseline.data.dataset import Dataset
from fuseline.data.schema import TargetSchema
from fuseline.training.strategies import STRATEGIES, reweigh, snapshot, start
from fuseline.training.train import Start

Floats = NDArray[np.float64]
VALUE = TargetSchema(kind="regression")


def classes(count: int) -> TargetSchema:
    return TargetSchema(kind="classification", classes=list(range(count)))


class WatchedClassifier(AdaBoostClassifier):  # type: ignore[misc]
    """Keeps the rows' weights before each round."""

    def _boost(self, iboost: int, x: Any, y: Any, weight: Any, state: Any) -> Any:
        self.__dict__.setdefault("watched", []).append(weight.copy())
        return super()._boost(iboost, x, y, weight, state)


class WatchedRegressor(AdaBoostRegressor):  # type: ignore[misc]
    """Keeps the rows' weights before each round."""

    def _boost(self, iboost: int, x: Any, y: Any, weight: Any, state: Any) -> Any:
        self.__dict__.setdefault("watched", []).append(weight.copy())
        return super()._boost(iboost, x, y, weight, state)


# ---------------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("kind", "rate"), [("classification", 1.0), ("ordinal", 0.5)])
def test_classes_are_weighed_as_by_scikit_learn_s_samme(count: int, kind: Any, rate: float) -> None:
    x, y = make_classification(120, 6, n_informative=4, n_classes=count, n_clusters_per_class=1, flip_y=0.2, random_state=count)
    tree = DecisionTreeClassifier(max_depth=2)
    model = WatchedClassifier(tree, n_estimators=6, learning_rate=rate, random_state=0).fit(x, y)
    task, weight = TargetSchema(kind=kind, classes=list(range(count))), np.ones(len(y))
    assert len(model.watched) == 6
    for before, tree in zip(model.watched, model.estimators_, strict=True):
        assert weight / weight.sum() == pytest.approx(before / before.sum(), rel=1e-5)
        weight = reweigh(weight, tree.predict_proba(x).astype(np.float32), y, task, rate)
        assert weight.mean() == pytest.approx(1)
        assert weight.std() > 0.1


@pytest.mark.parametrize(("kind", "rate"), [("regression", 1.0), ("quantile", 1.0), ("regression", 0.5)])
def test_values_are_weighed_as_by_scikit_learn_s_adaboost_r2(kind: Any, rate: float) -> None:
    x, y = make_regression(150, 4, noise=20, random_state=0)
    tree = DecisionTreeRegressor(max_depth=4)
    model = WatchedRegressor(tree, n_estimators=6, learning_rate=rate, loss="linear", random_state=0).fit(x, y)
    task, weight = TargetSchema(kind=kind, levels=[0.1, 0.45, 0.9] if kind == "quantile" else []), np.ones(len(y))
    assert len(model.watched) == 6
    for before, tree in zip(model.watched, model.estimators_, strict=True):
        assert weight / weight.sum() == pytest.approx(before / before.sum(), rel=1e-4)
        middle = tree.predict(x)
        said = middle[:, None] + ([-30.0, 0.0, 50.0] if kind == "quantile" else [0.0])
        weight = reweigh(weight, said.astype(np.float32), y, task, rate)


def test_of_several_labels_a_row_is_as_wrong_as_the_share_of_its_known_labels() -> None:
    """Wrong: 0, ½ and 1; the last row has no label. With even weights that is chance, and changes nothing."""
    task, gap = TargetSchema(kind="multilabel", classes=["u", "v"]), np.nan
    said = np.array([[0.9, 0.1], [0.9, 0.9], [0.2, 0.2], [0.9, 0.9]], np.float32)
    target = np.array([[1, 0], [1, 0], [gap, 1], [gap, gap]])
    assert reweigh(np.ones(4), said, target, task).tolist() == [1, 1, 1, 1]
    weight = reweigh(np.array([2.0, 1.0, 0.5, 1.0]), said, target, task)
    error = (0.5 * 1.0 + 1 * 0.5) / 3.5
    odds = (1 - error) / error
    expected = np.array([2.0, odds**0.5, 0.5 * odds])
    assert weight[:3] == pytest.approx(expected / expected.mean())


@pytest.mark.parametrize("task", [classes(2), classes(4), VALUE], ids=lambda task: f"{task.kind} {task.width}")
def test_a_member_that_is_right_everywhere_changes_nothing(task: TargetSchema) -> None:
    y = np.arange(8) % task.width if task.exclusive else np.linspace(-1, 1, 8)
    said = np.eye(task.width)[y] if task.exclusive else y[:, None]
    weight = np.array([0.5, 1.5, 1, 1, 1, 1, 0.25, 1.75])
    assert reweigh(weight, said.astype(np.float64), y, task) == pytest.approx(weight)


@pytest.mark.parametrize("count", [2, 4])
def test_a_member_at_chance_or_worse_changes_nothing(count: int) -> None:
    y = np.arange(8) % count
    weight = np.linspace(0.3, 1.7, 8)
    wrong = np.eye(count)[(y + 1) % count].astype(np.float32)
    constant = np.eye(count)[np.zeros(8, int)].astype(np.float32)
    assert reweigh(weight, wrong, y, classes(count)).tolist() == weight.tolist()
    assert reweigh(np.ones(8), constant, y, classes(count)).tolist() == [1] * 8


def test_one_mistake_in_many_counts_much_but_not_without_bound() -> None:
    y = np.zeros(50, int)
    said = np.tile(np.array([0.9, 0.1], np.float32), (50, 1))
    said[7] = [0.1, 0.9]
    weight = reweigh(np.ones(50), said, y, classes(2))
    assert weight[7] == pytest.approx(weight.sum() / 2)  # half of all: the next member is to do better on it than by chance
    light = np.ones(50)
    light[7] = 1e-9
    assert np.isfinite(reweigh(light, said, y, classes(2))).all()


@given(st.integers(0, 10_000), st.sampled_from([classes(2), classes(3), VALUE]))
def test_rows_of_unknown_target_do_not_matter(seed: int, task: TargetSchema) -> None:
    random = np.random.default_rng(seed)
    n = 20
    y = random.integers(0, task.width, n) if task.exclusive else random.normal(size=n)
    said = random.random((n, task.width)).astype(np.float32)
    weight = random.uniform(0.1, 3, n)
    weight /= weight.mean()
    known = random.random(n) < 0.7
    known[0] = True
    masked = np.where(known, y, -1) if task.exclusive else np.where(known, y, np.nan)
    alone = reweigh(weight[known] / weight[known].mean(), said[known], y[known], task)
    whole = reweigh(weight, said, masked, task)
    assert whole[known] / whole[known].sum() == pytest.approx(alone / alone.sum(), rel=1e-6)
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("task", [classes(3), VALUE, TargetSchema(kind="multilabel", classes=["u", "v"])], ids=lambda t: t.kind)
def test_without_any_known_row_the_weights_stay(task: TargetSchema) -> None:
    shape = (4, 2) if task.kind == "multilabel" else (4,)
    unknown = np.full(shape, -1) if task.exclusive else np.full(shape, np.nan)
    weight = np.array([1.0, 2.0, 0.5, 0.5])
    assert reweigh(weight, np.full((4, task.width), 0.4, np.float32), unknown, task).tolist() == weight.tolist()


def test_a_value_that_is_said_worst_is_wholly_wrong() -> None:
    said, y = np.zeros((4, 1), np.float32), np.array([0.0, 1.0, 1.0, 4.0])
    error = (0 + 0.25 + 0.25 + 1) / 4
    odds = (1 - error) / error
    expected = odds ** np.array([0, 0.25, 0.25, 1])
    assert reweigh(np.ones(4), said, y, VALUE) == pytest.approx(expected / expected.mean())


# ----------------------------------------------------------------------------------------------------------- from a folder


@pytest.fixture
def dataset(dataset_of: Callable[..., Dataset]) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 2))
    kind, size = random.integers(0, 3, 30), random.normal(size=30)
    kind[3], size[5] = -1, np.nan
    return dataset_of(x, {"kind": kind, "size": size}, tasks={"kind": classes(3), "size": VALUE})


@pytest.fixture
def before(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(1)
    folders = [tmp_path / name for name in ("first", "second")]
    for k, folder in enumerate(folders):
        folder.mkdir()
        np.save(folder / "values-kind.npy", random.random((30, 3)).astype(np.float32))
        np.save(folder / "values-size.npy", random.normal(size=(30, 1)).astype(np.float32))
        save_file({"w": torch.full((2,), float(k))}, folder / "weights.safetensors")
    return folders


@pytest.mark.parametrize("settings", [{}, {"rate": 1.0}])
def test_boosting_weighs_by_all_members_before_one_after_the_other(
    dataset: Dataset, before: list[Path], settings: dict[str, float]
) -> None:
    rows = np.array([0, 3, 3, 5, 8, 13, 21, 29])
    took = start(Component(name="boosting", settings=settings), before, dataset, rows)
    assert took.rows["size"].std() > 0
    assert took.state is None
    assert list(took.rows) == ["kind", "size"]
    for name, task in dataset.schema.targets.items():
        weight = np.ones(len(rows))
        for folder in before:
            weight = reweigh(
                weight, np.load(folder / f"values-{name}.npy")[rows], dataset.targets[name][rows], task, settings.get("rate", 0.5)
            )
        assert took.rows[name].tolist() == weight.tolist()
        assert took.rows[name].shape == rows.shape


def test_a_snapshot_starts_from_the_latest(dataset: Dataset, before: list[Path]) -> None:
    took = snapshot(before, dataset, np.arange(4))
    assert took.state is not None
    assert took.state["w"].tolist() == [1, 1]
    assert took.rows == {}


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_the_first_and_who_follows_nobody_take_nothing(dataset: Dataset, before: list[Path], strategy: str | None) -> None:
    assert start(None if strategy is None else Component(name=strategy), [], dataset, np.arange(4)) == Start()
    assert start(None, before, dataset, np.arange(4)) == Start()
