"""Checkpoints: the last one that is whole is found, whatever became of the others, and nothing else is ever read or run."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fuseline.training.checkpoint import Care, Checkpoint, Keeper, Stopped, put, tensors

FIRST, SECOND = ({"step": step, "x": torch.full((50,), float(step))} for step in (1, 2))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "checkpoints", "key")


def files(checkpoint: Checkpoint) -> list[Path]:
    return sorted(checkpoint.folder.iterdir()) if checkpoint.folder.exists() else []


def step_of(checkpoint: Checkpoint) -> Any:
    found = checkpoint.load()
    return None if found is None else found["step"]


def planted(checkpoint: Checkpoint, content: bytes) -> Path:
    """A file that is named as a whole checkpoint is."""
    checkpoint.folder.mkdir(exist_ok=True)
    place = checkpoint.folder / f"key-{hashlib.sha256(content).hexdigest()}.pt"
    place.write_bytes(content)
    return place


# ------------------------------------------------------------------------------------------------------------- the file


def test_what_was_saved_is_found_bit_by_bit(checkpoint: Checkpoint) -> None:
    tree = {
        "numbers": [1, 0.1, float("inf"), True, None],
        "words": {"a": "ä"},
        "tensors": {
            "nan": torch.tensor([float("nan"), -0.0]),
            "turned": torch.arange(6.0).reshape(2, 3).T,
            "none": torch.ones(0, 2),
        },
        "generator": torch.Generator().manual_seed(3).get_state(),
    }
    checkpoint.save(tree)
    found = checkpoint.load()
    assert found is not None
    assert {name: found[name] for name in ("numbers", "words")} == {name: tree[name] for name in ("numbers", "words")}
    assert found["tensors"]["nan"].numpy().tobytes() == torch.tensor([float("nan"), -0.0]).numpy().tobytes()
    assert found["tensors"]["turned"].stride() == (1, 3)  # a fused optimizer goes through memory as it lies
    assert found["tensors"]["none"].shape == (0, 2)
    assert found["generator"].equal(tree["generator"])


def test_nothing_is_found_where_nothing_was_saved(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load() is None
    checkpoint.drop()
    assert caplog.text == ""


def test_the_last_one_takes_the_place_of_those_before_it(checkpoint: Checkpoint) -> None:
    checkpoint.save(FIRST)
    checkpoint.save(SECOND)
    (only,) = files(checkpoint)
    assert only.name == f"key-{hashlib.sha256(only.read_bytes()).hexdigest()}.pt"
    assert step_of(checkpoint) == 2
    checkpoint.save(SECOND)
    assert step_of(checkpoint) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b[: len(b) // 2], lambda b: b""])
def test_a_damaged_one_counts_as_missing(
    checkpoint: Checkpoint, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(FIRST)
    (only,) = files(checkpoint)
    only.write_bytes(damage(only.read_bytes()))
    assert step_of(checkpoint) is None
    assert "damaged" in caplog.text
    assert len(caplog.records) == 1
    checkpoint.save(SECOND)
    assert len(files(checkpoint)) == 1
    assert step_of(checkpoint) == 2


def test_the_one_before_it_serves_where_the_last_is_damaged(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Who was killed between the renaming and the removal leaves both."""
    checkpoint.save(FIRST)
    (old,) = files(checkpoint)
    content, times = old.read_bytes(), (1, 1)
    checkpoint.save(SECOND)
    (new,) = files(checkpoint)
    old.write_bytes(content)
    os.utime(old, times)
    assert step_of(checkpoint) == 2
    new.write_bytes(b"")
    assert step_of(checkpoint) == 1
    assert caplog.text.count("passed over") == 1


def test_what_a_killed_writer_left_is_swept(checkpoint: Checkpoint) -> None:
    checkpoint.save(FIRST)
    for sweep in (checkpoint.load, checkpoint.drop):
        (checkpoint.folder / ".key-999").write_bytes(b"half of")
        (checkpoint.folder / ".other-999").write_bytes(b"another's")
        sweep()
        assert not (checkpoint.folder / ".key-999").exists()
        assert (checkpoint.folder / ".other-999").exists()


def test_nobody_else_s_is_dropped(checkpoint: Checkpoint) -> None:
    other = Checkpoint(checkpoint.folder, "other")
    checkpoint.save(FIRST)
    other.save(SECOND)
    checkpoint.drop()
    assert checkpoint.load() is None
    assert step_of(other) == 2


def test_what_can_t_be_saved_leaves_the_last_one(checkpoint: Checkpoint) -> None:
    checkpoint.save(FIRST)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save({"step": 2, "x": lambda: None})
    assert len(files(checkpoint)) == 1
    assert step_of(checkpoint) == 1


