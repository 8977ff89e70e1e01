"""The bank, from replicas made by hand: what stands in which row, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fuseline import bank as banks
from fuseline.bank import Bank, BankedMember, BankRows, build_bank
from fuseline.data.split import Split
from fuseline.fusion.inputs import plain
from fuseline.store import read_json

TARGETS = ["kind", "grade", "signs", "size", "range"]


@pytest.fixture
def free(world: Any) -> Any:
    """The rows that no member was trained on and that count for anything."""
    return world.split.rows("fusion", "calibration", "test")


@pytest.fixture
def outputs(world: Any) -> Callable[..., Any]:
    return lambda target, rows, *needs: world.bank.outputs(world.dataset, target, rows, set(needs))


def test_the_arrays_have_their_shapes_in_single_precision(world: Any) -> None:
    n = len(world.dataset)
    widths = {"kind": 3, "grade": 4, "signs": 3, "size": 1, "range": 3}
    shapes = {f"values-{target}": (3, n, width) for target, width in widths.items()}
    for name, shape in (shapes | {"variances-size": (3, n, 1), "features-0": (n, 4)}).items():
        array = np.load(world.bank.folder / f"{name}.npy", mmap_mode="r")
        assert (array.shape, array.dtype) == (shape, np.float32), name
    assert [file.name for file in world.bank.folder.glob("variances-*")] == ["variances-size.npy"]
    assert world.bank.members == ["a", "b", "c"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_member_is_its_replicas_mean_on_rows_that_none_was_trained_on(world: Any, free: Any, target: str) -> None:
    for member in (0, 1):
        expected = np.mean([world.said(member, k, f"values-{target}").astype(np.float64) for k in range(2)], axis=0)
        np.testing.assert_allclose(world.bank.values(target)[member, free], expected[free], rtol=1e-6)
    assert (world.bank.values(target)[2, free] == world.said(2, 0, f"values-{target}")[free]).all()


def test_its_variance_is_by_the_law_of_total_variance(world: Any, free: Any, outputs: Callable[..., Any]) -> None:
    means = np.stack([world.said(0, k, "values-size").astype(np.float64) for k in range(2)])
    inner = np.stack([world.said(0, k, "variances-size").astype(np.float64) for k in range(2)])
    expected = inner.mean(0) + means.var(0)
    variances = outputs("size", free).variances.numpy()
    np.testing.assert_allclose(variances[0], expected[free], rtol=1e-5)
    assert (variances[0] > inner.mean(0)[free]).all()  # replicas never agree to the digit


@pytest.mark.parametrize("name", [*(f"values-{target}" for target in TARGETS), "variances-size"])
def test_a_judged_row_is_what_the_replica_says_that_did_not_see_it(world: Any, name: str) -> None:
    banked = np.load(world.bank.folder / f"{name}.npy")
    for m in (0, 1):
        for k, share in enumerate(world.members[m].shares):
            assert (banked[m, share.judged] == world.said(m, k, name)[share.judged]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_training_rows_that_nobody_judges_are_nan(world: Any, outputs: Callable[..., Any], target: str) -> None:
    train = world.split.rows("train")
    assert np.isnan(world.bank.values(target)[2, train]).all()
    assert np.isnan(outputs("size", train).variances[2].numpy()).all()
    assert np.isfinite(world.bank.values(target)[:2, train]).all()


def test_rows_left_out_of_everything_are_nan(world: Any, outputs: Callable[..., Any]) -> None:
    left_out = world.split.excluded
    assert len(left_out) == 3
    assert np.isnan(world.bank.values("kind")[:, left_out]).all()
    assert np.isnan(outputs("kind", left_out, "features").features.numpy()).all()


def test_members_say_something_of_rows_whose_target_is_unknown_too(world: Any, free: Any) -> None:
    for target in TARGETS:
        rows = np.intersect1d(world.unknown(target), free)
        assert len(rows)
        assert world.bank.finite(target, rows).tolist() == rows.tolist()


def test_finite_rows_are_those_on_which_no_member_is_nan_in_the_order_asked_for(world: Any, free: Any) -> None:
    every = np.arange(len(world.dataset))
    assert world.bank.finite("kind", every).tolist() == free.tolist()  # the third member judges no training row
    assert world.bank.finite("size", free[::-1]).tolist() == free[::-1].tolist()
    assert world.bank.finite("size", world.split.rows("train")).tolist() == []
    two, _ = build_bank(world.store, world.dataset, world.split, world.members[:2])
    assert two.finite("kind", every).tolist() == world.split.rows("train", "fusion", "calibration", "test").tolist()


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_are_double_precision_and_know_their_target(
    world: Any, free: Any, outputs: Callable[..., Any], target: str
) -> None:
    rows = free[[5, 0, 9]]
    said = outputs(target, rows)
    assert said.task == world.dataset.schema.targets[target]
    assert said.kind == said.task.kind
    assert (said.variances is not None) == (target == "size")
    assert said.values.dtype == torch.float64
    assert (said.values.numpy() == world.bank.values(target)[:, rows]).all()


def test_features_and_inputs_are_there_if_they_are_needed(world: Any, free: Any, outputs: Callable[..., Any]) -> None:
    rows = free[[5, 0, 9]]
    bare, full = outputs("kind", rows), outputs("kind", rows, "features", "inputs")
    assert bare.features is bare.inputs is bare.widths is None
    parts = [world.said(m, k, "features")[rows] for m in range(3) for k in range(2 if m < 2 else 1)]
    assert (full.features.numpy() == np.concatenate(parts, axis=1)).all()
    assert full.widths == (2 * 2, 2 * 3, 4)
    numeric = torch.from_numpy(np.asarray(world.dataset.inputs["numeric"])[rows])
    assert torch.equal(full.inputs, plain(world.dataset.schema, {"numeric": numeric}))
    assert full.features.dtype == full.inputs.dtype == torch.float64
    assert outputs("kind", rows, "inputs").features is None
    assert outputs("kind", rows, "features").inputs is None


def test_a_member_costs_what_its_replicas_cost_together(world: Any, free: Any, outputs: Callable[..., Any]) -> None:
    trained = [[read_json(folder / "training.json") for folder in member.folders] for member in world.members]
    expected = [(sum(t["latency"] for t in its), sum(t["bytes"] for t in its)) for its in trained]
    assert world.bank.costs == expected == [(8.0, 400), (8.0, 600), (4.5, 400)]
    assert read_json(world.bank.folder / "bank.json")["costs"] == [list(cost) for cost in expected]
    assert outputs("size", free).costs.tolist() == [list(cost) for cost in expected]


def test_no_row_is_no_trouble(outputs: Callable[..., Any]) -> None:
    said = outputs("size", np.empty(0, np.int64), "features", "inputs")
    parts = (said.values, said.variances, said.features, said.inputs)
    assert [tuple(part.shape) for part in parts] == [(3, 0, 1), (3, 0, 1), (0, 2 * 2 + 2 * 3 + 4), (0, 4)]


def test_the_same_members_and_rows_are_the_same_bank(world: Any) -> None:
    again, reused = build_bank(world.store, world.dataset, world.split, world.members)
    assert reused
    assert (again.key, again.members) == (world.bank.key, world.bank.members)
    assert Bank.open(again.folder) == again


@pytest.mark.parametrize("change", ["order", "keys", "judged", "roles", "name"])
def test_anything_else_is_another_bank(world: Any, change: str) -> None:
    members: list[BankedMember] = list(world.members)
    split = world.split
    if change == "order":
        members = members[::-1]
    elif change == "keys":
        members[0] = replace(members[0], keys=["other", *members[0].keys[1:]])
    elif change == "name":
        members[0] = replace(members[0], name="z")
    elif change == "judged":
        members[0] = replace(members[0], shares=[replace(share, judged=share.judged[:0]) for share in members[0].shares])
    else:
        roles = split.roles.copy()
        roles[split.rows("test")[0]] = -1
        split = Split(roles)
    other, reused = build_bank(world.store, world.dataset, split, members)
    assert not reused
    assert other.key != world.bank.key
    if change == "order":
        assert (other.values("kind")[::-1][:, split.rows("test")] == world.bank.values("kind")[:, split.rows("test")]).all()
        assert other.costs == world.bank.costs[::-1]


@pytest.mark.parametrize("block", [1, 100, 1000, 10**9])
@pytest.mark.parametrize("target", TARGETS)
def test_blocks_are_the_whole_in_consecutive_parts(
    world: Any, free: Any, outputs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, target: str, block: int
) -> None:
    monkeypatch.setattr(banks, "BLOCK", block)
    whole = outputs(target, free[::-1], "features", "inputs")
    parts = list(world.bank.blocks(world.dataset, target, free[::-1], {"features", "inputs"}))
    assert [part.start for part, _ in parts] == [0, *(part.stop for part, _ in parts[:-1])]
    assert parts[-1][0].stop == len(free)
    for part, said in parts:
        rows = part.stop - part.start
        assert said.width == whole.width
        assert rows * said.width <= block or rows == 1
        assert torch.equal(said.values, whole.values[:, part])
        assert said.variances is whole.variances or torch.equal(said.variances, whole.variances[:, part])
        assert torch.equal(said.features, whole.features[part])
        assert torch.equal(said.inputs, whole.inputs[part])
        assert (said.widths, said.task) == (whole.widths, whole.task)


def test_the_width_of_a_row_is_how_many_numbers_it_is(world: Any, free: Any, outputs: Callable[..., Any]) -> None:
    said = outputs("size", free, "features", "inputs")
    tensors = (said.values, said.variances, said.features, said.inputs)
    assert said.width * len(free) == sum(tensor.numel() for tensor in tensors)


def test_no_rows_are_one_empty_block(world: Any) -> None:
    [(part, said)] = world.bank.blocks(world.dataset, "size", np.empty(0, np.int64), {"features"})
    assert (part, said.values.shape, said.features.shape) == (slice(0, 0), (3, 0, 1), (0, 14))


def test_finite_rows_are_found_some_at_a_time(world: Any, free: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    every = np.arange(len(world.dataset))[::-1]
    monkeypatch.setattr(banks, "BLOCK", 20)
    assert world.bank.finite("kind", every).tolist() == free[::-1].tolist()
    assert world.bank.finite("kind", every[:0]).tolist() == []


@pytest.mark.parametrize("target", TARGETS)
def test_rows_of_a_bank_are_read_by_their_positions(world: Any, free: Any, outputs: Callable[..., Any], target: str) -> None:
    said, index = BankRows(world.bank, world.dataset, target, free), np.array([7, 0, 3])
    whole = outputs(target, free[index], "features")
    assert torch.equal(said.outputs(index, {"features"}).features, whole.features)
    [(_, block)] = said.blocks(index, {"features"})
    assert torch.equal(block.values, whole.values)
    alone = said.alone(1, index)
    assert torch.equal(alone.values, whole.values[1:2])
    assert (alone.kind, alone.costs.tolist()) == (whole.kind, whole.costs[1:2].tolist())
    if whole.variances is not None:
        assert torch.equal(alone.variances, whole.variances[1:2])
    if whole.exclusive:
        codes = np.array([2, 0, 1])
        assert torch.equal(said.true(index, codes).values[:, :, 0], whole.values[:, [0, 1, 2], codes])
        assert said.true(index, codes).kind == whole.kind
