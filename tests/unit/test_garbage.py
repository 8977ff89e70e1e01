"""Only what nobody needs is removed from the store, and nothing is ever there in part. Lock holders are real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fuseline import garbage
from fuseline.errors import UserError
from fuseline.garbage import CHECKPOINTS, FAILURES, HOUR, WEEK, Entry, Tally
from fuseline.lineage import Lineage
from fuseline.store import MANIFEST, Store, locked, write_json

KINDS = ("data", "replica", "bank", "fusion", "report", "package", "pictures", "plan")

HOLDER = """
import sys
from pathlib import Path
from fuseline.store import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Hold a lock in a process of its own."""
    holders: list[subprocess.Popen[str]] = []

    def start(lock: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(lock)]
        holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stream = holders[-1].stdout
        assert stream is not None
        assert stream.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def age(path: Path, seconds: float) -> None:
    """Let a file or an entry be so old."""
    at = time.time() - seconds
    for place in (path, path / MANIFEST):
        if place.exists():
            os.utime(place, (at, at))


def collect(store: Store, named: Iterable[Entry], **rest: Any) -> list[Tally]:
    return garbage.collect(store, lambda: named, **rest)


def put(store: Store, kind: str, key: str, seconds: float = 2 * HOUR, size: int = 10) -> Entry:
    place, _ = store.make(kind, key, lambda folder: (folder / "file").write_bytes(bytes(size)) and None)
    age(place, seconds)
    age(store.lock(kind, key), seconds)
    return kind, key


def put_plan(store: Store, key: str, data: str, replicas: dict[str, list[str]]) -> Entry:
    meta = {"data": data, "members": {name: [{"key": k} for k in keys] for name, keys in replicas.items()}}
    place, _ = store.make("plan", key, lambda folder: write_json(folder / "plan.json", meta))
    age(place, 2 * HOUR)
    age(store.lock("plan", key), 2 * HOUR)
    return "plan", key


def entries(store: Store) -> set[Entry]:
    """All whole entries."""
    found = {(p.parent.name, p.name) for p in store.root.glob("*/[!.]*") if p.is_dir()}
    assert all(store.find(*entry) for entry in found)
    return found


def files(store: Store) -> dict[str, bytes]:
    return {str(path.relative_to(store.root)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------- entries


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_named_stays_and_what_is_not_goes(store: Store, kind: str) -> None:
    named = put(store, kind, "named") if kind != "plan" else put_plan(store, "named", "none", {})
    put(store, kind, "forgotten")
    tallies = {tally.kind: tally for tally in collect(store, {named}, delete=True)}
    assert entries(store) == {named}
    assert tallies[kind].pieces == 2
    assert tallies[kind].going == 1


def test_without_delete_all_is_counted_and_nothing_touched(store: Store) -> None:
    put(store, "bank", "a", size=1000)
    kept = put(store, "bank", "b", size=500)
    put(store, "fusion", "c", size=70)
    before = files(store)
    times = {name: (store.root / name).stat().st_mtime_ns for name in before}
    bank, fusion, locks = collect(store, {kept})
    assert files(store) == before
    assert {name: (store.root / name).stat().st_mtime_ns for name in before} == times
    manifest = len(before[f"bank/a/{MANIFEST}"])
    assert bank == Tally("bank", 2, 1500 + 2 * manifest, 1, 1000 + manifest)
    assert fusion == Tally("fusion", 1, 70 + manifest, 1, 70 + manifest)
    assert (locks.kind, locks.pieces, locks.going) == ("locks", 3, 2)
    assert collect(store, {kept}, delete=True) == [bank, fusion, locks]
    assert entries(store) == {kept}
    assert {name for name in files(store) if name.startswith("locks/")} == {"locks/bank-b.lock"}


def test_a_plan_that_is_named_names_its_data_and_replicas(store: Store) -> None:
    plan = put_plan(store, "p", "d", {"m": ["r1", "r2"], "n": ["r3"]})
    kept = {put(store, kind, key) for kind, key in (("data", "d"), *(("replica", f"r{k}") for k in (1, 2, 3)))}
    put(store, "data", "d2")
    put(store, "replica", "r4")
    put_plan(store, "p2", "d2", {"m": ["r4"]})
    collect(store, {plan}, delete=True)
    assert entries(store) == {plan, *kept}


def test_a_plan_that_is_named_and_not_there_names_nothing(store: Store) -> None:
    put(store, "replica", "r")
    collect(store, {("plan", "p")}, delete=True)
    assert entries(store) == set()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"data": "d"}', '{"data": "d", "members": {"m": [1]}}', '{"data": "d", "members": 1}']
)
def test_of_a_plan_that_can_not_be_read_it_is_not_known_what_it_needs(
    store: Store, refusal: Callable[..., str], text: str
) -> None:
    plan = put_plan(store, "p", "d", {"m": ["r"]})
    put(store, "replica", "r")
    (store.path(*plan) / "plan.json").write_text(text)
    assert "plan.json can't be read" in refusal(UserError, collect, store, {plan}, delete=True)
    assert store.find("replica", "r") is not None


def test_what_a_timing_decided_stays(store: Store) -> None:
    decision = put(store, "decision", "a", WEEK)
    collect(store, set(), delete=True)
    assert entries(store) == {decision}


# -------------------------------------------------------------------------------------------------------------- not yet


def test_what_was_made_lately_stays(store: Store) -> None:
    young, old = put(store, "bank", "young", HOUR / 2), put(store, "bank", "old", 2 * HOUR)
    collect(store, set(), delete=True, young=3 * HOUR)
    assert entries(store) == {young, old}
    age(store.path(*young), HOUR / 2)
    age(store.path(*old), 2 * HOUR)
    collect(store, set(), delete=True)
    assert entries(store) == {young}
    age(store.path(*young), 1)
    collect(store, set(), delete=True, young=0)
    assert entries(store) == set()


def test_what_was_found_again_lately_stays(store: Store) -> None:
    found = put(store, "bank", "a", WEEK)
    made = store.path(*found).stat().st_mtime
    assert store.find(*found) is not None
    collect(store, set(), delete=True)
    assert entries(store) == {found}
    assert store.path(*found).stat().st_mtime == made


def test_what_is_locked_stays(store: Store, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    held = put(store, "bank", "a")
    holder = hold(store.lock(*held))
    age(store.lock(*held), WEEK)
    collect(store, set(), delete=True)
    assert entries(store) == {held}
    assert store.lock(*held).exists()
    age(store.path(*held), 2 * HOUR)
    holder.kill()
    holder.wait()
    collect(store, set(), delete=True)
    assert entries(store) == set()
    assert not store.lock(*held).exists()


@pytest.mark.parametrize("what", ["find", "hold", "make"])
def test_what_is_needed_after_it_was_counted_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, hold: Callable[[Path], subprocess.Popen[str]], what: str
) -> None:
    """Between the counting and the removing somebody finds an entry, begins to make another one, or has made a third."""
    found, lost = put(store, "bank", "found"), put(store, "bank", "lost")
    store.discard(*lost)
    counted = garbage._size

    def size(path: Path) -> int:
        if what == "find" and path == store.path(*found):
            store.find(*found)
        if what == "hold" and path == store.lock(*lost):
            hold(path)
        if what == "make" and path == store.lock(*lost):
            put(store, *lost)
        return counted(path)

    monkeypatch.setattr(garbage, "_size", size)
    collect(store, set(), delete=True)
    assert entries(store) == {"find": {found}, "hold": set(), "make": {lost}}[what]
    assert store.lock(*lost).exists() is (what != "find")


def test_what_was_found_since_the_oldest_live_run_began_stays(
    store: Store, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    locks = store.root.parent / "locks"
    long_run = hold(locks / "run-long.lock")
    hold(locks / "run-short.lock")
    age(locks / "run-long.lock", 10 * HOUR)
    with locked(locks / "run-dead.lock"):
        pass
    age(locks / "run-dead.lock", WEEK)
    before, during = put(store, "bank", "before", 12 * HOUR), put(store, "bank", "during", 9 * HOUR)
    collect(store, set(), delete=True)
    assert entries(store) == {during}
    long_run.kill()
    long_run.wait()
    age(store.path(*during), 9 * HOUR)
    collect(store, set(), delete=True)
    assert entries(store) == set()
    assert before not in entries(store)


def test_what_a_run_made_that_ends_while_we_ask_who_names_what_stays(
    store: Store, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    lock = store.root.parent / "locks" / "run-long.lock"
    run = hold(lock)
    age(lock, 10 * HOUR)
    made = put(store, "bank", "made", 5 * HOUR)

    def named() -> set[Entry]:
        run.kill()
        run.wait()
        return set()

    garbage.collect(store, named, delete=True)
    assert entries(store) == {made}


# ------------------------------------------------------------------------------------------------------- what else there is


def test_what_dead_makers_left_is_removed_and_what_living_ones_make_is_not(
    store: Store, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    for key in ("dead", "living"):
        litter = store.root / "bank" / f".{key}-12ab"
        litter.mkdir(parents=True)
        (litter / "half").write_bytes(bytes(100))
    hold(store.lock("bank", "living"))
    tallies = {tally.kind: tally for tally in collect(store, set(), delete=True)}
    assert tallies["unfinished"] == Tally("unfinished", 2, 200, 1, 100)
    assert [path.name for path in (store.root / "bank").iterdir()] == [".living-12ab"]


def test_who_removes_and_is_killed_leaves_no_half_entry(store: Store) -> None:
    put(store, "bank", "a")
    script = f"""