NO_ROOM = """
import resource, sys, torch
from pathlib import Path
from fuseline.disk import NoRoomError
from fuseline.training.checkpoint import Checkpoint
checkpoint = Checkpoint(Path(sys.argv[1]), "key")
checkpoint.save({"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    checkpoint.save({"step": 2, "x": torch.rand(100_000)})
except NoRoomError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 3, 4096, 200_000, 400_000])
def test_without_room_the_last_one_is_kept_and_the_error_says_so(checkpoint: Checkpoint, room: int) -> None:
    """The file would take 400,000 bytes and some: no room for the first byte, or for the last."""
    done = subprocess.run([sys.executable, "-c", NO_ROOM, str(checkpoint.folder), str(room)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no room for a checkpoint (the last one is kept)" in done.stdout
    assert str(checkpoint.folder) in done.stdout
    assert len(files(checkpoint)) == 1
    assert step_of(checkpoint) == 1


# ------------------------------------------------------------------------------------------------------ nothing is run


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("inside", [lambda evil: evil, lambda evil: {"seconds": 1.0, "about": {}, "state": {"x": evil}}])
@pytest.mark.parametrize("way", ["pickle", "torch", "legacy"])
def test_a_planted_pickle_is_not_run(
    checkpoint: Checkpoint, tmp_path: Path, inside: Callable[[Any], Any], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "evil"
    if way == "pickle":
        file.write_bytes(pickle.dumps(inside(Evil(mark))))
    else:
        torch.save(inside(Evil(mark)), file, _use_new_zipfile_serialization=way == "torch")
    place = planted(checkpoint, file.read_bytes())
    assert checkpoint.load() is None
    assert not mark.exists()
    assert place.name in caplog.text
    torch.load(file, weights_only=False) if way != "pickle" else pickle.loads(file.read_bytes())
    assert mark.exists(), "it does nothing, or this shows nothing"


def test_a_file_of_something_else_counts_as_missing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as some:
        some.writestr("a", "b")
    torch.save([1, 2], tmp_path / "list.pt")
    for content in (b"text", (tmp_path / "some.zip").read_bytes(), (tmp_path / "list.pt").read_bytes()):
        place = planted(checkpoint, content)
        assert checkpoint.load() is None
        place.unlink()


# ----------------------------------------------------------------------------------------------------------- the keeper


class Clock:
    """A time that passes as the test says; each saving takes a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("fuseline.training.checkpoint.time.perf_counter", lambda: self.now)
        save = Checkpoint.save

        def slow(checkpoint: Checkpoint, tree: Any) -> None:
            save(checkpoint, tree)
            self.now += 1.0

        monkeypatch.setattr(Checkpoint, "save", slow)


def test_at_the_ends_of_epochs_saving_takes_a_twentieth_of_the_time(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    keeper = Keeper(checkpoint)
    saved = 0
    for _ in range(100):  # epochs
        clock.now += 6.0
        if keeper.is_due_after_epoch():
            keeper.save({"n": saved})
            saved += 1
    assert saved == 25  # after the first epoch, and then each time that 20 seconds have passed


def test_a_training_of_a_second_is_not_held_up(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    keeper = Keeper(checkpoint)
    due = []
    for _ in range(12):
        clock.now += 0.125
        due.append(keeper.is_due_after_epoch())
    assert due == [False] * 7 + [True] * 5


def test_inside_an_epoch_it_goes_by_the_clock(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    keeper = Keeper(checkpoint, Care(30.0))
    due = []
    for step in range(200):
        clock.now += 1.0
        if keeper.is_due_after_step():
            keeper.save({})
            due.append(step)
    assert due[0] == 29
    assert {later - earlier for earlier, later in itertools.pairwise(due)} == {30}


def test_who_is_asked_to_stop_saves_first(checkpoint: Checkpoint) -> None:
    asked = iter([False, True, False])
    keeper = Keeper(checkpoint, Care(1e9, lambda: next(asked)))
    assert not keeper.is_due_after_step()
    keeper.beat()  # where nothing can be saved
    assert keeper.is_due_after_epoch()
    assert keeper.is_due_after_step(), "it was asked once, and that counts"
    with pytest.raises(Stopped):
        keeper.save({"a": 1})
    assert Keeper(checkpoint).take() == {"a": 1}


def test_seconds_add_up_over_the_attempts(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for attempt in range(3):
        keeper = Keeper(checkpoint)
        keeper.about["name"] = keeper.about.get("name", attempt)
        assert keeper.seconds == 10.0 * attempt
        clock.now += 10.0
        keeper.save({})
        clock.now += 1000.0  # which is lost: nobody was told of it
    assert keeper.about == {"name": 0}


def test_a_state_is_given_once(checkpoint: Checkpoint) -> None:
    Keeper(checkpoint).save({"a": 1})
    keeper = Keeper(checkpoint)
    assert (keeper.take(), keeper.take()) == ({"a": 1}, None)
    keeper.drop()
    assert Keeper(checkpoint).take() is None


@pytest.mark.parametrize(
    "tree", [{"seconds": 1.0}, {"seconds": "1", "about": {}, "state": {}}, {"seconds": 1.0, "about": 1, "state": {}}]
)
def test_what_a_keeper_did_not_save_counts_as_missing(
    checkpoint: Checkpoint, tree: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tree)
    keeper = Keeper(checkpoint)
    assert (keeper.take(), keeper.about) == (None, {})
    assert keeper.seconds < 1.0
    assert "does not fit" in caplog.text


# -------------------------------------------------------------------------------------------------------------- tensors


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, width), nn.BatchNorm1d(width)
        self.register_buffer("mask", torch.rand(width), persistent=False)


def test_all_tensors_come_back_those_too_that_a_state_dict_leaves_out() -> None:
    one, other = Net(), Net()
    own = {id(parameter) for parameter in other.parameters()}
    put(other, tensors(one))
    assert {"layer.weight", "norm.running_mean", "norm.num_batches_tracked", "mask"} < set(tensors(one))
    for name, tensor in tensors(one).items():
        assert tensor.equal(tensors(other)[name])
    assert {id(parameter) for parameter in other.parameters()} == own
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_tensors_of_another_network_are_refused() -> None:
    """A vector of one would fit everywhere, if it were only copied."""
    net = Net()
    for wrong in (tensors(Net(1)), {}, tensors(net) | {"more": torch.ones(1)}):
        with pytest.raises(ValueError, match="another network"):
            put(net, wrong)


def test_nobody_says_a_word_of_a_checkpoint_that_is_whole(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    checkpoint.save(FIRST)
    checkpoint.load()
    assert caplog.text == ""
