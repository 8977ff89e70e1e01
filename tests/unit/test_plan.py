"""The plan: what a recipe and its data determine, kept in the store and opened again as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from fuseline.component import Component, complete
from fuseline.errors import DataError, RecipeError
from fuseline.models.network import Network
from fuseline.plan import Plan, make_plan, processes, rough_seconds
from fuseline.recipe import Recipe, load_recipe
from fuseline.store import Store, read_json
from fuseline.training.strategies import STRATEGIES


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


# ------------------------------------------------------------------------------------------------ views, experts and chains


def small(name: str = "mlp", **changes: Any) -> dict[str, Any]:
    return {"name": name, "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, **changes}


def planned(store: Store, **changes: Any) -> tuple[Plan, Plan]:
    """A plan as it was made, and as it is read again by someone else."""
    plan, folder = make_plan(Recipe.model_validate(tree(**changes)), store)
    return plan, Plan.open(folder)


@pytest.mark.parametrize(
    "partition",
    ["full", "bootstrap", "disjoint", {"by_class": {"copies": 2}}, "dirichlet", "feature_subspace", "kfold"],
    ids=str,
)
def test_shares_open_as_they_were_made(store: Store, partition: Any) -> None:
    members = [small("a", count=3, early_stopping={"holdout": 0.2}), small("b", early_stopping=None)]
    plan, opened = planned(store, partition=partition, members=members)
    first = make_plan(Recipe.model_validate(tree(partition=partition, members=members)), Store(store.root / "another"))[0]
    for name, jobs in plan.members.items():
        for job, again, anew in zip(jobs, opened.members[name], first.members[name], strict=True):
            for use in ("train", "holdout", "judged", "view", "own"):
                one, other, third = (getattr(j.share, use) for j in (job, again, anew))
                assert one.dtype == other.dtype
                assert one.tolist() == other.tolist() == third.tolist()
            assert not np.isin(job.share.holdout, job.share.train).any()
    shares = [jobs[0].share for jobs in plan.members.values()]
    assert any(len(share.view) for share in shares) is (partition == "feature_subspace")
    assert any(len(share.own) for share in shares) is (isinstance(partition, dict))


@pytest.mark.parametrize("strategy", ["snapshot", {"boosting": {"rate": 0.3}}])
def test_a_strategy_chains_the_members_of_its_entry(store: Store, strategy: Any) -> None:
    members = [small("alone", count=2), small("cycle", count=3, strategy=strategy), small("last")]
    plan, opened = planned(store, members=members)
    assert plan.after == opened.after == {"cycle-2": "cycle-1", "cycle-3": "cycle-2"}
    names = ["cycle-1", "cycle-2", "cycle-3"]
    for which in (plan, opened):
        keys = {name: [job.key(plan.dataset) for job in jobs] for name, jobs in which.members.items()}
        assert keys == {name: [job.key(plan.dataset) for job in jobs] for name, jobs in plan.members.items()}
        for m, name in enumerate(names):
            for k, job in enumerate(which.members[name]):
                assert job.strategy == complete(Component.model_validate(strategy), STRATEGIES, "strategy")
                assert [before.key(plan.dataset) for before in job.before] == [keys[earlier][k] for earlier in names[:m]]
                for before in job.before:
                    assert before.share.judged.tolist() == job.share.judged.tolist()
                    assert not np.isin(before.share.train, job.share.judged).any()
        for name in ("alone-1", "alone-2", "last"):
            assert all(job.before == () and job.strategy is None for job in which.members[name])


def test_another_seed_of_the_recipe_changes_every_member_of_a_chain(store: Store) -> None:
    members = [small("cycle", count=3, strategy="snapshot")]
    one, other = (planned(store, members=members, seed=seed)[0] for seed in (0, 1))
    keys = [[job.key(p.dataset) for jobs in p.members.values() for job in jobs] for p in (one, other)]
    assert set(keys[0]).isdisjoint(keys[1])
    assert len(set(keys[0])) == 9


def test_snapshots_of_one_run_hold_out_the_same_rows(store: Store) -> None:
    members = [small("cycle", count=3, strategy="snapshot"), small("boost", count=2, strategy="boosting")]
    plan, _ = planned(store, members=members)
    held = {name: [job.share.holdout.tolist() for job in jobs] for name, jobs in plan.members.items()}
    assert held["cycle-1"] == held["cycle-2"] == held["cycle-3"]
    assert held["boost-1"] != held["boost-2"]
    assert held["cycle-1"] != held["boost-1"]
    assert held["cycle-1"][0] != held["cycle-1"][1]


@pytest.mark.parametrize("partition", ["full", "bootstrap", "disjoint", {"kfold": {"folds": 3}}], ids=str)
def test_no_snapshot_has_learnt_the_rows_that_stop_a_later_one(store: Store, partition: Any) -> None:
    """It starts from what those before it have learnt: rows that one of them saw would show nothing."""
    members = [small("cycle", count=3, strategy="snapshot", early_stopping={"holdout": 0.2})]
    plan, _ = planned(store, partition=partition, members=members)
    for jobs in plan.members.values():
        for job in jobs:
            for before in job.before:
                assert not np.isin(before.share.train, job.share.holdout).any()


# ---------------------------------------------------------------------------------------------------------- trained members


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """A file of weights of a small network for iris."""

    def write(seed: int = 0) -> Path:
        data = make_plan(Recipe.model_validate(tree()), Store(tmp_path / "elsewhere"))[0]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = Network(data.dataset.schema, data.members["mlp-1"][0].spec.network)
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    return write


def test_a_trained_member_has_no_part_in_the_division(store: Store, weights: Callable[..., Path]) -> None:
    members = [small("a", count=2), small("ready", trained=str(weights())), small("b")]
    plan, _ = planned(store, members=members, partition="disjoint")
    without, _ = planned(store, members=[members[0], members[2]], partition="disjoint")
    share = plan.members["ready"][0].share
    learning = [plan.members[name][0].share for name in ("a-1", "a-2", "b")]
    dealt = np.sort(np.concatenate([rows for s in learning for rows in (s.train, s.holdout)]))
    assert share.train.tolist() == plan.split.rows("train").tolist() == dealt.tolist()
    assert [len(rows) for rows in (share.holdout, share.judged, share.view, share.own)] == [0, 0, 0, 0]
    assert len(plan.members["ready"]) == 1
    for name in ("a-1", "a-2"):
        assert plan.members[name][0].share.train.tolist() == without.members[name][0].share.train.tolist()


def test_a_run_of_trained_members_alone_divides_nothing(store: Store, weights: Callable[..., Path]) -> None:
    plan, _ = planned(store, members=[small("ready", trained=str(weights()))], partition="disjoint")
    assert [len(jobs) for jobs in plan.members.values()] == [1]
    assert rough_seconds(plan) == {"ready": 0.0}


def test_other_weights_in_the_same_file_are_another_plan(store: Store, weights: Callable[..., Path]) -> None:
    members = [small("ready", trained=str(weights(0))), small("a")]
    one, _ = planned(store, members=members)
    again, _ = planned(store, members=members)
    weights(1)
    other, _ = planned(store, members=members)
    assert one.key == again.key != other.key
    keys = [[p.members[name][0].key(p.dataset) for name in ("ready", "a")] for p in (one, other)]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]


# ------------------------------------------------------------------------------------------------ missing targets, coverage


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    """120 rows with a class and a value, of which some are missing, and a site."""
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 2))
    kind = pd.Series(np.where(x[:, 0] > 0, "up", "down"), dtype=object)
    size = pd.Series(x[:, 1] * 3)
    kind[::4], size[::6] = None, np.nan  # every twelfth row has neither
    frame = pd.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "kind": kind, "size": size, "site": np.arange(120) % 3})
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    return tmp_path / "gaps.csv"


def with_gaps(gaps: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": {"source": {"csv": {"path": str(gaps)}}, "inputs": ["x0", "x1"]},
        "targets": {
            "kind": {"kind": "classification", "missing": "mask"},
            "size": {"kind": "regression", "missing": "mask"},
        },
        "partition": "full",
        **changes,
    }


def test_rows_without_any_known_target_are_no_training_rows(store: Store, gaps: Path) -> None:
    plan, _ = planned(store, **with_gaps(gaps, members=[small(early_stopping=None)]))
    kind, size = (np.asarray(plan.dataset.targets[name]) for name in ("kind", "size"))
    nothing = (kind < 0) & np.isnan(size)
    assert nothing.sum() == 10
    rows = plan.split.rows("train")
    assert nothing[rows].any()
    assert plan.members["mlp"][0].share.train.tolist() == rows[~nothing[rows]].tolist()


def test_statistics_count_what_is_known(store: Store, gaps: Path) -> None:
    members = [small("a", count=2), small("b", early_stopping=None)]
    plan, folder = make_plan(Recipe.model_validate(tree(**with_gaps(gaps, members=members, partition="disjoint"))), store)
    statistics = read_json(folder / "statistics.json")
    kind, size = (np.asarray(plan.dataset.targets[name]) for name in ("kind", "size"))
    assert list(statistics["coverage"]) == ["kind"]
    for name, row in zip(plan.members, statistics["coverage"]["kind"], strict=True):
        train = plan.members[name][0].share.train
        assert row == [int((kind[train] == c).sum()) for c in (0, 1)]
        balance = statistics["members"][name]["balance"]
        assert balance["kind"] == dict(zip(["down", "up"], row, strict=True))
        assert balance["size"]["mean"] == pytest.approx(np.nanmean(size[train]))
        assert balance["size"]["deviation"] == pytest.approx(np.nanstd(size[train]))


def test_coverage_is_of_the_rows_that_an_expert_sees(store: Store) -> None:
    members = [small("m", count=3, early_stopping=None)]
    plan, folder = make_plan(Recipe.model_validate(tree(partition={"by_class": {"rest": "absent"}}, members=members)), store)
    table = np.array(read_json(folder / "statistics.json")["coverage"]["iris"])
    codes = np.asarray(plan.dataset.targets["iris"])
    expected = [np.bincount(codes[jobs[0].share.train], minlength=3).tolist() for jobs in plan.members.values()]
    assert table.tolist() == expected
    assert (table > 0).sum(1).tolist() == [2, 2, 2]


def test_rough_costs_can_be_had_where_targets_are_missing(store: Store, gaps: Path) -> None:
    """The first rows may have no value at all of some target."""
    frame = pd.read_csv(gaps)
    frame.loc[:60, "size"] = np.nan
    frame.to_csv(gaps, index=False)
    plan, _ = planned(store, **with_gaps(gaps, members=[small(early_stopping=None, batch_size=2)]))
    assert np.isnan(plan.dataset.targets["size"][plan.members["mlp"][0].share.train[:8]]).all()
    assert rough_seconds(plan)["mlp"] >= 0


def test_rough_costs_of_a_chain_are_of_each_member(store: Store) -> None:
    plan, _ = planned(store, members=[small("cycle", count=2, strategy="snapshot", average="swa")])
    assert list(rough_seconds(plan)) == ["cycle-1", "cycle-2"]


# ---------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": [small(count=2, strategy="snap_shot")]}, ["members.0.strategy", "'snapshot'"]),
        ({"members": [small(count=2, strategy={"snapshot": {"cycles": 3}})]}, ["members.0.strategy.snapshot.cycles"]),
        ({"members": [small(count=2, strategy={"boosting": {"rate": 2}})]}, ["members.0.strategy.boosting.rate"]),
        ({"members": [small(), small("b", freeze=["x.*"])]}, ["members.1", "freeze", "'x.*'"]),
        ({"members": [small(trained="/nowhere/w.pt")]}, ["members.0.trained", "/nowhere/w.pt"]),
        ({"partition": {"by_group": {"column": "site"}}}, ["site"]),
        ({"partition": "by_group"}, ["partition.by_group.column"]),
        ({"partition": {"kfold": {"folds": 1}}}, ["partition.kfold.folds"]),
        ({"partition": {"by_class": {"copies": 9}}}, ["partition.by_class.copies"]),
    ],
    ids=str,
)
def test_what_can_not_be_planned_is_refused_by_field(
    store: Store, refusal: Callable[..., str], change: Any, words: list[str]
) -> None:
    sentence = refusal(RecipeError if "site" not in words else DataError, make_plan, Recipe.model_validate(tree(**change)), store)
    assert [word for word in words if word not in sentence] == []
    assert not (store.root / "plan").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "snapshot"}, ["members.0", "'strategy'", "'count'"]),
        ({"trained": "w.pt", "count": 2}, ["members.0", "'trained'", "'count'"]),
        ({"rates": {"heads.*": 0}}, ["members.0.rates"]),
        ({"trained": {"path": "w.pt", "std": [0]}}, ["members.0.trained.std"]),
    ],
    ids=str,
)
def test_an_entry_that_contradicts_itself_is_refused_as_it_is_read(
    tmp_path: Path, refusal: Callable[..., str], changes: dict[str, Any], words: list[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree(members=[small(**changes)])))
    sentence = refusal(RecipeError, load_recipe, tmp_path / "recipe.yaml")
    assert [word for word in words if word not in sentence] == []


def test_a_member_that_would_learn_a_target_from_no_row_is_refused(store: Store, refusal: Callable[..., str], gaps: Path) -> None:
    """Each site has rows, but only one of them has values."""
    frame = pd.read_csv(gaps)
    frame.loc[frame.site != 1, "size"] = np.nan
    frame.to_csv(gaps, index=False)
    changes = with_gaps(gaps, partition={"by_group": {"column": "site"}}, members=[small("m", count=3)])
    sentence = refusal(RecipeError, make_plan, Recipe.model_validate(tree(**changes)), store)
    assert "partition" in sentence
    assert "'size'" in sentence


@pytest.mark.parametrize(
    ("processes_", "threads", "cores", "expected"), [(3, 1, 8, 3), (None, 2, 8, 4), (None, 3, 2, 1), (None, 1, None, 1)]
)
def test_so_many_processes_as_cores_have_room_for(
    monkeypatch: pytest.MonkeyPatch, processes_: int | None, threads: int, cores: int | None, expected: int
) -> None:
    monkeypatch.setattr("fuseline.plan.os.cpu_count", lambda: cores)
    training = {"device": "cpu", "processes": processes_, "threads": threads}
    assert processes(Recipe.model_validate(tree(training=training))) == expected
