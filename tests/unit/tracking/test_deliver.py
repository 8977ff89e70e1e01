"""The deliverer: in order, once, with the true times, whatever becomes of MLflow meanwhile."""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from fuseline.store import hold, read_json
from fuseline.tracking import deliver as module
from fuseline.tracking import registry
from fuseline.tracking.deliver import Deliverer
from fuseline.tracking.delivery import STATE, State
from fuseline.tracking.records import Start
from fuseline.tracking.spool import DELIVERING, Spool, spools
from tests.unit.tracking.known import everything
from tests.unit.tracking.story import save, tell

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _quick(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.5)
    monkeypatch.setattr(registry, "apart", save)


@pytest.fixture
def story(home: Path, begin: Callable[..., Spool]) -> Spool:
    """A run that has told all that can be told."""
    return tell(home / "package")


@pytest.fixture
def deliverer(delivering: Callable[[], Deliverer]) -> Deliverer:
    return delivering()


def finish(spool: Spool) -> Spool:
    spool.tell(spool.run, end="FINISHED")
    return spool


# -------------------------------------------------------------------------------------------------------- all is well


def test_it_connects_ahead_where_a_run_is_expected(
    deliverer: Deliverer, client: Callable[[], Any], until: Callable[..., Any]
) -> None:
    deliverer.expect("ahead")
    until(lambda: client().get_experiment_by_name("ahead"), "the experiment is there")


def test_all_that_was_told_arrives_with_its_own_times(story: Spool, deliverer: Deliverer, client: Callable[[], Any]) -> None:
    deliverer.watch(story)
    assert deliverer.wait([story.folder], PATIENCE) == 0
    runs = everything(client())
    assert set(runs) == {"train recipe", "member m"}
    parent, child = runs["train recipe"], runs["member m"]
    assert (parent["status"], parent["params"], parent["inputs"]) == ("FINISHED", {"a": "1"}, ["d1"])
    assert parent["files"] == ["b.txt", "plan/a.txt", "summary.json"]
    assert (parent["tags"]["color"], parent["tags"]["fuseline.version"]) == ("red", "model/1")
    assert child["times"] == (1000, 2000)
    assert child["points"]["loss"] == [(step, 1 / step, 1000 + step) for step in range(1, 5)]
    assert child["tags"]["fuseline.reason.1"] == "why"
    assert "fuseline.reason" not in child["tags"]
    told = deliverer.told(story.folder)
    run = client().get_run(told.run_id)
    assert run.info.run_name == "recipe"
    assert (told.registered.name, told.registered.version, told.waiting) == ("model", 1, 0)  # type: ignore[union-attr]
    summary = read_json(Path(run.info.artifact_uri) / "summary.json")
    expected = {"name": "model", "version": 1, "aliases": ["challenger", "champion"]}
    assert summary == {"x": 1, "run_id": told.run_id, "registered": expected, "tracking": "delivered"}


def test_what_is_told_later_is_delivered_by_itself(
    begin: Callable[..., Spool], deliverer: Deliverer, client: Callable[[], Any], until: Callable[..., Any]
) -> None:
    spool = begin()
    deliverer.watch(spool)
    until(lambda: deliverer.told(spool.folder).run_id, "the run has arrived")
    spool.tell(spool.run, metrics={"score": 0.5})
    until(lambda: not deliverer.told(spool.folder).waiting, "the score has arrived")
    assert everything(client())["train recipe"]["status"] == "RUNNING"


def test_sending_all_of_it_again_changes_nothing(
    story: Spool, delivering: Callable[[], Deliverer], client: Callable[[], Any]
) -> None:
    assert delivering().wait([story.folder], PATIENCE) == 0
    before = everything(client())
    (story.folder / STATE).unlink()
    assert delivering().wait([story.folder], PATIENCE) == 0
    assert everything(client()) == before
    assert len(client().search_model_versions("name = 'model'")) == 1


