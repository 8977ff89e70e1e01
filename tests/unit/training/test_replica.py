"""A replica in the store: its key, what lies there, and that it is what training gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.errors import TrainingError
from fuseline.partition import Share
from fuseline.store import Store, read_json
from fuseline.training import replica
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.replica import KIND, ReplicaJob, curve, load_network, train_into
from fuseline.training.strategies import STRATEGIES, reweigh
from fuseline.training.train import Epoch, Start, say_all, train


@pytest.fixture
def dataset(dataset_of: Callable[..., Dataset]) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3)).astype(np.float32)
    return replace(dataset_of(x, {"kind": (x[:, 0] > 0).astype(np.int64), "size": x[:, 1].astype(float)}), fingerprint="f")


@pytest.fixture
def job(dataset: Dataset, spec_of: Callable[..., Any]) -> ReplicaJob:
    settings = {"optimizer": complete(Component(name="adamw"), OPTIMIZERS, "optimizer")}
    return ReplicaJob(spec_of(dataset, **settings), Share(np.arange(40), np.arange(40, 50), np.arange(50, 60)), 7)


@pytest.fixture
def stored(dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(replica.datasets, "read", lambda folder: dataset)
    assert train_into(store, Path("data"), job, lambda epoch: None) is False
    return store.path(KIND, job.key(dataset))


def test_it_is_what_training_gives(stored: Path, dataset: Dataset, job: ReplicaJob) -> None:
    trained = train(dataset, job.spec, job.share, job.seed)
    network = load_network(stored, dataset.schema, job.spec.network)
    assert not network.training
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    said = say_all(trained.network, dataset, torch.device("cpu"))
    for target in ("kind", "size"):
        assert (np.load(stored / f"values-{target}.npy") == said.values[target].numpy()).all()
    assert (np.load(stored / "variances-size.npy") == said.variances["size"].numpy()).all()
    assert not (stored / "variances-kind.npy").exists()
    assert np.load(stored / "features.npy").shape[0] == len(dataset)


def test_its_curve_is_kept(stored: Path) -> None:
    assert [epoch.epoch for epoch in curve(stored)] == [1, 2, 3]
    assert all(np.isfinite(epoch.loss) for epoch in curve(stored))


def test_a_second_time_it_is_found_and_not_trained(
    stored: Path, dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Epoch] = []
    assert train_into(store, Path("data"), job, told.append) is True
    assert told == []


def test_a_flipped_byte_makes_it_anew(stored: Path, job: ReplicaJob, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    weights = stored / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    told: list[Epoch] = []
    assert train_into(store, Path("data"), job, told.append) is False
    assert len(told) == 3
    assert weights.read_bytes() == good
    assert "damaged" in caplog.text


def test_its_key_follows_all_that_determines_it(dataset: Dataset, job: ReplicaJob) -> None:
    share = job.share
    others = [
        replace(job, seed=8),
        replace(job, spec=job.spec.model_copy(update={"epochs": 4})),
        replace(job, share=replace(share, train=share.train[1:])),
        replace(job, share=replace(share, holdout=share.holdout[1:])),
    ]
    keys = [j.key(dataset) for j in (job, *others)] + [job.key(replace(dataset, fingerprint="g"))]
    assert len(set(keys)) == len(keys)


def test_who_judges_which_rows_does_not_change_its_key(dataset: Dataset, job: ReplicaJob) -> None:
    assert replace(job, share=replace(job.share, judged=np.arange(3))).key(dataset) == job.key(dataset)


# -------------------------------------------------------------------------------------------------------- jobs that follow

STILL = {"lr": 1e-12, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}


def chain(job: ReplicaJob, strategy: str, length: int = 3) -> list[ReplicaJob]:
    """Jobs of which each follows all before it."""
    jobs: list[ReplicaJob] = []
    for k in range(length):
        before = (*jobs[-1].before, jobs[-1]) if jobs else ()
        jobs.append(replace(job, seed=job.seed + k, strategy=Component(name=strategy), before=before))
    return jobs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_change_of_the_first_changes_the_keys_of_all_that_follow(dataset: Dataset, job: ReplicaJob, strategy: str) -> None:
    one, other = chain(job, strategy), chain(job, strategy)
    assert [j.key(dataset) for j in one] == [j.key(dataset) for j in other]
    changed: list[ReplicaJob] = [replace(one[0], share=replace(job.share, train=job.share.train[1:]))]
    for j in one[1:]:
        changed.append(replace(j, before=(*changed[-1].before, changed[-1])))
    keys = {j.key(dataset) for j in one} | {j.key(dataset) for j in changed}
    assert len(keys) == 6
    alone = replace(one[2], before=())
    assert alone.key(dataset) != one[2].key(dataset)
    assert replace(one[2], strategy=Component(name="another")).key(dataset) != one[2].key(dataset)


def test_a_strategy_s_settings_count(dataset: Dataset, job: ReplicaJob) -> None:
    last = chain(job, "boosting", 2)[-1]
    other = replace(last, strategy=Component(name="boosting", settings={"rate": 1.0}))
    assert other.key(dataset) != last.key(dataset)


def test_the_key_of_a_long_chain_is_had_in_as_many_steps_as_it_has_members(
    dataset: Dataset, job: ReplicaJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = replica.content_key
    monkeypatch.setattr(replica, "content_key", lambda **parts: asked.append(1) or real(**parts))
    chain(job, "snapshot", 12)[-1].key(dataset)
    assert len(asked) <= 12 * 12


@pytest.fixture
def chained(dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Train jobs that follow each other, the later ones at another rate, and give their folders."""

    def go(strategy: str, length: int = 2, later: dict[str, Any] = STILL) -> list[Path]:
        monkeypatch.setattr(replica.datasets, "read", lambda folder: dataset)
        jobs: list[ReplicaJob] = []
        slow = {"optimizer": Component(name="sgd", settings=later), "schedule": Component(name="constant")}
        for k, j in enumerate(chain(job, strategy, length)):
            changes = {"batch_size": 40} | (slow if k and later else {})
            jobs.append(replace(j, spec=j.spec.model_copy(update=changes), before=tuple(jobs)))
            train_into(store, Path("data"), jobs[-1], lambda epoch: None)
        return [store.path(KIND, j.key(dataset)) for j in jobs]

    return go


