"""Records on disk: whole, in order, said once, and found again when the process that said them has died."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.disk import NoRoomError
from fuseline.tracking import spool as module
from fuseline.tracking import tags
from fuseline.tracking.records import Record, Start, Version
from fuseline.tracking.spool import Spool, held, opened, read, read_owner, spooled_entries, spools

ALONE = """
import sys
from fuseline.tracking.records import Start
from fuseline.tracking.spool import start_run
spool = start_run("key", "recipe", {})
child = spool.child("member", "m")
spool.tell(child, start=Start(name="m", kind="member", key="m", parent=spool.run), end="FINISHED")
for status in sys.argv[1:]:
    spool.tell(spool.run, tags={"fuseline.reason": "why"}, end=status)
print(spool.run, flush=True)
sys.stdin.readline()
"""


def records(spool: Spool) -> list[Record]:
    found = [record for record, _ in read(spool.folder)]
    assert None not in found
    return [record for record in found if record is not None]


def started(process: Callable[..., subprocess.Popen[str]], *ends: str) -> tuple[subprocess.Popen[str], str]:
    """A process that has begun a run and waits, and the run."""
    its = process(ALONE, *ends)
    assert its.stdout is not None
    return its, its.stdout.readline().strip()


def killed(process: Callable[..., subprocess.Popen[str]], *ends: str) -> str:
    """A run whose process was killed."""
    its, run = started(process, *ends)
    its.send_signal(signal.SIGKILL)
    its.wait()
    return run


# ------------------------------------------------------------------------------------------------------------ telling


def test_what_is_told_stands_there_in_order(begin: Callable[..., Spool]) -> None:
    spool = begin(color="red")
    spool.tell(spool.run, metrics={"score": 0.5})
    spool.tell("child", start=Start(name="c", kind="member", key="k", parent=spool.run))
    first, second, third = records(spool)
    assert first.start == Start(name="recipe", kind="train", key="key")
    assert (first.tags["color"], first.tags[tags.ATTEMPT]) == ("red", "1")
    assert first.tags[tags.OWNER].endswith(f":{os.getpid()}")
    assert second.points[0][:2] == ("score", 0.5)
    assert third.start is not None
    assert (third.start.parent, third.tags) == (spool.run, {tags.ATTEMPT: "1"})


def test_each_record_is_told_of(begin: Callable[..., Spool]) -> None:
    spool, heard = begin(), []
    spool.told = lambda: heard.append(len(records(spool)))
    spool.tell(spool.run, metrics={"a": 1})
    spool.tell(spool.run, metrics={"b": 1})
    assert heard == [2, 3]


def test_what_is_said_under_a_label_is_said_once_for_each_run(begin: Callable[..., Spool]) -> None:
    spool = begin()
    for run in (spool.run, spool.run, "child"):
        spool.tell(run, label="scores", metrics={"score": 0.5})
    assert [record.run for record in records(spool)[1:]] == [spool.run, "child"]


def test_a_run_that_had_ended_goes_on_and_says_why_it_had_ended(begin: Callable[..., Spool]) -> None:
    spool = begin()
    begun = Start(name="m", kind="member", key="m", parent=spool.run)
    spool.tell("child", start=begun, tags={tags.REASON: "out of memory"}, end="FAILED")
    spool.tell("child", start=begun, tags={"color": "red"}, end="FINISHED")
    again = records(spool)[-1]
    assert (again.start, again.again, again.end) == (None, True, "FINISHED")
    assert again.tags == {tags.ATTEMPT: "2", f"{tags.REASON}.1": "out of memory", "color": "red"}
    assert set(again.without) == {tags.REASON, tags.FAILURE}


def test_children_have_ids_that_follow_from_what_they_are(begin: Callable[..., Spool]) -> None:
    one, other = begin("one"), begin("other")
    ids = [one.child("member", "a"), one.child("member", "b"), one.child("fusion", "a"), other.child("member", "a")]
    assert len({*ids, one.run, other.run}) == 6
    assert one.child("member", "a") == ids[0]


def test_the_owner_is_named_without_anything_else(begin: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    spool = begin()
    owner = read_owner(spool.folder)
    assert (owner.run, owner.key, owner.recipe, owner.pid) == (spool.run, "key", "recipe", os.getpid())
    assert not [path for path in spool.folder.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_files_of_the_store_are_linked_and_texts_written(begin: Callable[..., Spool], tmp_path: Path) -> None:
    spool, stored = begin(), tmp_path / "table.bin"
    stored.write_bytes(b"rows")
    kept = spool.keep("plan", {"table.bin": stored, "recipe.yaml": "name: ü"}, "under")
    folder = spool.folder / kept.folder
    assert kept.under == "under"
    assert (folder / "table.bin").stat().st_ino == stored.stat().st_ino
    assert (folder / "recipe.yaml").read_text(encoding="utf-8") == "name: ü"
    stored.unlink()
    assert (folder / "table.bin").read_bytes() == b"rows"


def test_files_that_a_dead_process_had_begun_to_keep_are_kept_anew(begin: Callable[..., Spool]) -> None:
    spool = begin()
    spool.keep("plan", {"old.txt": "old"})
    kept = spool.keep("plan", {"new.txt": "new"})
    assert [path.name for path in (spool.folder / kept.folder).iterdir()] == ["new.txt"]


def test_a_file_on_another_disk_is_copied(begin: Callable[..., Spool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EXDEV, "another disk")

    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(os, "link", link)
    spool = begin()
    assert (spool.folder / spool.keep("plan", {"a": tmp_path / "a"}).folder / "a").read_text() == "a"


# ----------------------------------------------------------------------------------------------------- torn and full


@pytest.mark.parametrize("torn", [b"{", b'{"run": "a", "at": 1', b"\x00" * 100])
def test_a_torn_last_line_is_cut_off_and_the_next_one_is_whole(begin: Callable[..., Spool], torn: bytes) -> None:
    spool = begin()
    spool.close()
    with (spool.folder / "records.jsonl").open("ab") as file:
        file.write(torn)
    assert len(records(spool)) == 1  # who reads it meanwhile takes no notice of it
    again = begin()
    assert again.run == spool.run
    assert [record.again for record in records(again)] == [False, True]


def test_a_damaged_line_is_told_from_the_others(begin: Callable[..., Spool]) -> None:
    spool = begin()
    with (spool.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"color": "red"}\n')
    spool.tell(spool.run, metrics={"a": 1})
    found = [record for record, _ in read(spool.folder)]
    assert [record is None for record in found] == [False, True, False]


def test_reading_goes_on_behind_an_offset(begin: Callable[..., Spool]) -> None:
    spool = begin()
    spool.tell(spool.run, metrics={"a": 1})
    (_, first), (second, end) = read(spool.folder)
    assert [record for record, _ in read(spool.folder, first)] == [second]
    assert list(read(spool.folder, end)) == []


LIMITED = """
import os, resource, signal, sys
from fuseline.disk import NoRoomError
from fuseline.tracking.spool import RECORDS, start_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = start_run("key", "recipe", {})
size = (spool.folder / RECORDS).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    spool.tell(spool.run, tags={"long": "x" * 1000})
except NoRoomError as error:
    print(size, (spool.folder / RECORDS).stat().st_size, error)
