"""What dead processes have left behind is mended and delivered; what belongs to a process that lives is left alone."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.tracking import deliver as module
from fuseline.tracking.leftovers import begin as begin_tracking
from fuseline.tracking.leftovers import end_dead, reconcile
from fuseline.tracking.records import Start
from fuseline.tracking.spool import Spool, read, read_owner, root, spools
from tests.unit.tracking.known import everything

RUNNING = """
import sys
from fuseline.tracking.records import Start
from fuseline.tracking.spool import start_run
spool = start_run(sys.argv[1], sys.argv[1], {})
spool.tell(spool.child("member", "m"), start=Start(name=f"m of {sys.argv[1]}", kind="member", key="m", parent=spool.run))
print(spool.run, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _quick(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.5)
    module._deliverer.cache_clear()


@pytest.fixture
def running(process: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[subprocess.Popen[str], str]]:
    """A process that has begun a run and its child, and waits; and the run."""

    def start(key: str = "key") -> tuple[subprocess.Popen[str], str]:
        its = process(RUNNING, key)
        assert its.stdout is not None
        return its, its.stdout.readline().strip()

    return start


@pytest.fixture
def dead(running: Callable[..., Any]) -> Callable[..., str]:
    """A run whose process was killed."""

    def kill(key: str = "key") -> str:
        its, run = running(key)
        its.send_signal(signal.SIGKILL)
        its.wait()
        return str(run)

    return kill


def ends(run: str) -> list[Any]:
    return [record.end for record, _ in read(root() / run) if record is not None and record.end]


def statuses(client: Callable[[], Any]) -> dict[str, str]:
    return {name: run["status"] for name, run in everything(client()).items()}


def test_the_runs_of_a_dead_process_end_as_killed(dead: Callable[..., str], client: Callable[[], Any]) -> None:
    run = dead()
    os.utime(root() / run / "owner.lock", (2e9, 2e9))  # its last sign of life
    mended = reconcile()
    assert [(owner.run, owner.recipe) for owner in mended.dead] == [(run, "key")]
    assert (mended.delivered, mended.waiting) == (4, 0)
    for its in everything(client()).values():
        assert its["status"] == "KILLED"
        assert its["tags"]["fuseline.reason"] == "its process died"
        assert its["times"][1] == 2_000_000_000_000


def test_nothing_is_mended_twice(dead: Callable[..., str], client: Callable[[], Any]) -> None:
    run = dead()
    reconcile()
    again = reconcile()
    assert (again.dead, again.delivered, again.waiting, again.refused) == ([], 0, 0, 0)
    assert ends(run) == ["KILLED", "KILLED"]


def test_the_same_recipe_may_go_on_with_it(
    dead: Callable[..., str], begin: Callable[..., Spool], client: Callable[[], Any]
) -> None:
    run = dead()
    assert end_dead()
    spool = begin()
    assert spool.run == run
    begun = Start(name="m of key", kind="member", key="m", parent=run)
    spool.tell(spool.child("member", "m"), start=begun, end="FINISHED")
    spool.tell(run, end="FINISHED")
    spool.close()
    mended = reconcile()
    assert (mended.dead, mended.waiting) == ([], 0)
    runs = everything(client())
    assert {its["status"] for its in runs.values()} == {"FINISHED"}
    assert {its["tags"]["fuseline.attempt"] for its in runs.values()} == {"2"}
    assert runs["train key"]["tags"]["fuseline.reason.1"] == "its process died"
    assert "fuseline.reason" not in runs["train key"]["tags"]


def test_a_process_that_lives_is_left_alone(running: Callable[..., Any], client: Callable[[], Any]) -> None:
    its, run = running()
    before = (root() / run / "records.jsonl").read_bytes()
    mended = reconcile()
    assert (mended.dead, mended.delivered, mended.waiting) == ([], 0, 0)
    assert (root() / run / "records.jsonl").read_bytes() == before
    assert its.poll() is None
    assert statuses(client) == {}


def test_what_this_process_does_is_left_alone(begin: Callable[..., Spool]) -> None:
    spool = begin()
    assert reconcile().dead == []
    assert ends(spool.run) == []


def test_what_has_ended_and_was_not_delivered_is_delivered_and_removed(
    dead: Callable[..., str], begin: Callable[..., Spool], client: Callable[[], Any], until: Callable[..., Any]
) -> None:
    killed, spool = dead("killed"), begin("finished", recipe="finished")
    spool.tell(spool.run, end="FINISHED")
    spool.close()
    assert reconcile().waiting == 0
    assert statuses(client)["train finished"] == "FINISHED"
    until(lambda: [folder.name for folder in spools()] == [killed], "the finished one has gone")


def test_while_mlflow_is_away_all_of_it_waits(
    dead: Callable[..., str], monkeypatch: pytest.MonkeyPatch, client: Callable[[], Any]
) -> None:
    run = dead()
    with monkeypatch.context() as patch, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        mended = reconcile(patience=0.2)
    assert ([owner.run for owner in mended.dead], mended.delivered, mended.waiting) == ([run], 0, 4)
    assert (reconcile().delivered, set(statuses(client).values())) == (4, {"KILLED"})


def test_the_oldest_is_delivered_first_and_in_the_background(
    dead: Callable[..., str], database: Path, client: Callable[[], Any], until: Callable[..., Any]
) -> None:
    runs = [dead(key) for key in "abc"]
    assert [owner.run for owner in begin_tracking("d")] == runs
    until(lambda: set(statuses(client)) >= {"train a", "train b", "train c"}, "all three have arrived")
    with sqlite3.connect(database) as opened:
        found = opened.execute("select name from runs where name in ('a', 'b', 'c') order by rowid").fetchall()
    opened.close()
    assert [name for (name,) in found] == ["a", "b", "c"]


def test_a_spool_in_which_nothing_was_said_is_removed(dead: Callable[..., str], until: Callable[..., Any]) -> None:
    silent, other = dead("silent"), dead("other")
    (root() / silent / "records.jsonl").unlink()
    assert [owner.recipe for owner in reconcile().dead] == ["other"]
    until(lambda: [path.name for path in root().iterdir()] == [other], "the silent one has gone")


def test_a_damaged_owner_keeps_nobody_else_from_being_mended(dead: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    damaged, other = dead("damaged"), dead("other")
    (root() / damaged / "owner.json").write_text("{")
    assert [owner.run for owner in begin_tracking("new")] == [other]
    assert str(root() / damaged / "owner.json") in caplog.text


def test_what_was_never_made_to_the_end_is_removed(dead: Callable[..., str], running: Callable[..., Any]) -> None:
    _, alive = running("alive")
    for name in (".half", ".half-removed"):
        (root() / name / "files").mkdir(parents=True)
    (root() / "refused.jsonl").write_text("{}\n")
    end_dead()
    assert {path.name for path in root().iterdir()} == {alive, "refused.jsonl"}


def test_a_wrong_line_in_the_records_of_the_dead_does_no_harm(dead: Callable[..., str], client: Callable[[], Any]) -> None:
    run = dead()
    with (root() / run / "records.jsonl").open("ab") as file:
        file.write(b'{"run": "x"}\n{"torn')
    assert reconcile().waiting == 0
    assert set(statuses(client).values()) == {"KILLED"}


def test_the_owner_says_whose_it_was(dead: Callable[..., str]) -> None:
    owner = read_owner(root() / dead())
    assert (owner.key, owner.recipe, owner.host) == ("key", "key", socket.gethostname())
