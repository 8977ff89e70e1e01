"""Invariants 1 and 2: who sees which rows."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.data.split import ROLES
from fuseline.fusion.fuse import learnable
from fuseline.plan import make_plan
from fuseline.recipe import load_recipe
from fuseline.store import Store

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("recipes") / "store")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_roles_share_neither_id_nor_content(recipe: Path, store: Store) -> None:
    parsed = load_recipe(recipe)
    path = parsed.data.source.settings.get("path")
    if path is not None and not os.path.exists(path):
        pytest.skip(f"{path} is made by a script")
    if parsed.data.source.settings.get("download"):
        pytest.skip("its pictures are downloaded")
    plan, _ = make_plan(parsed, store)
    data = plan.dataset
    # The raw bytes of a row's inputs, not the hash that the split itself goes by.
    content = np.array(["|".join(str(np.asarray(a[row]).tolist()) for a in data.inputs.values()) for row in range(len(data))])
    rows = {role: plan.split.rows(role) for role in ROLES}
    assert sum(map(len, rows.values())) + len(plan.split.excluded) == len(data)
    for one, other in combinations(ROLES, 2):
        assert not set(data.ids[rows[one]]) & set(data.ids[rows[other]])
        assert not set(content[rows[one]]) & set(content[rows[other]])
    assert len(rows["train"])
    assert len(rows["test"])
    for jobs in plan.members.values():
        for job in jobs:
            for use in (job.share.train, job.share.holdout, job.share.judged):
                assert set(use) <= set(rows["train"])
            assert not set(content[job.share.train]) & set(content[job.share.holdout])
            assert not set(content[job.share.train]) & set(content[job.share.judged])


def test_the_bank_is_finite_exactly_where_a_member_may_be_judged(wine_made: Any) -> None:
    made, plan = wine_made, wine_made.plan
    values = made.bank.values("wine")
    assert values.shape == (3, 178, 3)
    outside = plan.split.rows("fusion", "calibration", "test")
    for m, jobs in enumerate(plan.members.values()):
        judged = np.concatenate([job.share.judged for job in jobs])
        allowed = np.zeros(178, bool)
        allowed[outside] = allowed[judged] = True
        assert (np.isfinite(values[m]).all(1) == allowed).all()
        assert (np.isnan(values[m]).all(1) == ~allowed).all()
        trained = [job.share.train for job in jobs]
        if plan.recipe.partition.name == "kfold":
            assert sorted(judged) == plan.split.rows("train").tolist()
            assert all(not set(job.share.judged) & set(job.share.train) for job in jobs)
        else:
            assert len(trained) == 1
            assert not allowed[trained[0]].any()


def test_a_banked_row_is_what_the_replica_that_did_not_see_it_says_or_the_replicas_mean(wine_made: Any) -> None:
    made, plan = wine_made, wine_made.plan
    values = made.bank.values("wine")
    outside = plan.split.rows("fusion", "calibration", "test")
    for m, (name, jobs) in enumerate(plan.members.items()):
        said = [np.load(folder / "values-wine.npy") for folder in made.folders(name)]
        for job, own in zip(jobs, said, strict=True):
            assert (values[m][job.share.judged] == own[job.share.judged]).all()
        np.testing.assert_allclose(values[m][outside], np.mean(said, 0)[outside], rtol=0, atol=1e-6)


def test_features_are_nowhere_to_be_found_on_training_rows(wine_made: Any) -> None:
    for m in range(3):
        features = np.load(wine_made.bank.folder / f"features-{m}.npy")
        assert np.isnan(features[wine_made.plan.split.rows("train")]).all()
        assert np.isfinite(features[wine_made.plan.split.rows("fusion", "calibration", "test")]).all()


def test_fusions_learn_from_held_out_and_out_of_fold_rows_alone(wine_made: Any) -> None:
    plan, spec = wine_made.plan, wine_made.plan.fuse_spec("wine")
    pool = learnable(wine_made.bank, plan.dataset, plan.split, spec, plan.units)
    roles = ("train", "fusion") if plan.recipe.partition.name == "kfold" else ("fusion",)
    rows = plan.split.rows(*roles)
    assert (pool.target.numpy() == plan.dataset.targets["wine"][rows]).all()
    assert (pool.held_out == np.isin(rows, plan.split.rows("fusion"))).all()
    said = pool.said.outputs(np.arange(len(rows))).values
    assert bool(said.isfinite().all())
    np.testing.assert_array_equal(said.numpy(), wine_made.bank.values("wine")[:, rows].astype(float))
    assert wine_made.fused["wine"].comparison["learnt_from"] == len(rows)
    assert wine_made.fused["wine"].comparison["rows"] == len(plan.split.rows("fusion"))  # 'features' is among the rules
