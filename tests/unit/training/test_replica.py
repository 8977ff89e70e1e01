"""A replica in the store: its key, what lies there, and that it is what training gives."""

from __future__ import annotations

import itertools
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
from fuseline.training.checkpoint import FOLDER, Care, Checkpoint, Stopped
from fuseline.training.messages import KIND, Epoch
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.replica import ReplicaJob, curve, load_network, train_into, train_together_into
from fuseline.training.strategies import STRATEGIES, reweigh
from fuseline.training.train import Start, say_all, train


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


# ------------------------------------------------------------------------------------------------------------ checkpoints


def after(steps: int) -> Care:
    """Asked to stop after so many steps."""
    left = itertools.count(steps - 1, -1)
    return Care(pulse=lambda: next(left) <= 0)


def kept(store: Store) -> list[str]:
    folder = store.root / FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    """A replica's files, but for what timings say."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npy", ".safetensors")}


@pytest.fixture
def here(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the data are."""
    monkeypatch.setattr(replica.datasets, "read", lambda folder: dataset)
    return Path("data")


def test_one_that_was_stopped_becomes_what_it_would_have_been(
    here: Path, dataset: Dataset, job: ReplicaJob, store: Store, tmp_path: Path
) -> None:
    key, told = job.key(dataset), list[Epoch]()
    for _ in range(3):
        with pytest.raises(Stopped):
            train_into(store, here, job, told.append, care=after(2))
        assert store.find(KIND, key) is None
        assert [name.split("-")[0] for name in kept(store)] == [key]
    assert train_into(store, here, job, told.append) is False
    assert kept(store) == []
    assert curve(store.path(KIND, key)) == told
    other = Store(tmp_path / "other")
    train_into(other, here, job, lambda epoch: None)
    assert contents(store.path(KIND, key)) == contents(other.path(KIND, key))
    assert kept(other) == []


@pytest.mark.parametrize("members", [1, 4])
def test_its_seconds_are_those_of_all_attempts(
    here: Path, dataset: Dataset, stack: list[ReplicaJob], store: Store, members: int
) -> None:
    key = stack[0].key(dataset)
    with pytest.raises(Stopped):
        train_into(store, here, stack[0], lambda epoch: None, care=after(1)) if members == 1 else together(store, stack, after(1))
    (name,) = kept(store)
    checkpoint = Checkpoint(store.root / FOLDER, name.split("-")[0])
    tree = checkpoint.load()
    assert tree is not None
    assert tree["seconds"] > 0
    checkpoint.save(tree | {"seconds": tree["seconds"] + 40_000.0})
    train_into(store, here, stack[0], lambda epoch: None) if members == 1 else together(store, stack)
    assert 40_000 / members < read_json(store.path(KIND, key) / "training.json")["seconds"] < 41_000 / members


