"""Fusing one target from a bank: the candidates, their calibration, and how they are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fuseline.component import Component
from fuseline.fusion.fuse import FusedTarget, FuseSpec, fuse_target, learnable
from fuseline.fusion.rules import CLASSIFICATION_ONLY, FUSIONS


def rules(*names: str) -> list[Component]:
    return [Component(name=name, settings={"steps": 20} if name == "features" else {}) for name in names]


def spec(target: str, **changes: Any) -> FuseSpec:
    names = [name for name in FUSIONS if target == "kind" or name not in CLASSIFICATION_ONLY]
    return replace(FuseSpec(target, rules(*names), 3, True, 0, 1), **changes)


def fuse(world: Any, wanted: FuseSpec, **changes: Any) -> tuple[FusedTarget, bool]:
    given = {"dataset": world.dataset, "split": world.split, "units": world.units, **changes}
    return fuse_target(world.store, world.bank, given["dataset"], given["split"], wanted, given["units"])


@pytest.fixture(scope="module", params=["kind", "size"])
def fused(request: pytest.FixtureRequest, world: Any) -> FusedTarget:
    return fuse(world, spec(request.param))[0]


def test_candidates_stand_in_the_order_of_the_rules_and_members_in_that_of_the_bank(fused: FusedTarget, world: Any) -> None:
    assert [c.name for c in fused.candidates] == [rule.name for rule in spec(fused.target).rules]
    assert [m.name for m in fused.members] == world.bank.members
    assert list(fused.comparison["rules"]) == [c.name for c in fused.candidates]
    assert fused.winner.name == fused.chosen == fused.comparison["chosen"]


def test_it_opens_as_it_was_fitted(fused: FusedTarget, world: Any) -> None:
    again = FusedTarget.open(world.store.path("fusion", fused.key))
    assert (again.key, again.target, again.chosen, again.best_member) == (
        fused.key, fused.target, fused.chosen, fused.best_member,
    )  # fmt: skip
    assert again.comparison == fused.comparison
    outputs = world.bank.outputs(fused.target, world.split.rows("test"), features=True)
    for ours, theirs in zip([*fused.candidates, *fused.members], [*again.candidates, *again.members], strict=True):
        assert (ours.name, ours.number) == (theirs.name, theirs.number)
        assert type(ours.combiner) is type(theirs.combiner)
        assert torch.equal(ours.combiner(outputs).values, theirs.combiner(outputs).values)


def test_a_member_alone_says_what_it_says(fused: FusedTarget, world: Any) -> None:
    outputs = world.bank.outputs(fused.target, world.split.rows("test"))
    for m, member in enumerate(fused.members):
        assert torch.equal(member.combiner(outputs).values, outputs.values[m])


def test_the_most_skilled_member_is_the_best(fused: FusedTarget) -> None:
    assert fused.best_member == 0


def test_all_are_calibrated_by_a_positive_number(fused: FusedTarget) -> None:
    numbers = [c.number for c in (*fused.candidates, *fused.members)]
    assert all(0 < number < np.inf for number in numbers)
    assert any(number != 1.0 for number in numbers)


def test_the_same_again_is_found_in_the_store(fused: FusedTarget, world: Any) -> None:
    again, reused = fuse(world, spec(fused.target))
    assert reused
    assert again.key == fused.key


@pytest.mark.parametrize("target", ["kind", "size"])
def test_without_calibration_every_number_is_one(world: Any, target: str) -> None:
    fused, _ = fuse(world, spec(target, rules=rules("mean", "stacking"), calibrated=False))
    assert [c.number for c in (*fused.candidates, *fused.members)] == [1.0] * 5


@pytest.mark.parametrize(
    "change",
    [
        {"rules": rules("mean", "stacking")},
        {"rules": [Component(name="stacking"), Component(name="mean")]},
        {"rules": [Component(name="mean"), Component(name="greedy", settings={"steps": 3})]},
        {"folds": 4},
        {"calibrated": False},
        {"seed": 1},
        {"target": "size"},
    ],
    ids=str,
)
def test_another_specification_is_another_fusion(world: Any, change: dict[str, Any]) -> None:
    base = spec("kind", rules=rules("mean", "greedy"))
    assert fuse(world, replace(base, **change))[0].key != fuse(world, base)[0].key


def test_other_units_are_another_fusion(world: Any) -> None:
    base = spec("kind", rules=rules("mean"))
    assert fuse(world, base, units=world.units // 2)[0].key != fuse(world, base)[0].key


def test_it_learns_from_finite_training_and_fusion_rows_and_no_fold_parts_a_unit(world: Any) -> None:
    units = world.units // 2
    pool = learnable(world.bank, world.dataset, world.split, spec("kind"), units)
    rows = world.split.rows("fusion")  # the third member judges no training row
    assert pool.unit.tolist() == units[rows].tolist()
    assert pool.held_out.all()
    assert pool.target.tolist() == world.truth("kind", "fusion").tolist()
    assert set(pool.fold) == {0, 1, 2}
    for unit in np.unique(pool.unit):
        assert len(set(pool.fold[pool.unit == unit])) == 1


def test_features_are_looked_at_only_for_rules_that_use_them(world: Any) -> None:
    without = learnable(world.bank, world.dataset, world.split, spec("kind", rules=rules("mean")), world.units)
    within = learnable(world.bank, world.dataset, world.split, spec("kind"), world.units)
    assert without.outputs.features is None
    assert within.outputs.features is not None


def test_the_bank_is_left_as_it_is(world: Any) -> None:
    files = sorted(world.bank.folder.iterdir())
    before = [file.read_bytes() for file in files]
    fuse(world, spec("kind", rules=rules("mean", "weights", "vote"), seed=7))
    assert [file.read_bytes() for file in files] == before


def test_a_rule_without_any_tensor_is_kept_too(world: Any) -> None:
    fused, _ = fuse(world, spec("kind", rules=rules("vote")))
    assert fused.winner.name == "vote"
    assert fused.winner.combiner.tensors() == {}
