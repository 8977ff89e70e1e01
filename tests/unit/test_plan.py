"""The plan: what a recipe and its data determine, kept in the store and opened again as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fuseline.errors import RecipeError
from fuseline.models.network import Network
from fuseline.plan import Plan, make_plan, rough_seconds
from fuseline.recipe import Recipe
from fuseline.store import Store, read_json


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "name": "iris",
        "data": {"source": {"sklearn": {"name": "iris"}}, "split": {"rule": "stratified"}},
        "targets": {"iris": {"kind": "classification", "column": "target"}},
        "partition": {"kfold": {"folds": 3}},
        "members": [{"name": "mlp", "count": 2, "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2}],
        **changes,
    }


def test_it_opens_as_it_was_made(store: Store) -> None:
    plan, folder = make_plan(Recipe.model_validate(tree()), store)
    opened = Plan.open(folder)
    assert opened.recipe == plan.recipe == Recipe.model_validate(tree())
    assert opened.key == plan.key
    assert (opened.split.roles == plan.split.roles).all()
    assert list(opened.members) == ["mlp-1", "mlp-2"]
    for name, jobs in plan.members.items():
        assert [job.key(plan.dataset) for job in jobs] == [job.key(opened.dataset) for job in opened.members[name]]


@pytest.mark.parametrize(
    ("change", "trains_anew"),
    [
        ({}, False),
        ({"fusion": {"rules": ["mean"]}}, False),
        ({"evaluation": {"level": 0.9}}, False),
        ({"registry": {"floors": {"iris": {"accuracy": 0.5}}}}, False),
        ({"calibration": {"method": "none"}}, False),
        ({"description": "another"}, False),
        ({"training": {"processes": 2}}, False),
        ({"seed": 1}, True),
        ({"training": {"threads": 2}}, True),
        ({"partition": {"kfold": {"folds": 4}}}, True),
    ],
    ids=str,
)
def test_only_what_training_depends_on_trains_anew(store: Store, change: Any, trains_anew: bool) -> None:
    def keys(recipe: dict[str, Any]) -> set[str]:
        plan, _ = make_plan(Recipe.model_validate(recipe), store)
        return {job.key(plan.dataset) for jobs in plan.members.values() for job in jobs}

    before, after = keys(tree()), keys(tree(**change))
    assert before.isdisjoint(after) if trains_anew else before == after


def test_tables_and_statistics_agree_with_the_rows(store: Store) -> None:
    plan, folder = make_plan(Recipe.model_validate(tree()), store)
    split = pd.read_parquet(folder / "split.parquet")
    shares = pd.read_parquet(folder / "partition.parquet")
    statistics = read_json(folder / "statistics.json")
    labels = np.asarray(plan.dataset.targets["iris"])
    for role, part in statistics["roles"].items():
        rows = np.flatnonzero((split.role == role).to_numpy())
        assert rows.tolist() == plan.split.rows(role).tolist()
        assert part["rows"] == len(rows)
        assert list(part["balance"]["iris"].values()) == np.bincount(labels[rows], minlength=3).tolist()
    for name, part in statistics["members"].items():
        used = shares[(shares.member == name) & (shares.use == "train")]
        assert part["rows"] == len(used)
        assert part["holdout"] == len(shares[(shares.member == name) & (shares.use == "holdout")])
        network = Network(plan.dataset.schema, plan.members[name][0].spec.network)
        assert part["parameters"] == sum(p.numel() for p in network.parameters())
    assert statistics["overlap"] == [
        [1.0, pytest.approx(statistics["overlap"][1][0])],
        [pytest.approx(statistics["overlap"][0][1]), 1.0],
    ]


def test_rough_costs_are_of_each_member_and_train_nothing(store: Store) -> None:
    plan, _ = make_plan(Recipe.model_validate(tree()), store)
    costs = rough_seconds(plan)
    assert list(costs) == ["mlp-1", "mlp-2"]
    assert all(np.isfinite(cost) and cost >= 0 for cost in costs.values())
    assert not (store.root / "replica").exists()


def test_the_example_is_raw_training_rows(store: Store) -> None:
    plan, _ = make_plan(Recipe.model_validate(tree()), store)
    example = plan.example()
    rows = plan.split.rows("train")[:3]
    assert list(example.columns) == plan.dataset.schema.columns
    np.testing.assert_array_equal(example.to_numpy(np.float64), plan.dataset.inputs["numeric"][rows])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": {"iris": {"kind": "classification", "column": "target", "metrics": ["rmse"]}}}, ["targets.iris", "rmse"]),
        ({"registry": {"floors": {"iris": {"acuracy": 0.9}}}}, ["iris", "acuracy"]),
        ({"fusion": {"rules": ["average"]}}, ["fusion.rules", "average"]),
        ({"partition": "thirds"}, ["partition", "thirds"]),
        ({"training": {"device": "cuda:7"}}, ["training.device", "cuda:7"]),
        ({"partition": "disjoint", "members": [{"name": "m", "count": 100, "architecture": "mlp"}]}, ["partition", "m-"]),
    ],
)
def test_what_does_not_fit_is_refused_by_field(
    store: Store, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, change: Any, words: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sentence = refusal(RecipeError, make_plan, Recipe.model_validate(tree(**change)), store)
    assert [word for word in words if word not in sentence] == []
    assert not (store.root / "plan").exists()