import os, shutil, signal
from pathlib import Path
from fuseline import garbage, store

def remove(folder, *args, **kwargs):
    next(Path(folder).iterdir()).unlink()
    os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = remove
garbage.collect(store.Store(Path({str(store.root)!r})), set, delete=True)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert entries(store) == set()
    (unfinished, *_) = collect(store, set(), delete=True)
    assert (unfinished.kind, unfinished.going) == ("unfinished", 1)
    assert list((store.root / "bank").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "seconds", "goes"),
    [
        ("lost-12ab.pt", CHECKPOINTS + HOUR, True),
        ("lost-12ab.pt", CHECKPOINTS - HOUR, False),
        (".lost-77", CHECKPOINTS + HOUR, True),
        ("wanted-12ab.pt", CHECKPOINTS + HOUR, False),
        (".wanted-77", CHECKPOINTS + HOUR, False),
        ("done-12ab.pt", CHECKPOINTS + HOUR, True),
    ],
)
def test_checkpoints_stay_for_a_week_and_those_of_unfinished_runs_longer(
    store: Store, name: str, seconds: float, goes: bool
) -> None:
    plan = put_plan(store, "p", "d", {"m": ["wanted", "done"]})
    put(store, "replica", "done")
    file = store.root / "checkpoints" / name
    file.parent.mkdir()
    file.write_bytes(bytes(50))
    age(file, seconds)
    tallies = {tally.kind: tally for tally in collect(store, {plan}, delete=True)}
    assert tallies["checkpoints"] == Tally("checkpoints", 1, 50, int(goes), 50 * goes)
    assert file.exists() is not goes