def test_a_snapshot_goes_on_where_its_predecessor_stopped(chained: Callable[..., list[Path]], dataset: Dataset) -> None:
    first, second, third = chained("snapshot", 3)
    states = [load_file(folder / "weights.safetensors") for folder in (first, second, third)]
    for name, tensor in states[0].items():
        for later in states[1:]:
            assert later[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-9)
    p = np.load(first / "values-kind.npy")[np.arange(40), dataset.targets["kind"][:40]].astype(float)
    size = dataset.targets["size"][:40]
    error = (np.load(first / "values-size.npy")[:40, 0] - size) / size.std()
    assert curve(second)[0].loss < curve(first)[0].loss
    assert curve(second)[0].loss == pytest.approx(-np.log(p).mean() + (error**2).mean(), rel=0.2)  # but for dropout


def test_a_member_that_is_boosted_learns_from_weighed_rows(
    chained: Callable[..., list[Path]], dataset: Dataset, job: ReplicaJob
) -> None:
    first, second = chained("boosting", 2, {})
    rows = {
        name: reweigh(np.ones(40), np.load(first / f"values-{name}.npy")[:40], dataset.targets[name][:40], task, 0.5)
        for name, task in dataset.schema.targets.items()
    }
    assert rows["size"].std() > 0
    spec = job.spec.model_copy(update={"batch_size": 40})
    expected = train(dataset, spec, job.share, job.seed + 1, start=Start(rows=rows)).network.state_dict()
    for name, tensor in load_file(second / "weights.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_its_predecessor_nothing_is_trained(
    dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setattr(replica.datasets, "read", lambda folder: dataset)
    first, second = chain(job, strategy, 2)
    with pytest.raises(TrainingError) as caught:
        train_into(store, Path("data"), second, lambda epoch: None)
    assert "follows" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert store.find(KIND, second.key(dataset)) is None
    train_into(store, Path("data"), first, lambda epoch: None)
    assert train_into(store, Path("data"), second, lambda epoch: None) is False


def test_a_snapshot_sees_what_its_share_says(
    dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are the predecessor's, but what it was not shown does not follow from them."""
    monkeypatch.setattr(replica.datasets, "read", lambda folder: dataset)
    views = [np.array([True, True, False]), np.array([False, True, True])]
    jobs: list[ReplicaJob] = []
    for j, view in zip(chain(job, "snapshot", 2), views, strict=True):
        jobs.append(replace(j, share=replace(j.share, view=view), before=tuple(jobs)))
        train_into(store, Path("data"), jobs[-1], lambda epoch: None)
        network = load_network(store.path(KIND, jobs[-1].key(dataset)), dataset.schema, j.spec.network)
        assert network.preprocessing.get_buffer("sees_numeric").tolist() == view.tolist()


def test_view_and_classes_of_its_own_change_its_key(dataset: Dataset, job: ReplicaJob) -> None:
    shares = [job.share, replace(job.share, view=np.array([True, True, False])), replace(job.share, own=np.array([1]))]
    assert len({replace(job, share=share).key(dataset) for share in shares}) == 3


def test_what_it_costs_is_kept(stored: Path, dataset: Dataset, job: ReplicaJob) -> None:
    network = load_network(stored, dataset.schema, job.spec.network)
    training = read_json(stored / "training.json")
    assert training["parameters"] == sum(p.numel() for p in network.parameters())
    assert training["bytes"] == sum(t.numpy().nbytes for t in network.state_dict().values())
    assert training["latency"] > 0
