"""The bank, from replicas made by hand: what stands in which row, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fuseline.bank import Bank, BankedMember, build_bank
from fuseline.data.split import Split


@pytest.fixture
def free(world: Any) -> Any:
    """The rows that no member was trained on and that count for anything."""
    return world.split.rows("fusion", "calibration", "test")


def test_the_arrays_have_their_shapes_in_single_precision(world: Any) -> None:
    n = len(world.dataset)
    shapes = {"values-kind": (3, n, 3), "values-size": (3, n, 1), "variances-size": (3, n, 1), "features-0": (n, 4)}
    for name, shape in shapes.items():
        array = np.load(world.bank.folder / f"{name}.npy", mmap_mode="r")
        assert (array.shape, array.dtype) == (shape, np.float32), name
    assert not (world.bank.folder / "variances-kind.npy").exists()
    assert world.bank.members == ["a", "b", "c"]


@pytest.mark.parametrize("target", ["kind", "size"])
def test_a_member_is_its_replicas_mean_on_rows_that_none_was_trained_on(world: Any, free: Any, target: str) -> None:
    for member in (0, 1):
        expected = np.mean([world.said(member, k, f"values-{target}").astype(np.float64) for k in range(2)], axis=0)
        np.testing.assert_allclose(world.bank.values(target)[member, free], expected[free], rtol=1e-6)
    assert (world.bank.values(target)[2, free] == world.said(2, 0, f"values-{target}")[free]).all()


def test_its_variance_is_by_the_law_of_total_variance(world: Any, free: Any) -> None:
    means = np.stack([world.said(0, k, "values-size").astype(np.float64) for k in range(2)])
    inner = np.stack([world.said(0, k, "variances-size").astype(np.float64) for k in range(2)])
    expected = inner.mean(0) + means.var(0)
    variances = world.bank.outputs("size", free).variances.numpy()
    np.testing.assert_allclose(variances[0], expected[free], rtol=1e-5)
    assert (variances[0] > inner.mean(0)[free]).all()  # replicas never agree to the digit


@pytest.mark.parametrize("name", ["values-kind", "values-size", "variances-size"])
def test_a_judged_row_is_what_the_replica_says_that_did_not_see_it(world: Any, name: str) -> None:
    banked = np.load(world.bank.folder / f"{name}.npy")
    for m in (0, 1):
        for k, share in enumerate(world.members[m].shares):
            assert (banked[m, share.judged] == world.said(m, k, name)[share.judged]).all()


def test_training_rows_that_nobody_judges_are_nan(world: Any) -> None:
    train = world.split.rows("train")
    assert np.isnan(world.bank.values("kind")[2, train]).all()
    assert np.isnan(world.bank.outputs("size", train).variances[2].numpy()).all()
    assert np.isfinite(world.bank.values("kind")[:2, train]).all()


def test_rows_left_out_of_everything_are_nan(world: Any) -> None:
    left_out = world.split.excluded
    assert len(left_out) == 3
    assert np.isnan(world.bank.values("kind")[:, left_out]).all()
    assert np.isnan(world.bank.outputs("kind", left_out, features=True).features.numpy()).all()


def test_finite_rows_are_those_on_which_no_member_is_nan_in_the_order_asked_for(world: Any, free: Any) -> None:
    every = np.arange(len(world.dataset))
    assert world.bank.finite("kind", every).tolist() == free.tolist()  # the third member judges no training row
    assert world.bank.finite("size", free[::-1]).tolist() == free[::-1].tolist()
    assert world.bank.finite("size", world.split.rows("train")).tolist() == []
    two, _ = build_bank(world.store, world.dataset, world.split, world.members[:2])
    assert two.finite("kind", every).tolist() == world.split.rows("train", "fusion", "calibration", "test").tolist()


def test_outputs_are_double_precision_and_have_features_if_asked(world: Any, free: Any) -> None:
    rows = free[[5, 0, 9]]
    plain, full = world.bank.outputs("kind", rows), world.bank.outputs("kind", rows, features=True)
    assert plain.features is None
    assert plain.variances is None
    assert str(plain.values.dtype) == str(full.features.dtype) == "torch.float64"
    assert (plain.values.numpy() == world.bank.values("kind")[:, rows]).all()
    parts = [world.said(m, k, "features")[rows] for m in range(3) for k in range(2 if m < 2 else 1)]
    assert (full.features.numpy() == np.concatenate(parts, axis=1)).all()


def test_no_row_is_no_trouble(world: Any) -> None:
    outputs = world.bank.outputs("size", np.empty(0, np.int64), features=True)
    assert [tuple(part.shape) for part in outputs] == [(3, 0, 1), (3, 0, 1), (0, 2 * 2 + 2 * 3 + 4)]


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
