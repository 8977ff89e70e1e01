"""Fusing one target of each kind from a bank: the candidates, their calibration, and how they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fuseline import bank as banks
from fuseline.bank import Bank, build_bank
from fuseline.component import Component
from fuseline.fusion import crossfit
from fuseline.fusion.fuse import FusedTarget, FuseSpec, fuse_target, learnable
from fuseline.fusion.rules import needs
from fuseline.store import Store

KINDS = {"kind": "classification", "grade": "ordinal", "signs": "multilabel", "size": "regression", "range": "quantile"}


def rules(*names: str) -> list[Component]:
    return [Component(name=name) for name in names]


def spec(target: str, fused_by: list[Component], **changes: Any) -> FuseSpec:
    return replace(FuseSpec(target, fused_by, 3, True, 0, 1), **changes)


def fuse(world: Any, wanted: FuseSpec, **changes: Any) -> tuple[FusedTarget, bool]:
    given = {"store": world.store, "dataset": world.dataset, "split": world.split, "units": world.units, **changes}
    return fuse_target(given["store"], world.bank, given["dataset"], given["split"], wanted, given["units"])


def outputs_of(world: Any, fused: FusedTarget, *roles: str) -> Any:
    return world.bank.outputs(world.dataset, fused.target, world.rows(fused.target, *roles), fused.needs)


def same(one: FusedTarget, other: FusedTarget) -> None:
    """All that was decided, bit for bit."""
    assert (one.target, one.chosen, one.best_member, one.needs) == (other.target, other.chosen, other.best_member, other.needs)
    assert one.comparison == other.comparison
    for ours, theirs in zip([*one.candidates, *one.members], [*other.candidates, *other.members], strict=True):
        assert (ours.name, ours.number) == (theirs.name, theirs.number)
        assert type(ours.combiner) is type(theirs.combiner)
        assert ours.combiner.tensors().keys() == theirs.combiner.tensors().keys()
        for name, tensor in ours.combiner.tensors().items():
            assert torch.equal(tensor, theirs.combiner.tensors()[name]), (ours.name, name)


EVERY = [(target, otherwise) for target in KINDS for otherwise in (False, True)]


@pytest.fixture(scope="module", params=EVERY, ids=lambda case: f"{case[0]}{'-otherwise' if case[1] else ''}")
def wanted(request: pytest.FixtureRequest, rules_of: Callable[..., list[Component]]) -> FuseSpec:
    """All rules that fit a kind, by default and with other settings."""
    target, otherwise = request.param
    return spec(target, rules_of(KINDS[target], otherwise=otherwise))


@pytest.fixture(scope="module")
def fused(wanted: FuseSpec, world: Any) -> FusedTarget:
    return fuse(world, wanted)[0]


def test_candidates_stand_in_the_order_of_the_rules_and_members_in_that_of_the_bank(
    fused: FusedTarget, wanted: FuseSpec, world: Any
) -> None:
    assert [c.name for c in fused.candidates] == [rule.name for rule in wanted.rules]
    assert [m.name for m in fused.members] == world.bank.members
    assert list(fused.comparison["rules"]) == [c.name for c in fused.candidates]
    assert fused.winner.name == fused.chosen == fused.comparison["chosen"]
    assert fused.needs == needs(wanted.rules) == {"features", "inputs"} & fused.needs
    assert all(np.isfinite(list(row.values())).all() for row in fused.comparison["rules"].values())


def test_what_every_candidate_says_is_a_prediction_of_its_kind(fused: FusedTarget, world: Any) -> None:
    outputs = outputs_of(world, fused, "test")
    for candidate in (*fused.candidates, *fused.members):
        said = candidate.combiner(outputs)
        assert said.task == outputs.task
        assert said.values.shape == outputs.values.shape[1:]
        assert said.values.isfinite().all(), candidate.name
        assert (said.variances is not None) == (fused.target == "size")
        if said.variances is not None:
            assert (said.variances > 0).all()
        if fused.target in ("kind", "grade"):
            torch.testing.assert_close(said.values.sum(1), torch.ones(len(said.values), dtype=torch.float64))
        if fused.target in ("kind", "grade", "signs"):
            assert ((said.values >= 0) & (said.values <= 1)).all()
        if fused.target == "range":
            assert (said.values.diff(dim=1) >= 0).all(), candidate.name


def test_it_opens_as_it_was_fitted(fused: FusedTarget, world: Any) -> None:
    again = FusedTarget.open(world.store.path("fusion", fused.key))
    assert again.key == fused.key
    same(fused, again)
    outputs = outputs_of(world, fused, "test")
    for ours, theirs in zip(fused.candidates, again.candidates, strict=True):
        assert torch.equal(ours.combiner(outputs).values, theirs.combiner(outputs).values)


def test_made_anew_it_is_the_same_bit_for_bit(fused: FusedTarget, wanted: FuseSpec, world: Any, tmp_path: Any) -> None:
    again, reused = fuse(world, wanted, store=Store(tmp_path / "store"))
    assert not reused
    assert again.key == fused.key
    same(fused, again)


def test_a_member_alone_says_what_it_says(fused: FusedTarget, world: Any) -> None:
    outputs = outputs_of(world, fused, "test")
    for m, member in enumerate(fused.members):
        assert torch.equal(member.combiner(outputs).values, outputs.values[m])


def test_the_most_skilled_member_is_the_best(fused: FusedTarget) -> None:
    assert fused.best_member == 0


def test_all_are_calibrated_by_a_positive_number(fused: FusedTarget) -> None:
    numbers = [c.number for c in (*fused.candidates, *fused.members)]
    assert all(0 < number < np.inf for number in numbers)
    assert all(number != 1.0 for number in numbers)


def test_the_same_again_is_found_in_the_store(fused: FusedTarget, wanted: FuseSpec, world: Any) -> None:
    again, reused = fuse(world, wanted)
    assert reused
    assert again.key == fused.key


def test_what_members_say_of_rows_without_the_target_changes_nothing(
    fused: FusedTarget, wanted: FuseSpec, world: Any, retold: Callable[..., Any]
) -> None:
    rows = world.unknown(fused.target)
    assert {"fusion", "calibration", "test", "train"} == {
        role for role in ("fusion", "calibration", "test", "train") if len(np.intersect1d(rows, world.split.rows(role)))
    }

    def change(name: str, array: Any) -> Any:
        array[rows] = array[rows][:, ::-1] if name.endswith(("kind", "grade")) else 1 - 0.5 * array[rows]
        return array

    other = retold(change)
    assert not np.array_equal(other.bank.values(fused.target)[0, rows], world.bank.values(fused.target)[0, rows])
    again, reused = fuse(other, wanted)
    assert not reused
    same(fused, again)


def test_what_members_say_of_a_row_that_counts_changes_every_fitted_rule(
    world: Any, retold: Callable[..., Any], rules_of: Callable[..., list[Component]]
) -> None:
    """Else the test above would hold for a fusion that learns nothing."""
    row = world.rows("size", "fusion")[:1]

    def change(name: str, array: Any) -> Any:
        array[row] += 3 if name in ("values-size", "features") else 0
        return array

    wanted = spec("size", rules_of("regression", "weights", "stacking", "gate", "dynamic", "features"))
    before, after = fuse(world, wanted)[0], fuse(retold(change), wanted)[0]
    for ours, theirs in zip(before.candidates, after.candidates, strict=True):
        pairs = [(t, theirs.combiner.tensors()[name]) for name, t in ours.combiner.tensors().items()]
        assert not all(torch.equal(a, b) for a, b in pairs), ours.name
    assert before.members[0].number == after.members[0].number  # a member alone is calibrated on calibration rows


@pytest.mark.parametrize("target", KINDS)
def test_without_calibration_every_number_is_one(world: Any, target: str) -> None:
    fused, _ = fuse(world, spec(target, rules("mean", "stacking"), calibrated=False))
    assert [c.number for c in (*fused.candidates, *fused.members)] == [1.0] * 5


@pytest.mark.parametrize("target", KINDS)
def test_without_any_calibration_row_that_has_the_target_every_number_is_one(
    world: Any, rules_of: Callable[..., list[Component]], target: str, tmp_path: Any
) -> None:
    values = np.asarray(world.dataset.targets[target]).copy()
    values[world.split.rows("calibration")] = -1 if values.dtype.kind == "i" else np.nan
    dataset = replace(world.dataset, targets={**world.dataset.targets, target: values})
    fused, _ = fuse(world, spec(target, rules_of(KINDS[target])), dataset=dataset, store=Store(tmp_path / "store"))
    assert {c.number for c in (*fused.candidates, *fused.members)} == {1.0}


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
    base = spec("kind", rules("mean", "greedy"))
    assert fuse(world, replace(base, **change))[0].key != fuse(world, base)[0].key


def test_other_units_are_another_fusion(world: Any) -> None:
    base = spec("kind", rules("mean"))
    assert fuse(world, base, units=world.units // 2)[0].key != fuse(world, base)[0].key


@pytest.mark.parametrize("target", KINDS)
def test_it_learns_from_finite_rows_that_have_the_target_and_no_fold_parts_a_unit(world: Any, target: str) -> None:
    units = world.units // 2
    pool = learnable(world.bank, world.dataset, world.split, spec(target, rules("mean")), units)
    rows = world.rows(target, "fusion")  # the third member judges no training row
    assert len(rows) < len(world.split.rows("fusion"))
    assert pool.unit.tolist() == units[rows].tolist()
    assert pool.held_out.all()
    np.testing.assert_array_equal(pool.target.numpy(), world.truth(target, "fusion"))
    assert set(pool.fold) == {0, 1, 2}
    for unit in np.unique(pool.unit):
        assert len(set(pool.fold[pool.unit == unit])) == 1


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is read of a bank: the rows, what is needed beside the outputs, and the numbers there are."""
    calls: list[Any] = []
    honest = Bank.outputs

    def outputs(self: Bank, dataset: Any, target: str, rows: Any, needs: Any = frozenset(), members: slice = slice(None)) -> Any:
        said = honest(self, dataset, target, rows, needs, members)
        calls.append((rows, set(needs), said.width * len(rows), members))
        return said

    monkeypatch.setattr(Bank, "outputs", outputs)
    return calls