def test_a_spool_that_is_done_with_is_removed(
    story: Spool, begin: Callable[..., Spool], deliverer: Deliverer, until: Callable[..., Any]
) -> None:
    killed, running = begin("killed"), begin("running")
    killed.tell(killed.run, end="KILLED")
    folders = [story.folder, killed.folder, running.folder]
    assert deliverer.wait(folders, PATIENCE) == 0
    story.close()
    killed.close()
    deliverer.wake()
    left = {killed.run, running.run}  # the same recipe may go on with the killed one
    until(lambda: {path.name for path in story.folder.parent.iterdir()} == left, "the finished one has gone")
    deliverer.wake()
    assert deliverer.wait([running.folder], PATIENCE) == 0
    assert spools() == [killed.folder, running.folder]


def test_the_origin_of_a_reused_member_is_looked_up(
    begin: Callable[..., Spool], deliverer: Deliverer, client: Callable[[], Any]
) -> None:
    for key in ("first", "second"):
        spool = begin(key, recipe=key)
        child = spool.child("member", "m")
        spool.tell(child, start=Start(name=key, kind="member", key="m", parent=spool.run), origin="m", end="FINISHED")
        deliverer.wait([finish(spool).folder], PATIENCE)
    tags = {name: run["tags"].get("fuseline.origin") for name, run in everything(client()).items() if name.startswith("member")}
    trained = next(
        run.info.run_id
        for experiment in client().search_experiments()
        for run in client().search_runs([experiment.experiment_id])
        if run.info.run_name == "first" and run.data.tags["fuseline.kind"] == "member"
    )
    assert tags == {"member first": None, "member second": trained}


# --------------------------------------------------------------------------------------------------- what is refused