"""


def test_a_record_for_which_there_is_no_room_leaves_no_trace(process: Callable[..., subprocess.Popen[str]]) -> None:
    out, error = process(LIMITED).communicate()
    before, after, *sentence = out.split()
    assert before == after, error
    assert "room" in sentence


def test_the_end_of_a_run_has_room_on_a_full_disk(begin: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch) -> None:
    spool, write = begin(), module._write

    def full(descriptor: int, line: bytes) -> None:
        if (spool.folder / "reserve").exists():
            os.write(descriptor, line[:10])  # so much was left
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(descriptor, line)

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(NoRoomError):
        spool.tell(spool.run, metrics={"a": 1})
    spool.tell(spool.run, tags={tags.REASON: "the disk is full"}, end="FAILED")
    assert [record.end for record in records(spool)] == [None, "FAILED"]


# ------------------------------------------------------------------------------------------------- whose process died


@pytest.mark.parametrize("ends", [[], ["KILLED"]])
def test_an_unfinished_run_goes_on_under_its_ids_when_its_process_has_died(
    begin: Callable[..., Spool], process: Callable[..., Any], ends: list[str]
) -> None:
    run = killed(process, *ends)
    spool = begin()
    assert spool.run == run
    again = records(spool)[-1]
    assert (again.start, again.again, again.tags[tags.ATTEMPT]) == (None, True, "2")
    assert again.tags.get(f"{tags.REASON}.1") == ("why" if ends else None)
    assert again.tags[tags.OWNER].endswith(f":{os.getpid()}")
    assert read_owner(spool.folder).pid == os.getpid()
    spool.tell(spool.child("member", "m"), start=Start(name="m", kind="member", key="m", parent=run))
    assert records(spool)[-1].again


@pytest.mark.parametrize("end", ["FINISHED", "FAILED"])
def test_a_run_that_has_ended_is_never_opened_again(begin: Callable[..., Spool], process: Callable[..., Any], end: str) -> None:
    assert begin().run != killed(process, end)


def test_a_run_of_another_plan_is_another_run(begin: Callable[..., Spool], process: Callable[..., Any]) -> None:
    assert begin("another").run != killed(process)


def test_a_run_whose_process_lives_is_left_alone(
    begin: Callable[..., Spool], process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GLANCE", 0.1)
    _, run = started(process)
    before = (module.root() / run / "records.jsonl").read_bytes()
    assert begin().run != run
    assert (module.root() / run / "records.jsonl").read_bytes() == before


def test_a_spool_is_held_until_it_is_closed(begin: Callable[..., Spool]) -> None:
    spool = begin()
    assert opened(spool.run) is spool
    assert begin().run == spool.run  # by this process itself
    spool.close()
    assert spool.run not in held()
    assert begin().run == spool.run


def test_the_oldest_comes_first(begin: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for number, at in enumerate((3000, 1000, 2000)):
        monkeypatch.setattr(module, "now", lambda at=at: at)
        made.append(begin(str(number)).run)
    assert [folder.name for folder in spools()] == [made[1], made[2], made[0]]


def test_the_last_sign_of_life_is_a_record_or_a_beat(begin: Callable[..., Spool]) -> None:
    spool = begin()
    os.utime(spool.folder / "owner.lock", (1, 1))
    assert spool.last_sign() == records(spool)[-1].at
    module.beat()
    assert spool.last_sign() > records(spool)[0].at - 1000
    assert (spool.folder / "owner.lock").stat().st_mtime > 1


def test_what_waits_to_be_told_names_entries_of_the_store(begin: Callable[..., Spool]) -> None:
    spool = begin("plan key")
    version = Version(name="n", package="/store/package/p1", plan="/store/plan/plan key", tags={}, may_lead=True)
    spool.tell(spool.run, version=version)
    spool.tell(spool.run, tags=tags.entry_tags([("bank", "b1"), ("report", "r1")]), end="FINISHED")
    assert spooled_entries() == {("plan", "plan key"), ("package", "p1"), ("bank", "b1"), ("report", "r1")}


def test_nothing_is_imported_of_mlflow_by_who_only_tells(process: Callable[..., subprocess.Popen[str]]) -> None:
    code = "import sys, tasks.tracking, tasks.package; print([n for n in ('mlflow', 'torch') if n in sys.modules])"
    out, error = process(code).communicate()
    assert out.strip() == "[]", error
