"""The store: whole entries or none, checked at every reuse, one writer per key. Processes here are real and really killed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import fuseline
from fuseline import store as module
from fuseline.disk import NoRoomError
from fuseline.recipe import Split
from fuseline.store import (
    MANIFEST,
    Store,
    code_version,
    content_key,
    home,
    locked,
    locked_if_free,
    read_json,
    sha256_of,
    write_atomic,
    write_json,
)

MAKER = """
import sys
from pathlib import Path
from fuseline.store import Store

root, builds = map(Path, sys.argv[1:])

def say(word):
    print(word, flush=True)

def build(folder):
    with builds.open("a") as file:
        file.write("built\\n")
    (folder / "half").write_text("half")
    say("building")
    sys.stdin.readline()
    (folder / "whole").write_text("whole")

say("ready")
sys.stdin.readline()
print(Store(root).make("thing", "key", build)[1], flush=True)
"""

HOLDER = """
import sys
from pathlib import Path
from fuseline.store import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python processes that talk by lines; whatever is left of them at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def writes(**files: bytes) -> Callable[[Path], None]:
    """A build that writes files; ``__`` in a name stands for a folder."""

    def build(folder: Path) -> None:
        for name, content in files.items():
            file = folder / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    return build


def never(folder: Path) -> None:
    raise AssertionError(f"built again in {folder}")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------------------------- entries


def test_an_entry_is_built_once_and_found_again_unchanged(store: Store) -> None:
    place, reused = store.make("thing", "key", writes(a=b"1", deep__b=b"2"))
    before = content(place)
    assert not reused
    assert place == store.path("thing", "key") == store.root / "thing" / "key"
    assert store.make("thing", "key", never) == (place, True)
    assert store.find("thing", "key") == place
    assert content(place) == before
    assert {name: before[name] for name in before if name != MANIFEST} == {"a": b"1", "deep/b": b"2"}


def test_the_manifest_holds_the_sha256_of_each_file(store: Store) -> None:
    place, _ = store.make("thing", "key", writes(a=b"1", deep__b=b"2"))
    assert read_json(place / MANIFEST) == {"a": sha256_of(place / "a"), "deep/b": sha256_of(place / "deep" / "b")}
    assert sha256_of(place / "a") == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"


def test_keys_and_kinds_do_not_meet(store: Store) -> None:
    for kind, key in itertools.product("ab", "xy"):
        store.make(kind, key, writes(name=f"{kind}{key}".encode()))
    for kind, key in itertools.product("ab", "xy"):
        assert (store.path(kind, key) / "name").read_text() == kind + key


def test_what_is_not_there_is_not_found(store: Store) -> None:
    assert store.find("thing", "key") is None


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_build_that_raises_leaves_nothing(store: Store, failure: type[BaseException]) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise failure("enough")

    with pytest.raises(failure, match="enough"):
        store.make("thing", "key", build)
    assert store.find("thing", "key") is None
    assert list((store.root / "thing").iterdir()) == []
    assert store.make("thing", "key", writes(a=b"1"))[1] is False


def test_the_entry_is_not_to_be_seen_while_it_is_built(store: Store) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text("1")
        assert not store.path("thing", "key").exists()

    assert store.make("thing", "key", build)[0].is_dir()


# --------------------------------------------------------------------------------------------------------------- damage


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("a", flip, "a has changed"),
        ("deep/b", flip, "deep/b has changed"),
        ("a", Path.unlink, "a is missing"),
        ("a", lambda file: file.write_bytes(b""), "a has changed"),
        (MANIFEST, Path.unlink, "manifest"),
        (MANIFEST, lambda file: file.write_bytes(b""), "manifest"),
        (MANIFEST, lambda file: file.write_bytes(b"\xff"), "manifest"),
        (MANIFEST, lambda file: file.write_bytes(b"[]"), "manifest"),
    ],
)
def test_a_damaged_entry_is_made_again_with_a_warning(
    store: Store, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], object], words: str
) -> None:
    build = writes(a=b"0123456789", deep__b=b"2")
    place, _ = store.make("thing", "key", build)
    sound = content(place)
    damage(place / name)
    with caplog.at_level(logging.WARNING):
        assert store.make("thing", "key", build) == (place, False)
    assert content(place) == sound
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "thing key is damaged" in record.getMessage()
    assert words in record.getMessage()


