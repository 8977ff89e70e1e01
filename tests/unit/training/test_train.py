"""Training a replica: the same seed the same weights, the best epoch kept, and nothing learnt from rows that are not its own."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.data.schema import TargetSchema
from fuseline.errors import NotFiniteError, TrainingError
from fuseline.models.network import Network
from fuseline.partition import Share
from fuseline.training.checkpoint import Care, Checkpoint, Keeper
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.schedules import SCHEDULES
from fuseline.training.train import Epoch, Start, Trained, TrainSpec, load, say_all, train

CPU = torch.device("cpu")
ROWS = Share(np.arange(40), np.arange(40, 60))

DatasetOf = Callable[..., Dataset]
SpecOf = Callable[..., TrainSpec]


@pytest.fixture(scope="session")
def spec_of(spec_of: SpecOf) -> SpecOf:
    """How to train a small network, the optimizer's settings filled in, as a plan leaves them."""

    def make(*given: Any, **changes: Any) -> TrainSpec:
        spec = spec_of(*given, **changes)
        return spec.model_copy(update={"optimizer": complete(spec.optimizer, OPTIMIZERS, "optimizer")})

    return make


def small(dataset_of: DatasetOf, rows: int = 80, kind: str = "classification", seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))
    signal = x @ [1.0, -2.0, 0.5] + random.normal(size=rows)
    y = (signal > 0).astype(np.int64) if kind == "classification" else 50 + 10 * signal
    return dataset_of(x, {"y": y})


def grey(dataset_of: DatasetOf, rows: int = 60) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (rows, 1, 6, 5), dtype=np.uint8)
    return dataset_of(images, {"y": (images.mean((1, 2, 3)) > 127).astype(np.int64)})


