"""Networks trained as a stack become what each would be alone, to rounding: weights, curves, and when each one stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.errors import TrainingError
from fuseline.models.network import Branch, Network
from fuseline.partition import Share
from fuseline.training.checkpoint import Care, Checkpoint, Keeper, Stopped
from fuseline.training.mixing import MIXINGS
from fuseline.training.objective import Objective
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.train import Epoch, Trained, Trainer, TrainSpec, stacking, train, train_together

DatasetOf = Callable[..., Dataset]
SpecOf = Callable[..., TrainSpec]
ALL = Share(np.arange(60))


def table(dataset_of: DatasetOf, rows: int = 90) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3))
    x[::7, 1] = np.nan
    signal = np.nan_to_num(x) @ [1.0, -2.0, 0.5] + random.normal(size=rows)
    kind = (signal > 0).astype(np.int64) + (signal > 1)
    return dataset_of(x, {"kind": kind, "size": 50 + 10 * signal})


def pictures(dataset_of: DatasetOf, rows: int = 60) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (rows, 1, 6, 5), dtype=np.uint8)
    return dataset_of(images, {"y": (images.mean((1, 2, 3)) > 127).astype(np.int64)})


def spec_for(spec_of: SpecOf, dataset: Dataset, architecture: Any = None, **changes: Any) -> TrainSpec:
    spec = spec_of(dataset, architecture or {"mlp": {"hidden": [8, 6], "dropout": 0.2}}, **changes)
    return spec.model_copy(update={"optimizer": complete(spec.optimizer, OPTIMIZERS, "optimizer")})


def gap(one: Network, other: Network) -> float:
    """The largest difference between two networks' tensors."""
    mine, theirs = one.state_dict(), other.state_dict()
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine if mine[name].numel())


def both(dataset: Dataset, spec: TrainSpec, shares: list[Share]) -> list[tuple[Trained, Trained]]:
    together = train_together(dataset, spec, shares, range(10, 10 + len(shares)))
    alone = [train(dataset, spec, share, 10 + k) for k, share in enumerate(shares)]
    assert all(isinstance(trained, Trained) for trained in together)
    return list(zip(together, alone, strict=True))  # type: ignore[arg-type]


def assert_same(pairs: list[tuple[Trained, Trained]]) -> None:
    for stacked, alone in pairs:
        assert [e.epoch for e in stacked.curve] == [e.epoch for e in alone.curve]
        assert stacked.best == alone.best
        for mine, its in zip(stacked.curve, alone.curve, strict=True):
            assert mine.loss == pytest.approx(its.loss, rel=1e-4)
            assert (mine.holdout is None) == (its.holdout is None)
            assert mine.holdout is None or mine.holdout == pytest.approx(its.holdout, rel=1e-4)
            assert mine.rate == pytest.approx(its.rate)
        assert gap(stacked.network, alone.network) < 1e-4
        assert not stacked.network.training


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": Component(name="sgd", settings={"lr": 0.05})},
        {"losses": {"kind": Component(name="focal"), "size": Component(name="squared_error")}},
        {"class_weights": {"kind": Component(name="balanced")}, "weights": {"kind": 2.0, "size": 0.5}},
        {"freeze": ["backbone.layers.0.*"]},
        {"rates": {"heads.*": 0.1}},
    ],
)
def test_a_stack_trains_what_each_would_be_alone(dataset_of: DatasetOf, spec_of: SpecOf, changes: Any) -> None:
    dataset = table(dataset_of)
    spec = spec_for(spec_of, dataset, epochs=3, batch_size=16, **changes)
    random = np.random.default_rng(1)
    assert_same(both(dataset, spec, [Share(random.permutation(90)[:60]) for _ in range(3)]))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_norms_gather_what_they_would_alone(dataset_of: DatasetOf, spec_of: SpecOf, norm: str) -> None:
    dataset = table(dataset_of)
    shape = {"mlp": {"hidden": [8], "norm": norm, "residual": True}}
    sgd = Component(name="sgd", settings={"lr": 0.05})  # Adam makes steps of the rounding error of a bias before batch norm
    spec = spec_for(spec_of, dataset, shape, epochs=3, batch_size=16, optimizer=sgd)
    assert_same(both(dataset, spec, [ALL, Share(np.arange(30, 90))]))


@pytest.mark.parametrize("mixing", [None, *MIXINGS])
def test_augmentations_and_mixings_draw_what_they_would_alone(dataset_of: DatasetOf, spec_of: SpecOf, mixing: str | None) -> None:
    dataset = pictures(dataset_of)
    augment = [Component(name="shift"), *([] if mixing is None else [Component(name=mixing)])]
    spec = spec_for(spec_of, dataset, epochs=3, batch_size=16, augment=augment)
    assert_same(both(dataset, spec, [Share(np.arange(40)), Share(np.arange(20, 60)), Share(np.arange(10, 50))]))