def link_to_its_copy(file: Path) -> None:
    """The same bytes, but in a file that somebody else may change."""
    copy = file.parents[2] / "copy"
    copy.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(copy)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda place: (place / "b").write_bytes(b"2"), "b does not belong there"),
        (lambda place: (place / "deep").mkdir() or (place / "deep" / MANIFEST).write_bytes(b"{}"), "deep/manifest.json does not"),
        (lambda place: (place / "b").symlink_to("/etc"), "b does not belong there"),
        (lambda place: link_to_its_copy(place / "a"), "a has changed"),
        (lambda place: (place / "a").unlink() or (place / "a").mkdir(), "a is missing"),
    ],
    ids=["file", "manifest", "link to a folder", "link to a file", "folder"],
)
def test_what_the_manifest_does_not_say_is_damage_too(
    store: Store, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], words: str
) -> None:
    place, _ = store.make("thing", "key", writes(a=b"1"))
    damage(place)
    with caplog.at_level(logging.WARNING):
        assert store.make("thing", "key", writes(a=b"1")) == (place, False)
    assert words in caplog.text
    assert sorted(path.name for path in place.iterdir()) == ["a", MANIFEST]


def test_a_name_in_the_manifest_that_leads_out_of_the_entry_is_damage(store: Store) -> None:
    place, _ = store.make("thing", "key", writes(a=b"1"))
    (place.parent / "outside").write_bytes(b"1")
    write_json(place / MANIFEST, {"a": sha256_of(place / "a"), "../outside": sha256_of(place / "a")})
    assert store.find("thing", "key") is None


def test_a_damaged_entry_is_not_found(store: Store) -> None:
    place, _ = store.make("thing", "key", writes(a=b"1"))
    flip(place / "a")
    assert store.find("thing", "key") is None


def test_any_flipped_bit_of_the_manifest_is_noticed(store: Store) -> None:
    place, _ = store.make("thing", "key", writes(a=b"1"))
    sound = content(place)
    for position, bit in itertools.product(range(len(sound[MANIFEST])), range(8)):
        place.mkdir(exist_ok=True)
        for name, data in sound.items():
            (place / name).write_bytes(data)
        broken = bytearray(sound[MANIFEST])
        broken[position] ^= 1 << bit
        (place / MANIFEST).write_bytes(broken)
        assert store.find("thing", "key") is None, f"bit {bit} of byte {position}"


def test_a_file_called_manifest_inside_an_entry_is_checked_too(store: Store) -> None:
    place, _ = store.make("thing", "key", writes(**{"package__manifest.json": b"[1, 2, 3]"}))
    flip(place / "package" / MANIFEST)
    assert store.find("thing", "key") is None


# ------------------------------------------------------------------------------------------------------------ processes


def test_a_process_killed_while_it_builds_leaves_no_entry_and_its_litter_is_swept(
    store: Store, tmp_path: Path, start: Start
) -> None:
    maker = start(MAKER, store.root, tmp_path / "builds")
    assert hear(maker) == "ready"
    go_on(maker)
    assert hear(maker) == "building"
    maker.kill()
    assert maker.wait() == -9
    (litter,) = (store.root / "thing").iterdir()
    assert content(litter) == {"half": b"half"}
    assert store.find("thing", "key") is None
    assert store.make("thing", "key", writes(a=b"1")) == (store.path("thing", "key"), False)
    assert list((store.root / "thing").iterdir()) == [store.path("thing", "key")]


def test_the_litter_of_another_key_is_left_alone_while_its_maker_lives(store: Store, tmp_path: Path, start: Start) -> None:
    maker = start(MAKER, store.root, tmp_path / "builds")
    assert hear(maker) == "ready"
    go_on(maker)
    assert hear(maker) == "building"
    (litter,) = (store.root / "thing").iterdir()
    store.make("thing", "other", writes(a=b"1"))
    assert content(litter) == {"half": b"half"}
    maker.kill()
    maker.wait()
    store.make("thing", "third", writes(a=b"1"))
    assert sorted(path.name for path in (store.root / "thing").iterdir()) == ["other", "third"]


def test_an_entry_is_gone_at_once_and_not_bit_by_bit(store: Store, tmp_path: Path, start: Start) -> None:
    """Its remover is killed when it has begun to remove files."""
    place, _ = store.make("thing", "key", writes(a=b"1", b=b"2"))
    script = """
import os, shutil, signal, sys
from pathlib import Path
from fuseline import store as module

def remove(folder, *args, **kwargs):
    next(Path(folder).iterdir()).unlink()
    os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = remove
module.Store(Path(sys.argv[1])).discard("thing", "key")
"""
    assert start(script, store.root).wait() == -9
    assert not place.exists()
    assert len(list((store.root / "thing").iterdir())) == 1
    store.make("thing", "other", writes(a=b"1"))
    assert [path.name for path in (store.root / "thing").iterdir()] == ["other"]