def test_features_and_inputs_are_read_only_for_rules_that_use_them(
    world: Any, rules_of: Callable[..., list[Component]], read: list[Any], tmp_path: Any
) -> None:
    def needed(name: str, fused_by: list[Component]) -> set[str]:
        read.clear()
        fuse(world, spec("kind", fused_by), store=Store(tmp_path / name))
        return set().union(*(needs for _, needs, _, _ in read))

    assert needed("bare", rules("mean", "greedy")) == set()
    assert needed("on features", rules_of("classification", "features")) == {"features"}
    assert needed("on inputs", rules_of("classification", "stacking", otherwise=True)) == {"inputs"}
    assert needed("both", rules_of("classification", "stacking", "features", otherwise=True)) == {"features", "inputs"}
    assert {"features", "inputs"} not in [needs for _, needs, _, _ in read]  # each rule is given what it uses


def test_features_of_rows_out_of_fold_are_never_read(
    world: Any, rules_of: Callable[..., list[Component]], read: list[Any], tmp_path: Any
) -> None:
    """They do not align, and no rule uses them."""
    two, _ = build_bank(world.store, world.dataset, world.split, world.members[:2])
    units, wanted = world.units, spec("kind", rules_of("classification", "weights", "features"))
    fuse_target(Store(tmp_path), two, world.dataset, world.split, wanted, units)
    train = world.split.rows("train")
    assert any(np.isin(rows, train).any() for rows, needs, _, _ in read if not needs)
    assert not any(np.isin(rows, train).any() for rows, needs, _, _ in read if needs)