def test_who_asks_to_stop_while_all_rows_are_said_is_heard(
    here: Path, dataset: Dataset, job: ReplicaJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuseline.training.train.EVALUATION_BATCH", 7)
    with pytest.raises(Stopped):
        train_into(store, here, job, lambda epoch: None, care=after(2 * 3 + 4))  # two batches in each of three epochs
    assert store.find(KIND, job.key(dataset)) is None
    told: list[Epoch] = []
    train_into(store, here, job, told.append)
    assert told == [], "nothing was left to learn"


def test_where_the_replica_is_there_no_checkpoint_stays(here: Path, stored: Path, job: ReplicaJob, store: Store) -> None:
    Checkpoint(store.root / FOLDER, stored.name).save({"planted": 1})
    (store.root / FOLDER / f".{stored.name}-1").write_bytes(b"half")
    assert len(kept(store)) == 2
    assert train_into(store, Path("data"), job, lambda epoch: None) is True
    assert kept(store) == []


def test_one_that_fails_leaves_no_checkpoint(here: Path, dataset: Dataset, job: ReplicaJob, store: Store) -> None:
    dataset.targets["size"][45] = 1e300  # a held-out row
    with pytest.raises(TrainingError, match="not finite"):
        train_into(store, here, replace(job, spec=job.spec.model_copy(update={"patience": 3})), lambda epoch: None)
    assert kept(store) == []


@pytest.fixture
def stack(job: ReplicaJob) -> list[ReplicaJob]:
    return [replace(job, seed=seed, share=replace(job.share, train=np.arange(seed, seed + 30))) for seed in range(4)]


def together(
    store: Store, jobs: list[ReplicaJob], care: Care | None = None
) -> tuple[list[bool | TrainingError], list[tuple[int, int]]]:
    """Which were there already, and of whose epochs it told."""
    told: list[tuple[int, int]] = []
    there = train_together_into(store, Path("data"), jobs, lambda k, epoch: told.append((k, epoch.epoch)), care=care or Care())
    return there, told


def all_contents(store: Store, jobs: list[ReplicaJob], dataset: Dataset) -> list[dict[str, bytes]]:
    return [contents(store.path(KIND, job.key(dataset))) for job in jobs]


def test_a_stack_that_was_stopped_becomes_what_it_would_have_been(
    here: Path, dataset: Dataset, stack: list[ReplicaJob], store: Store, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        together(store, stack, after(2))
    assert len(kept(store)) == 1
    there, told = together(store, stack)
    assert there == [False] * 4
    assert {epoch for _, epoch in told} == {2, 3}
    assert kept(store) == []
    other = Store(tmp_path / "other")
    together(other, stack)
    assert all_contents(store, stack, dataset) == all_contents(other, stack, dataset)


def test_a_kill_between_two_members_entries_loses_nothing(
    here: Path, dataset: Dataset, stack: list[ReplicaJob], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together(store, stack[:1])  # it is there before, and so not one of the stack
    before = store.path(KIND, stack[0].key(dataset)).stat().st_mtime_ns
    other = Store(tmp_path / "other")
    together(other, stack[:1])
    together(other, stack)
    write, count = replica._write, itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(replica, "_write", lambda *given: write(*given) if next(count) < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            together(store, stack)
    assert [store.find(KIND, job.key(dataset)) is not None for job in stack] == [True, True, False, False]
    assert len(kept(store)) == 1
    written = store.path(KIND, stack[1].key(dataset)).stat().st_mtime_ns
    seen: list[int] = []
    with monkeypatch.context() as patch:
        real = replica.train_together

        def look(dataset: Dataset, spec: Any, shares: Any, *others: Any) -> Any:
            seen.append(len(shares))
            return real(dataset, spec, shares, *others)

        patch.setattr(replica, "train_together", look)
        there, told = together(store, stack)
    assert there == [True, True, False, False]
    assert (seen, told) == ([3], [])
    assert all_contents(store, stack, dataset) == all_contents(other, stack, dataset)
    assert store.path(KIND, stack[0].key(dataset)).stat().st_mtime_ns == before
    assert store.path(KIND, stack[1].key(dataset)).stat().st_mtime_ns == written
    assert kept(store) == []
    assert together(store, stack) == ([True] * 4, [])


def test_a_stack_that_began_with_others_counts_as_missing(
    here: Path, dataset: Dataset, stack: list[ReplicaJob], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """One of the rest was there when it began, and is damaged now."""
    together(store, stack[:1])
    with pytest.raises(Stopped):
        together(store, stack, after(2))
    weights = store.path(KIND, stack[0].key(dataset)) / "weights.safetensors"
    weights.write_bytes(b"")
    there, told = together(store, stack)
    assert there == [False] * 4
    assert {k for k, epoch in told if epoch == 1} == {0, 1, 2, 3}
    assert "does not fit" in caplog.text
    assert kept(store) == []


def test_of_those_that_are_there_by_now_no_epochs_are_told(
    here: Path, dataset: Dataset, stack: list[ReplicaJob], store: Store
) -> None:
    with pytest.raises(Stopped):
        together(store, stack, after(1))
    together(store, stack[1:2])
    there, told = together(store, stack)
    assert there == [False, True, False, False]
    assert {k for k, _ in told} == {0, 2, 3}
    assert kept(store) == []