def test_what_mlflow_refuses_is_put_aside_and_all_else_arrives(
    begin: Callable[..., Spool], deliverer: Deliverer, client: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    spool = begin()
    spool.tell(spool.run, params={"a": 1})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            spool.tell(spool.run, params={"a": 2}, files=[spool.keep("plan", {"a": "a"})])
        with (spool.folder / "records.jsonl").open("ab") as file:
            file.write(b"{damaged}\n")
        assert deliverer.wait([finish(spool).folder], PATIENCE) == 0
    run = everything(client())["train recipe"]
    assert (run["status"], run["params"], run["files"]) == ("FINISHED", {"a": "1"}, ["a"])
    refused = [json.loads(line) for line in (spool.folder.parent / "refused.jsonl").read_text().splitlines()]
    assert [its["step"] for its in refused] == ["log", "log", "read"]
    assert refused[0]["record"]["params"] == {"a": "2"}
    assert "Changing param values is not allowed" in refused[0]["error"]
    warned = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert len(warned) == 2  # once for each reason
    assert spool.run in warned[0]
    assert "refused.jsonl" in warned[0]


def test_what_belongs_to_a_refused_run_is_put_aside_with_it(
    begin: Callable[..., Spool], deliverer: Deliverer, client: Callable[[], Any]
) -> None:
    spool = begin()
    bad = Start(name="bad", kind="member", key="b", parent=spool.run)
    spool.tell("bad", start=bad, tags={"mlflow.runName": "worse"}, metrics={"a": 1}, end="FINISHED")
    spool.tell("child", start=Start(name="child", kind="member", key="c", parent="bad"), end="FINISHED")
    assert deliverer.wait([finish(spool).folder], PATIENCE) == 0
    assert {name: run["status"] for name, run in everything(client()).items()} == {"train recipe": "FINISHED"}
    refused = [json.loads(line) for line in (spool.folder.parent / "refused.jsonl").read_text().splitlines()]
    assert [its["step"] for its in refused] == ["start", "log", "end", "start", "end"]


def test_a_package_that_has_gone_is_not_registered_and_the_run_ends(
    story: Spool, deliverer: Deliverer, client: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise FileNotFoundError("the package")

    monkeypatch.setattr(registry, "apart", gone)
    assert deliverer.wait([story.folder], PATIENCE) == 0
    assert deliverer.told(story.folder).registered is None
    run = everything(client())["train recipe"]
    assert run["status"] == "FINISHED"
    assert "fuseline.version" not in run["tags"]


# ------------------------------------------------------------------------------------------------- MLflow is away


def test_a_locked_database_is_waited_for(
    story: Spool, deliverer: Deliverer, client: Callable[[], Any], database: Path, until: Callable[..., Any]
) -> None:
    """MLflow itself gives up after 20 seconds."""
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        deliverer.watch(story)
        until(lambda: deliverer._troubled, "MLflow has given up", PATIENCE)
        assert deliverer.wait([story.folder], 0.1) > 0
        other.execute("ROLLBACK")
    other.close()
    assert deliverer.wait([story.folder], PATIENCE) == 0
    assert {run["status"] for run in everything(client()).values()} == {"FINISHED"}


def test_a_deleted_experiment_is_waited_for_and_keeps_nobody_else_from_being_delivered(
    begin: Callable[..., Spool], deliverer: Deliverer, client: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = begin("1", recipe="first"), begin("2", recipe="second")
    deleted = client().create_experiment("first", artifact_location=str(first.folder.parents[1] / "artifacts"))
    client().delete_experiment(deleted)
    with caplog.at_level(logging.WARNING):
        assert deliverer.wait([first.folder, second.folder], 0.5) == 1
        assert deliverer.wait([second.folder], PATIENCE) == 0
    assert [record.getMessage().count("'first' was deleted") for record in caplog.records] == [1]
    client().restore_experiment(deleted)
    assert deliverer.wait([first.folder, second.folder], PATIENCE) == 0
    assert set(everything(client())) == {"train first", "train second"}


def test_what_was_put_right_between_a_refusal_and_the_check_is_sent_again(
    deliverer: Deliverer, begin: Callable[..., Spool]
) -> None:
    """An experiment that is restored in just that moment must not cost a record."""
    refusals, checks = [MlflowException("deleted", error_code=INVALID_PARAMETER_VALUE)], []

    def do() -> None:
        if refusals:
            raise refusals.pop()

    deliverer._do(SimpleNamespace(check=lambda: checks.append("well")), begin().folder, None, ("start", do))
    assert (refusals, checks) == ([], ["well"])
    assert not list(deliverer.home.rglob(module.REFUSED))


def test_an_experiment_that_is_deleted_in_the_middle_is_waited_for(
    begin: Callable[..., Spool], deliverer: Deliverer, client: Callable[[], Any]
) -> None:
    """MLflow refuses each request by itself as if it were wrong."""
    spool = begin()
    deliverer.watch(spool)
    assert deliverer.wait([spool.folder], PATIENCE) == 0
    experiment = deliverer.told(spool.folder).experiment
    client().delete_experiment(experiment)
    spool.tell("child", start=Start(name="child", kind="member", key="c", parent=spool.run), end="FINISHED")
    assert deliverer.wait([spool.folder], 0.5) == 1
    client().restore_experiment(experiment)
    assert deliverer.wait([spool.folder], PATIENCE) == 0
    assert set(everything(client())) == {"train recipe", "member child"}
    assert not (spool.folder.parent / "refused.jsonl").exists()


class MlflowServer:
    """MLflow's own server, to be stopped and started on one address."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address, self.home = f"http://127.0.0.1:{self.port}", home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, until: Callable[..., Any]) -> None:
        command = ["-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.home}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.home / "served"), "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI")
        with (self.home / "server.txt").open("a") as out:
            self.process = subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=out)
        until(self.is_up, "MLflow's server answers")

    def is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "server.txt").read_text()
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """A server that is not started yet, which runs are to be told to by an address with a password."""
    made = MlflowServer(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.address.replace("//", "//me:secret@"))
    yield made
    made.stop()


def test_a_server_that_comes_and_goes_is_told_all_of_it_once_and_in_order(
    server: MlflowServer,
    story: Spool,
    begin: Callable[..., Spool],
    delivering: Callable[[], Deliverer],
    client: Callable[[], Any],
    until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    deliverer = delivering()
    with caplog.at_level(logging.WARNING):
        deliverer.watch(story)
        assert deliverer.wait([story.folder], 0.5) > 0  # it is down at the start
        assert deliverer.told(story.folder).run_id is None
    server.start(until)
    assert deliverer.wait([story.folder], PATIENCE) == 0
    before = everything(client())
    assert {run["status"] for run in before.values()} == {"FINISHED"}

    spool = begin("second", recipe="second")
    deliverer.watch(spool)
    assert deliverer.wait([spool.folder], PATIENCE) == 0
    server.stop()  # in the middle
    for number in range(5):
        its = Start(name=f"m{number}", kind="member", key=str(number), parent=spool.run)
        spool.tell(spool.child("member", str(number)), start=its, points=[("loss", 0.5, 1000 + number, 1)], end="FINISHED")
    assert deliverer.wait([finish(spool).folder], 0.5) == 6
    server.start(until)
    assert deliverer.wait([spool.folder], PATIENCE) == 0

    runs = everything(client())
    assert {name: runs.pop(name) for name in before} == before
    assert set(runs) == {"train second", *(f"member m{number}" for number in range(5))}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    with sqlite3.connect(server.home / "mlflow.db") as database:
        rows = database.execute("select name from runs where name like 'm_' order by rowid").fetchall()
    database.close()
    assert [name for (name,) in rows] == ["m0", "m1", "m2", "m3", "m4"]

    assert caplog.text
    assert "secret" not in caplog.text
    files = [path for path in (server.home / "spool").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if b"secret" in path.read_bytes()] == []


def test_another_server_is_told_from_the_beginning(
    story: Spool, deliverer: Deliverer, delivering: Callable[[], Deliverer], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    assert deliverer.wait([story.folder], PATIENCE) == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/other.db")
    other = delivering()
    assert other.told(story.folder).waiting > 0
    assert other.wait([story.folder], PATIENCE) == 0
    assert other.told(story.folder).run_id != deliverer.told(story.folder).run_id


def test_a_note_that_can_not_be_read_counts_for_nothing(story: Spool) -> None:
    state = State("server", offset=5, runs={"a": "b"})
    state.write(story.folder)
    assert State.read(story.folder, "server") == state
    assert State.read(story.folder, "another") == State("another")
    (story.folder / STATE).write_text("{")
    assert State.read(story.folder, "server") == State("server")


# ------------------------------------------------------------------------------------------------- several processes


def test_what_another_process_delivers_is_left_to_it(
    story: Spool, delivering: Callable[[], Deliverer], client: Callable[[], Any]
) -> None:
    lock = hold(story.folder / DELIVERING)
    assert lock is not None
    deliverer = delivering()
    waiting = deliverer.told(story.folder).waiting
    assert deliverer.wait([story.folder], 0.5) == waiting
    assert everything(client()) == {}
    os.close(lock)  # as when it dies
    assert deliverer.wait([story.folder], PATIENCE) == 0


BOTH = """
import sys
from fuseline.store import home
from fuseline.tracking.deliver import Deliverer
from fuseline.tracking.settings import load_settings
from fuseline.tracking.spool import spools
import fuseline.tracking.steps
print("ready", flush=True)
sys.stdin.readline()
print(Deliverer(home(), load_settings()).wait(spools(), 60), flush=True)
"""


def test_two_that_deliver_the_same_at_once_deliver_it_once(
    begin: Callable[..., Spool], process: Callable[..., Any], client: Callable[[], Any]
) -> None:
    spool = begin()
    for number in range(12):
        its = Start(name=str(number), kind="member", key=str(number), parent=spool.run)
        spool.tell(spool.child("member", str(number)), start=its, metrics={"a": number}, end="FINISHED")
    finish(spool).close()
    both = [process(BOTH) for _ in range(2)]
    assert [its.stdout.readline() for its in both] == ["ready\n"] * 2
    for its in both:
        print(file=its.stdin, flush=True)
    assert [its.stdout.readline() for its in both] == ["0\n"] * 2
    runs = everything(client())  # which does not bear two of one name
    assert len(runs) == 13
    assert {len(run["points"]["a"]) for name, run in runs.items() if name.startswith("member")} == {1}