def digest(network: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def mlp(**settings: Any) -> dict[str, Any]:
    return {"mlp": {"hidden": [8], "dropout": 0.2} | settings}


def holdout_loss(network: Network, dataset: Dataset, rows: np.ndarray[Any, Any]) -> float:
    """Cross-entropy of a classification, or squared error of the standardised values, by hand."""
    inputs, targets = load(dataset, rows, CPU)
    with torch.inference_mode():
        raw = network(inputs)[1]["y"].double().numpy()
    y = targets["y"].numpy()
    if network.head("y").task.kind == "classification":
        return float(np.mean(np.log(np.exp(raw).sum(1)) - raw[np.arange(len(y)), y]))
    head = network.head("y")
    return float(np.mean((raw[:, 0] - (y - float(head.center)) / float(head.spread)) ** 2))


# ---------------------------------------------------------------------------------------------------------------- seeds


def test_one_seed_gives_the_same_weights_bit_by_bit_and_another_others(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    spec = spec_of(dataset, mlp())
    digests = [digest(train(dataset, spec, ROWS, seed).network) for seed in (0, 0, 1, 2, 3)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_pictures_with_augmentation_repeat_too(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = grey(dataset_of)
    cnn = {"cnn": {"channels": [3], "convolutions": 1, "features": 6}}
    augment = [Component(name="shift"), Component(name="affine")]
    plain, augmented = spec_of(dataset, cnn, epochs=2), spec_of(dataset, cnn, epochs=2, augment=augment)
    share = Share(np.arange(50))
    digests = [digest(train(dataset, spec, share, 5).network) for spec in (augmented, augmented, plain)]
    assert digests[0] == digests[1] != digests[2]


def test_the_global_generators_neither_matter_nor_change(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    spec, digests = spec_of(dataset, mlp()), set()
    with torch.random.fork_rng():
        for other in (1, 2):
            torch.manual_seed(other)
            torch_before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
            digests.add(digest(train(dataset, spec, ROWS, 0).network))
            assert torch.get_rng_state().equal(torch_before)
            assert str(np.random.get_state()) == numpy_before  # noqa: NPY002
    assert len(digests) == 1


def test_the_global_generator_is_as_before_after_a_failure(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)

    def fail(_: Epoch) -> None:
        raise RuntimeError("enough")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="enough"):
        train(dataset, spec_of(dataset), ROWS, 0, fail)
    assert torch.get_rng_state().equal(before)


# ------------------------------------------------------------------------------------------------------- learning curve


def test_training_learns(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of, 400)
    spec = spec_of(dataset, mlp(dropout=0.0), epochs=15)
    trained = train(dataset, spec, Share(np.arange(300)), 0)
    correct = say_all(trained.network, dataset, CPU).values["y"].argmax(1).numpy() == dataset.targets["y"]
    assert correct[300:].mean() > 0.75
    assert trained.curve[-1].loss < trained.curve[0].loss


def test_each_epoch_is_reported_as_it_ends(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    told: list[Epoch] = []
    trained = train(dataset, spec_of(dataset, epochs=4), ROWS, 0, told.append)
    assert told == trained.curve
    assert [epoch.epoch for epoch in told] == [1, 2, 3, 4]
    assert all(a.at <= b.at for a, b in itertools.pairwise(told))
    assert trained.record() == {"curve": [dataclasses.asdict(epoch) for epoch in told], "best": 4}


def test_without_early_stopping_the_last_epoch_is_kept(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    trained = train(dataset, spec_of(dataset, epochs=5), ROWS, 0)
    assert trained.best == 5
    assert all(epoch.holdout is None for epoch in trained.curve)
    assert not trained.network.training


def test_the_rate_follows_the_schedule(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    changes = {"optimizer": Component(name="sgd", settings={"lr": 0.2}), "schedule": Component(name="cosine")}
    trained = train(dataset, spec_of(dataset, epochs=4, **changes), ROWS, 0)
    assert [epoch.rate for epoch in trained.curve] == pytest.approx([0.1 * (1 + np.cos(np.pi * k / 4)) for k in (1, 2, 3, 4)])


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    """With a rate of next to nothing the weights stay, so the first epoch's loss can be had again from the network."""
    dataset = small(dataset_of)
    still = {"optimizer": Component(name="sgd", settings={"lr": 1e-12}), "schedule": Component(name="constant")}
    spec = spec_of(dataset, mlp(dropout=0.0), epochs=1, batch_size=15, **still)
    rows = np.arange(37)  # two batches, of 19 and 18 rows
    trained = train(dataset, spec, Share(rows), 0)
    assert trained.curve[0].loss == pytest.approx(holdout_loss(trained.network, dataset, rows), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_best_epoch_is_kept(dataset_of: DatasetOf, spec_of: SpecOf, kind: str) -> None:
    dataset = small(dataset_of, kind=kind)
    fast = {"optimizer": Component(name="adam", settings={"lr": 0.1}), "schedule": Component(name="constant")}
    spec = spec_of(dataset, mlp(hidden=[32]), epochs=40, patience=4, **fast)
    trained = train(dataset, spec, ROWS, 0)
    losses = [epoch.holdout for epoch in trained.curve]
    assert trained.best == int(np.argmin(losses)) + 1 < len(losses)
    assert len(losses) == min(40, trained.best + 4)
    assert holdout_loss(trained.network, dataset, ROWS.holdout) == pytest.approx(min(losses), rel=1e-5)


def test_patience_that_never_ends_changes_the_kept_epoch_only(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    long, without = (train(dataset, spec_of(dataset, mlp(), epochs=6, patience=p), ROWS, 0) for p in (99, None))
    assert [epoch.loss for epoch in long.curve] == [epoch.loss for epoch in without.curve]


def test_the_holdout_loss_is_over_all_rows_and_not_a_mean_of_batches(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = small(dataset_of)
    spec = spec_of(dataset, mlp(), epochs=2, patience=5)
    whole = train(dataset, spec, ROWS, 0).curve
    monkeypatch.setattr("fuseline.training.train.EVALUATION_BATCH", 7)  # 20 rows: 7, 7 and 6
    parts = train(dataset, spec, ROWS, 0).curve
    assert [e.holdout for e in parts] == pytest.approx([e.holdout for e in whole], rel=1e-6)


def test_patience_without_held_out_rows_does_no_harm(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    trained = train(dataset, spec_of(dataset, patience=1), Share(np.arange(40)), 0)
    assert (len(trained.curve), trained.best) == (3, 3)


# ------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("loss", ["squared_error", "gaussian_nll"])
def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_epoch(
    dataset_of: DatasetOf, spec_of: SpecOf, loss: str
) -> None:
    dataset = small(dataset_of, kind="regression")
    wild = {"optimizer": Component(name="sgd", settings={"lr": 10.0}), "schedule": Component(name="constant")}
    spec = spec_of(dataset, mlp(), epochs=50, losses={"y": Component(name=loss)}, **wild)
    told: list[Epoch] = []
    with pytest.raises(TrainingError) as caught:
        train(dataset, spec, ROWS, 0, told.append)
    assert f"not finite in epoch {len(told) + 1} (of 50)" in str(caught.value)
    assert caught.value.exit_code == 1
    assert len(str(caught.value).splitlines()) == 1
    assert all(np.isfinite(epoch.loss) for epoch in told)


@pytest.mark.parametrize("look", ["before a checkpoint", "once a minute"])
def test_a_loss_that_is_not_finite_ends_the_epoch_at_the_next_look(
    dataset_of: DatasetOf, spec_of: SpecOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """An epoch may take hours. No checkpoint is saved of what is lost."""
    dataset = small(dataset_of, kind="regression")
    wild = {"optimizer": Component(name="sgd", settings={"lr": 1e30}), "schedule": Component(name="constant")}
    spec = spec_of(dataset, mlp(), epochs=1, batch_size=4, **wild)
    monkeypatch.setattr("fuseline.training.train.LOOK", 0.0 if look == "once a minute" else math.inf)
    steps, saved = itertools.count(), list[Any]()
    care = Care(0.0 if look == "before a checkpoint" else math.inf, lambda: next(steps) < 0)
    keeper = Keeper(Checkpoint(tmp_path, "key"), care)
    monkeypatch.setattr(keeper, "save", lambda state: saved.append(state["begun"]))
    with pytest.raises(NotFiniteError, match=r"epoch 1 \(of 1\), step 2;"):
        train(dataset, spec, ROWS, 0, keeper=keeper)
    assert next(steps) == 2
    begun = [its["losses"].isfinite().all() for its in saved if its is not None]
    assert begun == ([True] if look == "before a checkpoint" else [])


@pytest.mark.parametrize("patience", [None, 3])
def test_weights_that_are_not_finite_are_never_handed_over(dataset_of: DatasetOf, spec_of: SpecOf, patience: int | None) -> None:
    """The last step's damage shows in no training loss, since that is taken before the step."""
    dataset = small(dataset_of, kind="regression")
    wild = {"optimizer": Component(name="sgd", settings={"lr": 10.0}), "schedule": Component(name="constant")}
    for epochs in range(1, 12):
        try:
            trained = train(dataset, spec_of(dataset, mlp(), epochs=epochs, patience=patience, **wild), ROWS, 0)
        except TrainingError:
            return
        assert all(tensor.isfinite().all() for tensor in trained.network.state_dict().values()), f"{epochs} epochs"
    pytest.fail("the rate was meant to be too high")


# ----------------------------------------------------------------------------------------------------------- small sets


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_fewer_rows_than_a_batch_still_train(dataset_of: DatasetOf, spec_of: SpecOf, rows: int, kind: str) -> None:
    dataset = small(dataset_of, kind=kind)
    spec = spec_of(dataset, mlp(dropout=0.0), batch_size=64, epochs=2)
    trained, start = (train(dataset, s, Share(np.arange(rows)), 0) for s in (spec, spec_of(dataset, mlp(dropout=0.0), epochs=1)))
    assert all(np.isfinite(epoch.loss) for epoch in trained.curve)
    assert digest(trained.network) != digest(start.network)
    assert all(values.isfinite().all() for values in say_all(trained.network, dataset, CPU).values.values())


def test_a_tiny_cnn_trains_on_batches_of_two_or_three_rows(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = dataset_of(np.arange(20, dtype=np.uint8).reshape(5, 1, 2, 2), {"y": np.array([0, 1, 0, 1, 1])})
    spec = spec_of(dataset, {"cnn": {"channels": [2, 2], "convolutions": 1, "features": 4}}, batch_size=2, epochs=1)
    assert np.isfinite(train(dataset, spec, Share(np.arange(5)), 0).curve[0].loss)


# -------------------------------------------------------------------------------------------------------- training rows


def test_statistics_come_from_the_training_rows_alone(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of, kind="regression")
    x, y = dataset.inputs["numeric"].copy(), dataset.targets["y"].copy()
    x[40:], y[40:] = x[40:] * 100 + 7, y[40:][::-1] * -3
    other = dataclasses.replace(dataset, inputs={"numeric": x}, targets={"y": y})
    spec = spec_of(dataset, mlp(), epochs=2)
    one, two = (train(d, spec, Share(ROWS.train, np.empty(0, np.int64)), 0) for d in (dataset, other))
    assert digest(one.network) == digest(two.network)
    for trained in (one, two, *(train(d, spec_of(dataset, mlp(), epochs=2, patience=9), ROWS, 0) for d in (dataset, other))):
        network = trained.network
        assert network.preprocessing.mean.numpy() == pytest.approx(dataset.inputs["numeric"][:40].mean(0), abs=1e-6)
        assert network.preprocessing.scale.numpy() == pytest.approx(dataset.inputs["numeric"][:40].std(0), rel=1e-5)
        assert float(network.head("y").center) == pytest.approx(dataset.targets["y"][:40].mean())
        assert float(network.head("y").spread) == pytest.approx(dataset.targets["y"][:40].std())


def test_held_out_labels_choose_the_epoch_but_teach_nothing(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    y = dataset.targets["y"].copy()
    y[40:60] = np.random.default_rng(1).permutation(y[40:60])
    other = dataclasses.replace(dataset, targets={"y": y})
    spec = spec_of(dataset, mlp(), epochs=5, patience=9)
    one, two = (train(d, spec, ROWS, 0) for d in (dataset, other))
    assert [epoch.loss for epoch in one.curve] == [epoch.loss for epoch in two.curve]
    assert [epoch.holdout for epoch in one.curve] != [epoch.holdout for epoch in two.curve]


def test_rows_drawn_twice_count_twice(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of, kind="regression")
    rows = np.array([0, 0, 0, 1, 2])
    head = train(dataset, spec_of(dataset, mlp()), Share(rows), 0).network.head("y")
    assert float(head.center) == pytest.approx(dataset.targets["y"][rows].mean())


# --------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("held", [20, 0, 1])
def test_squared_error_takes_its_variance_from_held_out_residuals(dataset_of: DatasetOf, spec_of: SpecOf, held: int) -> None:
    dataset = small(dataset_of, kind="regression")
    share = Share(np.arange(40), np.arange(40, 40 + held))
    network = train(dataset, spec_of(dataset, mlp()), share, 0).network
    expected = holdout_loss(network, dataset, share.holdout if held > 1 else share.train)
    assert float(network.head("y").residual) == pytest.approx(expected, rel=1e-5)
    variance = say_all(network, dataset, CPU).variances["y"]
    assert variance.flatten().numpy() == pytest.approx(np.full(80, expected * float(network.head("y").spread) ** 2), rel=1e-4)


def test_a_learnt_variance_is_kept(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of, kind="regression")
    network = train(dataset, spec_of(dataset, mlp(), losses={"y": Component(name="gaussian_nll")}), ROWS, 0).network
    assert float(network.head("y").residual) == 0
    assert say_all(network, dataset, CPU).variances["y"].unique().numel() > 10


def test_weights_of_targets_scale_their_losses(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    dataset = dataset_of(x, {"y": (x[:, 0] > 0).astype(np.int64), "v": x[:, 1] * 5})
    still = {"optimizer": Component(name="sgd", settings={"lr": 1e-12}), "schedule": Component(name="constant")}

    def loss(y: float, v: float) -> float:
        spec = spec_of(dataset, mlp(dropout=0.0), epochs=1, weights={"y": y, "v": v}, **still)
        return train(dataset, spec, Share(np.arange(60)), 0).curve[0].loss

    assert loss(2.0, 3.0) == pytest.approx(2 * loss(1.0, 1e-12) + 3 * loss(1e-12, 1.0), rel=1e-5)


def test_say_all_says_of_every_row_what_the_network_says(
    dataset_of: DatasetOf, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = small(dataset_of, kind="regression")
    trained: Trained = train(dataset, spec_of(dataset, mlp()), ROWS, 0)
    whole = say_all(trained.network, dataset, CPU)
    monkeypatch.setattr("fuseline.training.train.EVALUATION_BATCH", 7)
    parts = say_all(trained.network, dataset, CPU)
    with torch.inference_mode():
        said = trained.network.say(load(dataset, np.arange(80), CPU)[0])
    for one, other in (
        (whole.values["y"], said.values["y"]),
        (parts.values["y"], said.values["y"]),
        (parts.features, said.features),
    ):
        assert len(one) == 80
        assert one.numpy() == pytest.approx(other.numpy(), rel=1e-5, abs=1e-6)


# -------------------------------------------------------------------------------------------------------------- averaging

STILL = {"optimizer": Component(name="sgd", settings={"lr": 1e-12}), "schedule": Component(name="constant")}
STEADY = {"optimizer": Component(name="adam", settings={"lr": 0.02}), "schedule": Component(name="constant")}
AVERAGES = {
    "ema": Component(name="ema", settings={"decay": 0.6}),
    "swa": Component(name="swa", settings={"start": 0.5}),
}


def weights_after(dataset: Dataset, spec: TrainSpec, epochs: int) -> dict[str, torch.Tensor]:
    return train(dataset, spec.model_copy(update={"epochs": epochs}), Share(np.arange(40)), 0).network.state_dict()


def test_swa_keeps_the_mean_of_the_last_epochs_ends(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    spec = spec_of(dataset, mlp(dropout=0.0), **STEADY)
    averaged = weights_after(dataset, spec.model_copy(update={"average": AVERAGES["swa"]}), 4)
    ends = [weights_after(dataset, spec, epochs) for epochs in (2, 3, 4)]
    for name in ("heads.0.module.weight", "heads.0.module.bias"):
        expected = torch.stack([end[name] for end in ends]).mean(0)
        assert averaged[name].numpy() == pytest.approx(expected.numpy(), abs=1e-6)
        assert not torch.equal(averaged[name], ends[-1][name])


def test_ema_keeps_the_moving_average_of_the_steps(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    """With one batch an epoch is a step, so shorter trainings give the weights after each."""
    dataset = small(dataset_of)
    spec = spec_of(dataset, mlp(dropout=0.0), batch_size=40, **STEADY)
    averaged = weights_after(dataset, spec.model_copy(update={"average": AVERAGES["ema"]}), 4)
    ends = [weights_after(dataset, spec, epochs)["heads.0.module.weight"] for epochs in (1, 2, 3, 4)]
    expected = ends[0]
    for step, end in enumerate(ends[1:], start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * end
    assert averaged["heads.0.module.weight"].numpy() == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize("patience", [3, 99])
@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_the_average_s_best_epoch_is_kept(
    dataset_of: DatasetOf, spec_of: SpecOf, architecture: str, name: str, patience: int
) -> None:
    """The held-out loss is the average's, once there is one, and so are the weights that are handed over; training does not end
    before the average has begun."""
    dataset = small(dataset_of) if architecture == "mlp" else grey(dataset_of)
    shape = mlp(hidden=[32]) if architecture == "mlp" else {"cnn": {"channels": [3], "convolutions": 1, "features": 6}}
    fast = {"optimizer": Component(name="adam", settings={"lr": 0.1}), "schedule": Component(name="constant")}
    trained = train(dataset, spec_of(dataset, shape, epochs=12, patience=patience, average=AVERAGES[name], **fast), ROWS, 0)
    losses = [epoch.holdout for epoch in trained.curve]
    assert trained.best == int(np.argmin(losses)) + 1
    begins = 1 if name == "ema" else math.ceil(12 * AVERAGES["swa"].settings["start"])
    assert len(losses) == min(12, max(begins, trained.best + patience))
    assert holdout_loss(trained.network, dataset, ROWS.holdout) == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("name", AVERAGES)
def test_averaging_changes_nothing_about_the_training_itself(dataset_of: DatasetOf, spec_of: SpecOf, name: str) -> None:
    dataset = grey(dataset_of)
    cnn = {"cnn": {"channels": [3], "convolutions": 1, "features": 6, "dropout": 0.3}}
    plain, averaged, again = (
        train(dataset, spec_of(dataset, cnn, epochs=4, patience=99, average=average), ROWS, 0)
        for average in (None, AVERAGES[name], AVERAGES[name])
    )
    assert [epoch.loss for epoch in averaged.curve] == [epoch.loss for epoch in plain.curve]
    assert digest(averaged.network) == digest(again.network) != digest(plain.network)


# -------------------------------------------------------------------------------------------------------- missing targets


def two_targets(dataset_of: DatasetOf, gaps: bool) -> Dataset:
    random = np.random.default_rng(3)
    x = random.normal(size=(60, 3))
    y, v = (x[:, 0] > 0).astype(np.int64), 50 + 10 * x[:, 1]
    if gaps:
        y[::3], v[1::3] = -1, np.nan
    tasks = {"y": TargetSchema(kind="classification", classes=[0, 1]), "v": TargetSchema(kind="regression")}
    return dataset_of(x, {"y": y, "v": v}, tasks=tasks)


def test_each_target_is_learnt_from_the_rows_that_have_it(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = two_targets(dataset_of, gaps=True)
    spec = spec_of(dataset, mlp(dropout=0.0), epochs=1, batch_size=60, **STILL)
    trained = train(dataset, spec, Share(np.arange(60)), 0)
    y, v = dataset.targets["y"], dataset.targets["v"]
    head = trained.network.head("v")
    assert float(head.center) == pytest.approx(np.nanmean(v))
    assert float(head.spread) == pytest.approx(np.nanstd(v))
    with torch.inference_mode():
        raw = {name: r.double().numpy() for name, r in trained.network(load(dataset, np.arange(60), CPU)[0])[1].items()}
    entropy = np.log(np.exp(raw["y"]).sum(1)) - raw["y"][np.arange(60), y]
    error = (raw["v"][:, 0] - (v - float(head.center)) / float(head.spread)) ** 2
    assert trained.curve[0].loss == pytest.approx(entropy[y >= 0].mean() + np.nanmean(error), rel=1e-5)
    assert float(head.residual) == pytest.approx(np.nanmean(error), rel=1e-5)


@pytest.mark.parametrize("loss", ["squared_error", "huber", "gaussian_nll"])
def test_what_is_learnt_with_gaps_is_finite_for_every_row(dataset_of: DatasetOf, spec_of: SpecOf, loss: str) -> None:
    dataset = two_targets(dataset_of, gaps=True)
    losses = {"y": Component(name="cross_entropy"), "v": Component(name=loss)}
    spec = spec_of(dataset, mlp(), patience=5, batch_size=4, losses=losses)
    said = say_all(train(dataset, spec, ROWS, 0).network, dataset, CPU)
    assert all(part.isfinite().all() for part in (*said.values.values(), *said.variances.values()))


def test_a_variance_comes_from_the_training_rows_where_no_held_out_row_has_the_target(
    dataset_of: DatasetOf, spec_of: SpecOf
) -> None:
    dataset = two_targets(dataset_of, gaps=False)
    dataset.targets["v"][ROWS.holdout] = np.nan
    network = train(dataset, spec_of(dataset, mlp(), epochs=2), ROWS, 0).network
    head = network.head("v")
    with torch.inference_mode():
        raw = network(load(dataset, ROWS.train, CPU)[0])[1]["v"][:, 0].double().numpy()
    error = raw - (dataset.targets["v"][ROWS.train] - float(head.center)) / float(head.spread)
    assert float(head.residual) == pytest.approx(np.mean(error**2), rel=1e-5)


def test_a_target_that_no_training_row_has_is_told(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = two_targets(dataset_of, gaps=False)
    dataset.targets["v"][ROWS.train] = np.nan
    with pytest.raises(TrainingError, match="'v'"):
        train(dataset, spec_of(dataset, mlp()), ROWS, 0)


# ------------------------------------------------------------------------------------------------------ experts and views


def test_an_expert_learns_its_own_classes_against_all_others(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), np.arange(40) % 4
    dataset = dataset_of(x, {"y": y})
    share = Share(np.arange(40), own=np.array([1, 3]))
    trained = train(dataset, spec_of(dataset, mlp(dropout=0.0), epochs=1, batch_size=40, **STILL), share, 0)
    p = say_all(trained.network, dataset, CPU).values["y"].double().numpy()
    event = np.where(np.isin(y, [1, 3]), p[np.arange(40), y], p[:, 0] + p[:, 2])
    assert trained.curve[0].loss == pytest.approx(-np.log(event).mean(), rel=1e-5)
    longer = spec_of(dataset, mlp(dropout=0.0), epochs=6, batch_size=8)
    first, *_, last = train(dataset, longer, share, 0).curve
    assert last.loss < first.loss


def test_a_member_learns_and_says_nothing_by_what_it_does_not_see(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    share = Share(np.arange(40), view=np.array([True, False, True]))
    spec = spec_of(dataset, mlp(), epochs=2)
    x = dataset.inputs["numeric"].copy()
    x[:, 1] = np.random.default_rng(9).normal(7, 3, len(x))
    hidden, x = dataclasses.replace(dataset, inputs={"numeric": x}), x.copy()
    x[:, 0] += 1.5
    seen = dataclasses.replace(dataset, inputs={"numeric": x})
    network = train(dataset, spec, share, 0).network
    said, same, other = (say_all(network, d, CPU).values["y"] for d in (dataset, hidden, seen))
    assert torch.equal(said, same)
    assert not torch.equal(said, other)
    elsewhere = train(hidden, spec, share, 0).network.state_dict()
    learnt = {name for name, t in network.state_dict().items() if not torch.equal(t, elsewhere[name])}
    assert learnt <= {"preprocessing.mean", "preprocessing.scale"}


def test_a_view_of_a_picture_hides_its_pixels(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = grey(dataset_of)
    view = np.zeros((1, 6, 5), np.bool_)
    view[:, :3] = True
    cnn = {"cnn": {"channels": [3], "convolutions": 1, "features": 6}}
    network = train(dataset, spec_of(dataset, cnn, epochs=1), Share(np.arange(40), view=view.ravel()), 0).network
    lower, upper = dataset.inputs["image"].copy(), dataset.inputs["image"].copy()
    lower[:, :, 3:], upper[:, :, :3] = 255 - lower[:, :, 3:], 255 - upper[:, :, :3]
    said, same, other = (
        say_all(network, dataclasses.replace(dataset, inputs={"image": x}), CPU).values["y"]
        for x in (dataset.inputs["image"], lower, upper)
    )
    assert torch.equal(said, same)
    assert not torch.equal(said, other)


# ----------------------------------------------------------------------------------------------------------- mixed, copies


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_repeats_and_changes_the_training(dataset_of: DatasetOf, spec_of: SpecOf, name: str) -> None:
    dataset = grey(dataset_of)
    before = dataset.inputs["image"].copy()
    cnn = {"cnn": {"channels": [3], "convolutions": 1, "features": 6}}
    mixed = [Component(name="shift"), Component(name=name, settings={"alpha": 1.0})]
    specs = [spec_of(dataset, cnn, epochs=4, augment=augment) for augment in (mixed, mixed, mixed[:1])]
    trained = [train(dataset, spec, Share(np.arange(50)), 5) for spec in specs]
    assert digest(trained[0].network) == digest(trained[1].network) != digest(trained[2].network)
    assert trained[0].curve[-1].loss < trained[0].curve[0].loss
    assert (dataset.inputs["image"] == before).all()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_copies_are_trained_by_the_mean_of_their_losses(dataset_of: DatasetOf, spec_of: SpecOf, kind: str) -> None:
    dataset = small(dataset_of, kind=kind)
    tabm = {"tabm": {"copies": 3, "width": 8, "layers": 1, "dropout": 0.0}}
    trained = train(dataset, spec_of(dataset, tabm, epochs=1, batch_size=40, **STILL), Share(np.arange(40)), 0)
    head = trained.network.head("y")
    with torch.inference_mode():
        raw = trained.network(load(dataset, np.arange(40), CPU)[0])[1]["y"].double().numpy()
    assert raw.shape == (40, 3, 2)
    y = dataset.targets["y"][:40]
    if kind == "classification":
        losses = np.log(np.exp(raw).sum(2)) - raw[np.arange(40), :, y]
    else:
        goal = (y - float(head.center)) / float(head.spread)
        losses = (raw[:, :, 0] - goal[:, None]) ** 2
        said = say_all(trained.network, dataset, CPU)
        error = (said.values["y"][:40, 0].double().numpy() - y) ** 2
        assert said.variances["y"][:40].double().mean() == pytest.approx(error.mean(), rel=1e-4)  # the copies' spread included
    assert trained.curve[0].loss == pytest.approx(losses.mean(), rel=1e-5)
    assert say_all(trained.network, dataset, CPU).values["y"].shape == (80, 2 if kind == "classification" else 1)


# ------------------------------------------------------------------------------------------------ optimizers and schedules


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_by_every_schedule(
    dataset_of: DatasetOf, spec_of: SpecOf, optimizer: str, schedule: str
) -> None:
    dataset = small(dataset_of)
    chosen = {"optimizer": Component(name=optimizer, settings={"lr": 0.02}), "schedule": Component(name=schedule)}
    spec = spec_of(dataset, mlp(dropout=0.0), epochs=5, **chosen)
    one, again = (train(dataset, spec, Share(np.arange(80)), 0) for _ in range(2))
    assert one.curve[-1].loss < 0.95 * one.curve[0].loss
    assert digest(one.network) == digest(again.network)


# ------------------------------------------------------------------------------------------------------------ taken over


def test_a_state_that_is_taken_over_is_where_training_starts(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    first = train(dataset, spec_of(dataset, mlp(dropout=0.0), epochs=3), ROWS, 0).network
    still = spec_of(dataset, mlp(dropout=0.0), epochs=1, batch_size=40, **STILL)
    start = Start(state={name: t.clone() for name, t in first.state_dict().items()})
    second = train(dataset, still, ROWS, 1, start=start)
    assert second.curve[0].loss == pytest.approx(holdout_loss(first, dataset, ROWS.train), rel=1e-5)
    for name, tensor in first.state_dict().items():
        assert second.network.state_dict()[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-9)


def test_rows_weigh_what_is_taken_over(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    dataset = small(dataset_of)
    weights = np.random.default_rng(0).uniform(0, 3, 40)
    still = spec_of(dataset, mlp(dropout=0.0), epochs=1, batch_size=40, **STILL)
    trained = train(dataset, still, Share(ROWS.train), 0, start=Start(rows={"y": weights}))
    each = [holdout_loss(trained.network, dataset, np.array([row])) for row in ROWS.train]
    assert trained.curve[0].loss == pytest.approx(np.mean(each * weights), rel=1e-5)


def test_weights_of_rows_follow_their_rows_through_the_shuffled_batches(dataset_of: DatasetOf, spec_of: SpecOf) -> None:
    """Rows without weight teach nothing, in whatever batch they are: their targets may be anything."""
    dataset = small(dataset_of)
    weights = (np.arange(40) % 2).astype(np.float64)
    y = dataset.targets["y"].copy()
    y[:40:2] = 1 - y[:40:2]
    other = dataclasses.replace(dataset, targets={"y": y})
    spec = spec_of(dataset, mlp(), epochs=3, batch_size=8)
    one, two = (train(d, spec, Share(ROWS.train), 0, start=Start(rows={"y": weights})) for d in (dataset, other))
    assert digest(one.network) == digest(two.network)
    assert digest(one.network) != digest(train(dataset, spec, Share(ROWS.train), 0).network)
