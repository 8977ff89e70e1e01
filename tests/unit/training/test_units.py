"""Which members share a worker, which of them are trained as one, and that it is said why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store, read_json
from fuseline.training.checkpoint import FOLDER, Care, Stopped
from fuseline.training.replica import train_together_into
from fuseline.training.units import SMALL, stacks


def plan_of(store: Store, members: list[dict[str, Any]], partition: Any = "full", **training: Any) -> Plan:
    tree = {
        "name": "iris",
        "data": {"source": {"sklearn": {"name": "iris"}}, "split": {"rule": "stratified"}},
        "targets": {"iris": {"kind": "classification", "column": "target"}},
        "partition": partition,
        "members": members,
        "training": {"device": "cpu", "processes": 2, **training},
    }
    return make_plan(Recipe.model_validate(tree), store)[0]


def mlp(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "early_stopping": None} | changes


def units_of(plan: Plan) -> list[tuple[list[str], bool]]:
    return [(unit.members, unit.pace.stacked) for unit in plan.training_units]


def test_small_networks_of_one_shape_are_stacked_on_every_process(store: Store) -> None:
    plan = plan_of(store, [mlp("a", count=3), mlp("wide", architecture={"mlp": {"hidden": [5]}}), mlp("b")])
    assert units_of(plan) == [(["a-1", "a-2"], True), (["a-3", "b"], True), (["wide"], True)]
    assert all(job.spec.pace.stacked for jobs in plan.members.values() for job in jobs)


def test_large_ones_and_other_layers_are_trained_apart_on_a_cpu(store: Store) -> None:
    large = mlp("large", count=2, architecture={"mlp": {"hidden": [SMALL // 8]}})
    embedded = mlp("embedded", count=2, architecture={"mlp": {"numbers": "linear", "dropout": 0.0}})
    plan = plan_of(store, [large, embedded])
    assert units_of(plan) == [([name], False) for name in ("large-1", "large-2", "embedded-1", "embedded-2")]
    whys = [unit.why for unit in plan.training_units]
    assert whys[0].startswith("apart: networks of 750,003 numbers, which is more than 500,000")
    assert "mapping over such layers" in whys[2]


@pytest.mark.parametrize(
    "changes",
    [{"average": "ema"}, {"optimizer": "muon"}, {"architecture": {"tabm": {"copies": 2, "width": 4, "layers": 1}}}],
)
def test_what_can_t_be_stacked_never_is(store: Store, changes: dict[str, Any]) -> None:
    plan = plan_of(store, [mlp("a", count=2, **changes)], stack="always")
    assert units_of(plan) == [(["a-1"], False), (["a-2"], False)]
    assert plan.training_units[0].why == "apart: this kind of network or training can't be stacked; there is one way"


def test_the_recipe_may_decide(store: Store) -> None:
    mapped = {"mlp": {"numbers": "linear", "dropout": 0.0}}
    always = plan_of(store, [mlp("a", count=2, architecture=mapped)], stack="always", processes=1)
    never = plan_of(store, [mlp("a", count=2)], stack="never")
    assert (units_of(always), units_of(never)) == ([(["a-1", "a-2"], True)], [(["a-1"], False), (["a-2"], False)])
    assert never.training_units[0].why.startswith("apart: training.stack is 'never'")


def test_members_that_follow_each_other_are_no_stack_but_others_of_their_shape_are(store: Store) -> None:
    plan = plan_of(store, [mlp("chain", count=2, strategy="snapshot"), mlp("free", count=2)], processes=1)
    assert units_of(plan) == [(["chain-1"], False), (["chain-2"], False), (["free-1", "free-2"], True)]
    assert plan.training_units[0].why.startswith("apart: each follows the one before it (snapshot)")


def test_more_members_change_the_key_of_none(store: Store) -> None:
    few, many = (plan_of(store, [mlp("a", count=count)]) for count in (1, 5))
    assert few.members["a"][0].key(few.dataset) == many.members["a-1"][0].key(many.dataset)


def test_the_units_are_kept_with_the_plan(store: Store) -> None:
    plan = plan_of(store, [mlp("a", count=3)])
    opened = Plan.open(store.path("plan", plan.key))
    assert opened.training_units == plan.training_units
    assert plan.key != plan_of(store, [mlp("a", count=3)], processes=1).key


def stacks_of(plan: Plan) -> list[list[tuple[str, int]]]:
    return [[(name, number) for name, number, _ in stack] for stack in stacks(plan.dataset, plan.members)]


@pytest.mark.parametrize(
    ("partition", "changes", "sizes"),
    [
        ("full", {}, [4]),
        ({"kfold": {"folds": 2}}, {"batch_size": 16, "architecture": {"mlp": {"hidden": [4], "dropout": 0.0}}}, [8]),
        ({"by_class": {}}, {}, [1, 1, 2]),  # experts in three classes
    ],
)
def test_a_stack_holds_networks_with_as_many_batches_and_the_same_classes(
    store: Store, partition: Any, changes: Any, sizes: list[int]
) -> None:
    found = stacks_of(plan_of(store, [mlp("a", count=4, **changes)], partition, processes=1))
    assert sorted(len(stack) for stack in found) == sizes
    assert len({pair for stack in found for pair in stack}) == sum(sizes)


def test_where_each_row_is_drawn_for_the_numbers_of_rows_agree(store: Store) -> None:
    plan = plan_of(store, [mlp("a", count=4, batch_size=16)], {"kfold": {"folds": 4}}, processes=1)  # with dropout
    rows = [{len(plan.members[name][number].share.train) for name, number in stack} for stack in stacks_of(plan)]
    assert all(len(counts) == 1 for counts in rows)
    assert len(rows) == len({count for counts in rows for count in counts}) > 1


def test_the_plan_names_the_checkpoints_of_its_stacks(planned: Callable[..., Any]) -> None:
    """So that what is garbage can be told without torch."""
    plan, store = planned("always", count=2)
    jobs = [job for _, _, job in next(stacks(plan.dataset, plan.members))]
    with pytest.raises(Stopped):
        train_together_into(store, plan.data, jobs, lambda k, epoch: None, care=Care(pulse=lambda: True))
    (file,) = (store.root / FOLDER).iterdir()
    named = read_json(store.path("plan", plan.key) / "plan.json")["stacks"]
    assert named[file.name.rpartition("-")[0]] == [job.key(plan.dataset) for job in jobs]
    assert len(jobs) > 1