def test_all_is_on_the_disk_before_the_entry_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    place = store.path("thing", "key")

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name, place.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    store.make("thing", "key", writes(a=b"1", deep__b=b"2"))
    before, after = ([name for name, there in synced if there is is_there] for is_there in (False, True))
    temporary = next(name for name in before if name.startswith(".key-"))
    assert sorted(before) == sorted(["a", "b", "deep", MANIFEST, temporary])
    assert after == ["thing", "store"]


def test_processes_that_make_one_key_build_it_once(store: Store, tmp_path: Path, start: Start) -> None:
    makers = [start(MAKER, store.root, tmp_path / "builds") for _ in range(3)]
    assert [hear(maker) for maker in makers] == ["ready"] * 3
    first, *others = makers
    go_on(first)
    assert hear(first) == "building"
    for other in others:  # they meet the lock now, or the finished entry if they are slow
        go_on(other)
    go_on(first)
    assert hear(first) == "False"
    assert [hear(other) for other in others] == ["True", "True"]
    assert (tmp_path / "builds").read_text() == "built\n"
    assert content(store.path("thing", "key")).keys() == {"half", "whole", MANIFEST}


def test_the_next_in_line_builds_when_the_holder_is_killed(store: Store, tmp_path: Path, start: Start) -> None:
    first, second = (start(MAKER, store.root, tmp_path / "builds") for _ in range(2))
    assert [hear(first), hear(second)] == ["ready", "ready"]
    go_on(first)
    assert hear(first) == "building"
    go_on(second)
    first.kill()
    assert hear(second) == "building"
    go_on(second)
    assert hear(second) == "False"
    assert store.find("thing", "key") is not None


def test_who_waits_for_a_lock_is_told_who_holds_it(tmp_path: Path, start: Start) -> None:
    lock = tmp_path / "deep" / "a.lock"
    holder = start(HOLDER, lock)
    assert hear(holder) == "held"
    told: list[str] = []

    def waiting(who: str) -> None:
        told.append(who)
        go_on(holder)

    with locked(lock, waiting):
        assert told == [f"process {holder.pid}"]
        assert lock.read_text() == f"process {os.getpid()}"


def test_who_waits_for_an_entry_is_told_who_makes_it(store: Store, tmp_path: Path, start: Start) -> None:
    maker = start(MAKER, store.root, tmp_path / "builds")
    assert hear(maker) == "ready"
    go_on(maker)
    assert hear(maker) == "building"
    told: list[str] = []

    def listen(record: logging.LogRecord) -> bool:
        told.append(record.getMessage())
        go_on(maker)  # who is told lets it go on
        return False

    module.logger.addFilter(listen)
    try:
        assert store.make("thing", "key", never) == (store.path("thing", "key"), True)
    finally:
        module.logger.removeFilter(listen)
    assert told == [f"thing key is being made by process {maker.pid}; waiting until it is there"]


def test_a_lock_that_was_removed_while_we_waited_is_none(tmp_path: Path, start: Start) -> None:
    lock = tmp_path / "a.lock"
    holder = start(HOLDER, lock)
    assert hear(holder) == "held"

    def waiting(who: str) -> None:
        lock.unlink()
        go_on(holder)

    with locked(lock, waiting), locked_if_free(lock) as ours:
        assert not ours, "two hold it"


def test_a_lock_is_taken_only_if_it_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "a.lock"
    with locked_if_free(lock) as ours:
        assert ours
        with locked_if_free(lock) as again:
            assert not again
    with locked(lock), locked_if_free(lock) as ours:
        assert not ours
    with locked_if_free(lock) as ours:
        assert ours


def test_a_free_lock_makes_nobody_wait(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "a.lock", pytest.fail):
            pass


# ------------------------------------------------------------------------------------------------------------- full disk

MB = 2**20