def test_shares_of_other_sizes_are_filled_up_with_rows_that_weigh_nothing(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = table(dataset_of)
    plain = {"mlp": {"hidden": [8], "dropout": 0.0}}
    spec = spec_for(spec_of, dataset, plain, epochs=4, batch_size=16, patience=9)
    shares = [Share(np.arange(count), np.arange(70, 80 + k)) for k, count in enumerate((48, 63, 55))]
    same = stacking(dataset.schema, spec)
    assert same is not None
    assert {same(share) for share in shares} == {"3 batches, expert in []"}
    assert_same(both(dataset, spec, shares))


def test_each_stops_early_by_itself_and_keeps_its_best_epoch(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = table(dataset_of)
    fast = {"optimizer": Component(name="sgd", settings={"lr": 0.2}), "schedule": Component(name="constant")}
    spec = spec_for(spec_of, dataset, epochs=30, batch_size=16, patience=2, **fast)
    shares = [Share(np.arange(k, k + 48), np.arange(70, 90)) for k in range(5)]
    told: list[tuple[int, Epoch]] = []
    together = train_together(dataset, spec, shares, range(10, 15), lambda k, epoch: told.append((k, epoch)))
    alone = [train(dataset, spec, share, 10 + k) for k, share in enumerate(shares)]
    assert_same(list(zip(together, alone, strict=True)))  # type: ignore[arg-type]
    lengths = [len(trained.curve) for trained in alone]
    assert len(set(lengths)) > 1, "they stop at different epochs, or this shows nothing"
    assert max(lengths) < 30
    for k, trained in enumerate(together):
        assert isinstance(trained, Trained)
        assert [epoch for position, epoch in told if position == k] == trained.curve


def test_one_whose_loss_is_not_finite_leaves_the_others_be(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = table(dataset_of)
    dataset.targets["size"][85] = 1e300  # a standardised value that squares to more than a float holds
    losses = {"kind": Component(name="cross_entropy"), "size": Component(name="squared_error")}
    spec = spec_for(spec_of, dataset, epochs=2, batch_size=16, patience=5, losses=losses)
    shares = [Share(np.arange(48), np.arange(60, 80)), Share(np.arange(48), np.arange(70, 90)), Share(np.arange(12, 60))]
    good, bad, other = train_together(dataset, spec, [*shares[:2], Share(shares[2].train, np.arange(60, 80))], [1, 2, 3])
    assert isinstance(bad, TrainingError)
    assert "not finite in epoch 1" in str(bad)
    assert isinstance(good, Trained)
    assert isinstance(other, Trained)
    assert gap(good.network, train(dataset, spec, shares[0], 1).network) < 1e-4


@pytest.mark.parametrize(("lost", "steps"), [([0], 6), ([0, 1], 1)])
def test_an_epoch_ends_early_only_where_all_losses_are_lost(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, lost: list[int], steps: int
) -> None:
    """Two epochs of three steps; in the first step some losses are not finite."""
    dataset, calls = table(dataset_of), list[int]()
    spec = spec_for(spec_of, dataset, epochs=2, batch_size=16)
    gradients = Trainer._gradients

    def spoilt(self: Trainer, *given: Any) -> torch.Tensor:
        losses = gradients(self, *given)
        if not calls:
            losses[lost] = float("nan")
        calls.append(len(losses))
        return losses

    monkeypatch.setattr("fuseline.training.train.LOOK", 0.0)
    monkeypatch.setattr(Trainer, "_gradients", spoilt)
    results = train_together(dataset, spec, [Share(np.arange(48))] * 2, [1, 2])
    assert [k for k, result in enumerate(results) if isinstance(result, TrainingError)] == lost
    assert all("epoch 1 (of 2), step 1;" in str(results[k]) for k in lost)
    assert len(calls) == steps


def test_one_alone_is_trained_as_ever(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = table(dataset_of)
    spec = spec_for(spec_of, dataset, epochs=2)
    (one,) = train_together(dataset, spec, [ALL], [4])
    assert isinstance(one, Trained)
    assert gap(one.network, train(dataset, spec, ALL, 4).network) == 0


def test_more_data_than_may_be_prepared_or_resident_train_the_same(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = pictures(dataset_of)
    spec = spec_for(spec_of, dataset, epochs=2, batch_size=16, patience=5)
    share = Share(np.arange(40), np.arange(40, 60))
    whole = train(dataset, spec, share, 3)
    monkeypatch.setattr("fuseline.training.material.PREPARED", 0)
    assert gap(train(dataset, spec, share, 3).network, whole.network) == 0
    monkeypatch.setattr("fuseline.training.material.RESIDENT", 600)  # twenty of sixty pictures, to fit the scales by
    streamed = train(dataset, spec, share, 3)
    assert np.isfinite([epoch.loss for epoch in streamed.curve]).all()
    assert_same(both(dataset, spec, [share, share]))


# -------------------------------------------------------------------------------------------------------- out of memory

PLAIN = {"mlp": {"hidden": [8], "dropout": 0.0}}
SGD = Component(name="sgd", settings={"lr": 0.05})  # by which rounding stays what it is


def full_at(monkeypatch: pytest.MonkeyPatch, *calls: int) -> list[int]:
    """Let the objective of training find no memory at some of its calls; gives the numbers of rows that it was asked for."""
    rows: list[int] = []

    class Full(Objective):
        def __call__(self, branches: list[Branch], goals: Any, mixed: Any = None) -> Any:
            losses = super().__call__(branches, goals, mixed)
            if losses.requires_grad:
                rows.append(next(iter(goals.values())).weight.shape[1])
                if len(rows) in calls:
                    raise torch.OutOfMemoryError(
                        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 B."
                    )
            return losses

    monkeypatch.setattr("fuseline.training.train.Objective", Full)
    return rows


@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("kind", ["table", "mixed pictures", "unequal"])
def test_a_batch_that_is_too_much_is_learnt_in_halves(
    dataset_of: DatasetOf,
    spec_of: SpecOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    networks: int,
) -> None:
    """The second step fails: half the rows from there on, and the same weights and losses as with whole batches."""
    if kind == "mixed pictures":
        dataset = pictures(dataset_of)
        shape, changes = {"mlp": {"hidden": [8], "dropout": 0.0}}, {"augment": [Component(name="mixup")]}
    else:
        dataset, shape = table(dataset_of), PLAIN
        changes = {"class_weights": {"kind": Component(name="balanced")}}
        dataset.targets["kind"][::3] = -1
    spec = spec_for(spec_of, dataset, shape, epochs=3, batch_size=16, optimizer=SGD, **changes)
    shares = [Share(np.arange(k, k + (48 + 4 * k if kind == "unequal" else 48))) for k in range(networks)]
    whole = train_together(dataset, spec, shares, range(networks))
    rows = full_at(monkeypatch, 2)
    halved = train_together(dataset, spec, shares, range(networks))
    most = max(rows)
    assert rows[:2] == [most, most]
    assert len(rows) == 2 + 8 * 2 * (2 if "mixed" in kind else 1), "in all later steps too"
    assert set(rows[2:]) <= {most // 2, most - most // 2}
    assert caplog.text.count("halves") == 1
    for one, other in zip(whole, halved, strict=True):
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        assert gap(one.network, other.network) < 1e-5
        assert [e.loss for e in other.curve] == pytest.approx([e.loss for e in one.curve], rel=1e-5)


@pytest.mark.parametrize("calls", [(1, 2), (1, 3), (3, 6)])
def test_a_half_that_is_too_much_fails(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, calls: tuple[int, ...]
) -> None:
    dataset = table(dataset_of)
    spec = spec_for(spec_of, dataset, PLAIN, epochs=3, batch_size=16)
    full_at(monkeypatch, *calls)
    with pytest.raises(TrainingError) as caught:
        train(dataset, spec, ALL, 0)
    assert str(caught.value) == (
        "out of memory on 'cpu' (CUDA out of memory. Tried to allocate 2.00 GiB); "
        "make 'batch_size' smaller, or train fewer members at a time."
    )


def test_a_batch_of_three_is_not_halved(dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm learns nothing from one row."""
    dataset = table(dataset_of)
    spec = spec_for(spec_of, dataset, {"mlp": {"hidden": [8], "norm": "batch"}}, batch_size=3)
    rows = full_at(monkeypatch, 1)
    with pytest.raises(TrainingError, match=r"^out of memory"):
        train(dataset, spec, Share(np.arange(3)), 0)
    assert rows == [3]


def test_memory_that_is_short_before_the_first_step_is_told_alike(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = table(dataset_of)

    def full(*given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("fuseline.training.train.Material", full)
    for call in (
        lambda: train(dataset, spec_for(spec_of, dataset), ALL, 0),
        lambda: both(dataset, spec_for(spec_of, dataset), [ALL]),
    ):
        with pytest.raises(TrainingError, match=r"^out of memory on 'cpu' \(CUDA out of memory\)"):
            call()


def test_halves_go_on_after_an_interruption(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bit by bit, since a checkpoint says that batches are halved."""
    dataset = table(dataset_of)
    spec = spec_for(spec_of, dataset, epochs=3, batch_size=16)
    full_at(monkeypatch, 2)
    whole = train(dataset, spec, ALL, 0)
    asked = iter([False, False, True])
    rows = full_at(monkeypatch, 2)
    with pytest.raises(Stopped):
        train(dataset, spec, ALL, 0, keeper=Keeper(Checkpoint(tmp_path, "key"), Care(pulse=lambda: next(asked))))
    rows = full_at(monkeypatch)
    resumed = train(dataset, spec, ALL, 0, keeper=Keeper(Checkpoint(tmp_path, "key")))
    assert max(rows) == 10
    assert gap(resumed.network, whole.network) == 0
    assert [e.loss for e in resumed.curve] == [e.loss for e in whole.curve]