@pytest.mark.parametrize(("there", "goes"), [([], False), (["r1"], False), (["r1", "r2"], True)])
def test_the_checkpoint_of_a_stack_stays_while_one_of_its_replicas_is_wanted(store: Store, there: list[str], goes: bool) -> None:
    meta = {"data": "d", "members": {"m": [{"key": "r1"}], "n": [{"key": "r2"}]}, "stacks": {"stack": ["r1", "r2"]}}
    store.make("plan", "p", lambda folder: write_json(folder / "plan.json", meta))
    for key in there:
        put(store, "replica", key)
    file = store.root / "checkpoints" / "stack-12ab.pt"
    file.parent.mkdir()
    file.touch()
    age(file, 2 * WEEK)
    collect(store, {("plan", "p")}, delete=True)
    assert file.exists() is not goes


def test_the_checkpoint_of_a_stack_in_training_stays(store: Store, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    """Though what it is trained for stands there, as where it is damaged."""
    meta = {"data": "d", "members": {"m": [{"key": "r1"}], "n": [{"key": "r2"}]}, "stacks": {"stack": ["r1", "r2"]}}
    store.make("plan", "p", lambda folder: write_json(folder / "plan.json", meta))
    put(store, "replica", "r1")
    put(store, "replica", "r2")
    file = store.root / "checkpoints" / "stack-12ab.pt"
    file.parent.mkdir()
    file.touch()
    age(file, 2 * WEEK)
    hold(store.lock("replica", "r2"))
    collect(store, {("plan", "p")}, delete=True)
    assert file.exists()


def test_tracebacks_stay_for_a_week(store: Store) -> None:
    folder = store.root / "failures"
    folder.mkdir(parents=True)
    for name, seconds in (("old", FAILURES + HOUR), ("young", FAILURES - HOUR)):
        (folder / f"{name}.txt").write_text("Traceback")
        age(folder / f"{name}.txt", seconds)
    assert collect(store, set(), delete=True) == [Tally("failures", 2, 18, 1, 9)]
    assert [file.name for file in folder.iterdir()] == ["young.txt"]


def test_the_checkpoint_of_a_replica_in_training_stays(store: Store, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    file = store.root / "checkpoints" / "key-12ab.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    age(file, 2 * WEEK)
    hold(store.lock("replica", "key"))
    collect(store, set(), delete=True)
    assert file.exists()


@pytest.mark.parametrize("seconds", [HOUR / 2, 2 * HOUR])
def test_what_was_remembered_goes_with_the_entries_that_it_names(store: Store, seconds: float) -> None:
    keys = {kind: put(store, kind, kind) for kind in KINDS if kind not in ("plan", "pictures")}
    plan = put_plan(store, "plan", "data", {"m": ["replica"]})
    lineage = Lineage(
        plan="plan", data="data", members={"m": ["replica"]}, rules={}, bank="bank", fused={"y": "fusion"}, report="report",
        package="package", unmet=[],
    )  # fmt: skip
    folder = store.root / "lineage"
    folder.mkdir()
    for name in ("one", "torn"):
        (folder / f"{name}.json").write_text(lineage.model_dump_json() if name == "one" else "{")
        age(folder / f"{name}.json", seconds)
    collect(store, {plan, *keys.values()}, delete=True)
    kept_torn = {"torn.json"} if seconds < HOUR else set()
    assert {file.name for file in folder.iterdir()} == {"one.json"} | kept_torn
    counted = {t.kind: t.going for t in collect(store, {plan, *keys.values()} - {keys["fusion"]})}
    collect(store, {plan, *keys.values()} - {keys["fusion"]}, delete=True)
    assert {file.name for file in folder.iterdir()} == ({"one.json"} | kept_torn if seconds < HOUR else set())
    assert counted["lineage"] == (0 if seconds < HOUR else 1)


def test_the_locks_of_runs_go_with_their_plans(store: Store) -> None:
    plan = put_plan(store, "p", "d", {})
    locks = store.root.parent / "locks"
    for name in ("run-p", "run-gone", "registry-model", "tracking"):
        with locked(locks / f"{name}.lock"):
            pass
        age(locks / f"{name}.lock", 2 * HOUR)
    collect(store, {plan}, delete=True)
    assert sorted(file.stem for file in locks.iterdir()) == ["registry-model", "run-p", "tracking"]


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert collect(Store(tmp_path / "store"), set(), delete=True) == []
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_removed_is_named(store: Store, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "bank", "a")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)  # tests may run as root, whom no permission stops
    sentence = refusal(UserError, collect, store, set(), delete=True)
    assert str(store.path("bank", "a")) in sentence
    assert "Permission denied" in sentence