def test_read_in_blocks_it_is_the_same_to_rounding(
    fused: FusedTarget, wanted: FuseSpec, world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(banks, "BLOCK", 50)
    again, _ = fuse(world, wanted, store=Store(tmp_path / "store"))
    assert again.comparison["sampled"] == fused.comparison["sampled"] == {}
    for name, row in fused.comparison["rules"].items():
        assert again.comparison["rules"][name] == pytest.approx(row, rel=1e-9, abs=1e-12), name
    for ours, theirs in zip([*fused.candidates, *fused.members], [*again.candidates, *again.members], strict=True):
        assert theirs.number == pytest.approx(ours.number, rel=1e-6)
        assert all(torch.equal(t, theirs.combiner.tensors()[name]) for name, t in ours.combiner.tensors().items())


def test_never_more_than_a_block_or_a_rules_sample_of_all_members_is_read(
    wanted: FuseSpec, world: Any, monkeypatch: pytest.MonkeyPatch, read: list[Any], tmp_path: Any
) -> None:
    block, learnt, programmed = 60, 200, 120
    monkeypatch.setattr(banks, "BLOCK", block)
    monkeypatch.setattr(crossfit, "LEARNT", learnt)
    monkeypatch.setattr(crossfit, "PROGRAMMED", programmed)
    fused, _ = fuse(world, wanted, store=Store(tmp_path / "store"))
    together = [numbers for _, _, numbers, members in read if members == slice(None)]
    assert block < max(together) <= learnt
    assert {"mean", "vote", "trimmed"}.isdisjoint(fused.comparison["sampled"])
    assert "features" in fused.comparison["sampled"]
    assert all(0 < count < fused.comparison["learnt_from"] for count in fused.comparison["sampled"].values())


def test_a_rule_is_fitted_to_the_same_whatever_the_others_look_at(world: Any, rules_of: Callable[..., list[Component]]) -> None:
    """Features narrow the rows that rules are compared on, and no more."""
    alone = fuse(world, spec("size", rules_of("regression", "weights", "stacking")))[0]
    among = fuse(world, spec("size", rules_of("regression")))[0]
    for candidate in alone.candidates:
        other = next(c for c in among.candidates if c.name == candidate.name)
        assert other.number == candidate.number
        assert all(torch.equal(t, other.combiner.tensors()[name]) for name, t in candidate.combiner.tensors().items())


def test_the_bank_is_left_as_it_is(world: Any, rules_of: Callable[..., list[Component]]) -> None:
    files = sorted(world.bank.folder.iterdir())
    before = [file.read_bytes() for file in files]
    fuse(world, spec("kind", rules_of("classification"), seed=7))
    assert [file.read_bytes() for file in files] == before


def test_a_rule_without_any_tensor_is_kept_too(world: Any) -> None:
    fused, _ = fuse(world, spec("kind", rules("vote")))
    assert fused.winner.name == "vote"
    assert fused.winner.combiner.tensors() == {}
