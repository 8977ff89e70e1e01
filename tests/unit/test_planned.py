"""What a stored plan says without torch, and the jobs that workers open themselves."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from fuseline.plan import Plan, lent, make_plan
from fuseline.planned import Planned
from fuseline.recipe import Recipe
from fuseline.store import Store

TREE: dict[str, Any] = {
    "name": "iris",
    "data": {"source": {"sklearn": {"name": "iris"}}},
    "targets": {"iris": {"kind": "classification", "column": "target"}},
    "partition": {"kfold": {"folds": 2}},
    "members": [
        {"name": "small", "count": 3, "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2},
        {"name": "large", "architecture": {"mlp": {"hidden": [8]}}, "epochs": 2},
    ],
    "training": {"device": "cpu", "processes": 2, "stack": "always", "checkpoint_minutes": 3.0},
}


@pytest.fixture
def both(store: Store) -> tuple[Plan, Planned]:
    plan, folder = make_plan(Recipe.model_validate(TREE), store)
    return plan, Planned.open(folder)


def keys(plan: Plan) -> dict[str, list[str]]:
    return {name: [job.key(plan.dataset) for job in jobs] for name, jobs in plan.members.items()}


def test_it_names_the_replicas_by_the_keys_under_which_they_are_trained(both: tuple[Plan, Planned]) -> None:
    plan, planned = both
    assert {name: [replica.key for replica in its] for name, its in planned.members.items()} == keys(plan)


def test_what_makes_other_replicas_makes_another_plan(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a plan would go on naming the replicas of another torch."""
    before, _ = make_plan(Recipe.model_validate(TREE), store)
    trained = keys(before)
    monkeypatch.setattr("torch.__version__", "another")
    after, folder = make_plan(Recipe.model_validate(TREE), store)
    assert after.key != before.key
    assert Planned.open(folder).members["large"][0].key == keys(after)["large"][0] != trained["large"][0]


def test_a_worker_opens_its_job_from_the_plan(both: tuple[Plan, Planned], store: Store) -> None:
    plan, planned = both
    for name in plan.members:
        whole, expected = planned.job(name, store).whole(), plan.job(name, store)
        assert list(whole.members) == list(planned.job(name, store).members) == list(expected.members)
        for member, jobs in expected.members.items():
            assert [job.key(plan.dataset) for job in whole.members[member]] == [job.key(plan.dataset) for job in jobs]
        assert (whole.store, whole.data, whole.checkpoint_minutes) == (store.root, plan.data, 3.0)


def test_what_is_left_of_a_job_stays_so_where_it_is_opened(both: tuple[Plan, Planned], store: Store) -> None:
    job = both[1].job("small-1", store)
    assert job.replicas == {(name, k) for name in job.members for k in (0, 1)}
    left = pickle.loads(pickle.dumps(replace(job, wanted=frozenset({("small-1", 1)}))))
    assert left.replicas == left.whole().replicas == {("small-1", 1)}


def test_devices_are_lent_so_often_that_all_processes_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lent(Recipe.model_validate(TREE)) == (["cpu"], 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    training = {"device": "cuda", "processes": 3}
    assert lent(Recipe.model_validate({**TREE, "training": training})) == (["cuda:0", "cuda:1"], 2)


def test_who_plans_nothing_and_trains_nothing_needs_no_torch() -> None:
    """That is all that the command's own process takes of training."""
    script = "import sys, fuseline.planned, fuseline.training.supervise; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