@pytest.fixture
def full() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond so many bytes, which ends a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "python": lambda file, size: file.write_bytes(bytes(size)),
    "numpy": lambda file, size: np.save(file.with_suffix(".npy"), np.zeros(size, np.uint8)),
    "npz": lambda file, size: np.savez(file.with_suffix(".npz"), a=np.zeros(size, np.uint8)),
    "safetensors": lambda file, size: save_file({"a": torch.zeros(size, dtype=torch.uint8)}, file),
    "torch": lambda file, size: torch.save(torch.zeros(size, dtype=torch.uint8), file),
    "parquet": lambda file, size: pd.DataFrame({"a": np.random.default_rng(0).random(size // 8)}).to_parquet(file),
    "json": lambda file, size: write_json(file, "a" * size),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("left", [0, 8192, 2**19])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_is_really_full_is_one_sentence_and_leaves_no_half_entry(small_disk: Path, writer: str, left: int) -> None:
    store = Store(small_disk / "store")
    store.make("thing", "before", writes(a=b"1"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
    with pytest.raises(NoRoomError, match=f"thing key in {store.root}, where "):
        store.make("thing", "key", lambda folder: WRITERS[writer](folder / "file", max(2 * left, 3000)) and None)
    assert [path.name for path in (store.root / "thing").iterdir()] == ["before"]
    ballast.unlink()
    assert store.make("thing", "key", lambda folder: WRITERS[writer](folder / "file", 3000) and None)[1] is False
    assert store.find("thing", "before") is not None


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (0, 5)])
@pytest.mark.parametrize("dtype", ["<f8", "|b1", "<U7", "|S3", "<M8[us]"])
def test_arrays_of_any_shape_are_whole(store: Store, shape: tuple[int, ...], dtype: str) -> None:
    place, _ = store.make("thing", "key", lambda folder: np.save(folder / "a.npy", np.zeros(shape, dtype)))
    assert np.load(place / "a.npy").shape == shape


@pytest.mark.parametrize("size", [3 * MB, 3000], ids=["large", "small"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_no_half_entry(
    store: Store, full: Callable[[int], None], writer: str, size: int
) -> None:
    store.make("thing", "before", writes(a=b"1"))
    full(size // 3)
    with pytest.raises(NoRoomError) as caught:
        store.make("thing", "key", lambda folder: WRITERS[writer](folder / "file", size) and None)
    full(resource.RLIM_INFINITY)
    sentence = str(caught.value)
    assert f"There is no room for thing key in {store.root}, where" in sentence
    assert "are free" in sentence
    assert "fuseline gc" in sentence
    assert [path.name for path in (store.root / "thing").iterdir()] == ["before"]
    assert store.make("thing", "key", lambda folder: WRITERS[writer](folder / "file", size) and None)[1] is False


def test_those_of_several_entries_that_had_room_stay(store: Store, full: Callable[[int], None]) -> None:
    def build(missing: list[str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
        for key in missing:
            yield key, writes(a=bytes(10 if key == "a" else 2 * MB))

    full(MB)
    with pytest.raises(NoRoomError, match="thing b"):
        store.make_all("thing", ["a", "b", "c"], build)
    assert [path.name for path in (store.root / "thing").iterdir()] == ["a"]


def test_another_error_stays_what_it_is(store: Store) -> None:
    def build(folder: Path) -> None:
        (folder / "none" / "file").write_bytes(b"")

    with pytest.raises(FileNotFoundError):
        store.make("thing", "key", build)
    for error in (RuntimeError("odd"), OSError("odd")):
        with pytest.raises(type(error), match="odd"):
            store.make("thing", "key", lambda folder, error=error: (_ for _ in ()).throw(error))


def test_a_full_disk_does_not_keep_a_lock_from_being_held(tmp_path: Path, full: Callable[[int], None]) -> None:
    full(0)
    with locked(tmp_path / "a.lock"), locked_if_free(tmp_path / "a.lock") as ours:
        assert not ours


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path, full: Callable[[int], None]) -> None:
    file = tmp_path / "deep" / "a.json"
    write_atomic(file, "é")
    assert file.read_bytes() == "é".encode()
    write_atomic(file, b"old")
    full(MB)
    with pytest.raises(NoRoomError, match=r"a\.json in .*deep"):
        write_atomic(file, bytes(2 * MB))
    full(resource.RLIM_INFINITY)
    assert content(tmp_path) == {"deep/a.json": b"old"}


# ----------------------------------------------------------------------------------------------------------------- keys

ARRAY = np.array([[1, 2], [3, 4]], np.int32)


@pytest.mark.parametrize(
    "other",
    [
        ARRAY.astype(np.int64),
        ARRAY.astype(np.uint32),
        ARRAY.reshape(4),
        ARRAY.reshape(1, 4),
        ARRAY.T,
        ARRAY + np.eye(2, dtype=np.int32),
        ARRAY[:1],
        ARRAY.astype(">i4"),
        ARRAY.tolist(),
    ],
)
def test_an_arrays_type_shape_and_values_count(other: object) -> None:
    assert content_key(a=ARRAY) != content_key(a=other)


def test_an_arrays_memory_does_not_count() -> None:
    padded = np.zeros((4, 4), np.int32)
    padded[::2, ::2] = ARRAY
    assert content_key(a=ARRAY) == content_key(a=np.asfortranarray(ARRAY)) == content_key(a=padded[::2, ::2])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('ab"\\é', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text("abc", min_size=1), JSON, max_size=4))
def test_the_order_of_keys_does_not_count(parts: dict[str, object]) -> None:
    assert content_key(**parts) == content_key(**dict(reversed(parts.items())))


@given(JSON, JSON)
def test_two_values_have_one_key_only_if_they_are_written_alike(a: object, b: object) -> None:
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (content_key(v=a) == content_key(v=b)) is same


def test_the_name_of_a_part_counts() -> None:
    assert content_key(a=1) != content_key(b=1)
    assert content_key(a=1, b=2) != content_key(a=2, b=1)


def test_numpy_numbers_and_models_count_by_their_value() -> None:
    assert content_key(a=np.int64(3)) == content_key(a=3) != content_key(a=np.float64(3))
    assert content_key(a=Split(seed=1)) == content_key(a=Split(seed=1).model_dump()) != content_key(a=Split(seed=2))


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"a", np.array(["a", None], object)], ids=["object", "set", "bytes", "objects"]
)
def test_what_has_no_content_has_no_key(value: object) -> None:
    with pytest.raises(TypeError, match="content key"):
        content_key(a=value)


def test_a_key_is_the_same_in_another_process(start: Start) -> None:
    script = (
        "import numpy as np; from fuseline.store import content_key; print(content_key(a=np.arange(3), b={'y': 1, 'x': [2.5]}))"
    )
    assert hear(start(script)) == content_key(a=np.arange(3), b={"x": [2.5], "y": 1})


# ------------------------------------------------------------------------------------------------------------- versions


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of fuseline's source, which ``code_version`` takes for the real one."""
    source = tmp_path / "fuseline"
    shutil.copytree(Path(fuseline.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "resources", SimpleNamespace(files=lambda _: source))
    return source


fresh_version = code_version.__wrapped__


def test_a_copy_of_the_source_has_its_version(copied: Path) -> None:
    assert copied.is_dir()
    assert fresh_version("data", "store") == code_version("data", "store")


@pytest.mark.parametrize(
    ("change", "data", "store"),
    [
        (lambda root: (root / "data" / "split.py").write_text("x = 1\n"), True, False),
        (lambda root: (root / "data" / "new.py").write_text(""), True, False),
        (lambda root: (root / "data" / "split.py").unlink(), True, False),
        (lambda root: (root / "data" / "split.py").rename(root / "data" / "parted.py"), True, False),
        (lambda root: (root / "store.py").write_text("x = 1\n"), False, True),
        (lambda root: (root / "models" / "heads.py").write_text("x = 1\n"), False, False),
        (lambda root: (root / "data" / "notes.txt").write_text("x"), False, False),
    ],
)
def test_the_version_changes_with_the_packages_own_source_only(
    copied: Path, change: Callable[[Path], object], data: bool, store: bool
) -> None:
    before = fresh_version("data"), fresh_version("store")
    change(copied)
    assert (fresh_version("data") != before[0]) is data
    assert (fresh_version("store") != before[1]) is store


def test_the_order_in_which_packages_are_named_does_not_count() -> None:
    assert code_version("data", "models") == code_version("models", "data") != code_version("models")


# ----------------------------------------------------------------------------------------------------------------- rest


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUSELINE_HOME", str(tmp_path / "h"))
    assert home() == tmp_path / "h"
    assert Store().root == tmp_path / "h" / "store"
    monkeypatch.delenv("FUSELINE_HOME")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".fuseline"


def test_json_takes_arrays_numpy_numbers_and_models(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": np.arange(3), "n": np.float64(0.5), "m": Split(), "é": None})
    assert read_json(tmp_path / "a.json") == {"a": [0, 1, 2], "n": 0.5, "m": Split().model_dump(), "é": None}
