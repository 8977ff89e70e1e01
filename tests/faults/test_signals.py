"""A run is told to end, or is not even told."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.faults.harness import Command, Site, statuses, until

SECOND_EPOCH = 5


@pytest.mark.parametrize(("send", "code", "name"), [(Command.terminate, 143, "SIGTERM"), (Command.interrupt, 130, "SIGINT")])
def test_sigterm_and_ctrl_c(site: Site, undisturbed: Site, send: Callable[[Command], None], code: int, name: str) -> None:
    """The run closes its records and leaves with the signal's code; the next one goes on from the checkpoint."""
    going = site.train(faults={"a": ["slow", SECOND_EPOCH, 0.4]})
    going.wait_for(site.reached("a").exists, "the second epoch has begun")
    send(going)
    ended = going.finish()
    assert (ended.code, ended.out) == (code, "")
    assert name in ended.err
    assert "Traceback" not in ended.err
    assert site.checkpoint_of("a")
    (parent,) = site.runs("train")
    assert parent.info.status == "KILLED"
    assert name in parent.data.tags["fuseline.reason"]
    assert "RUNNING" not in {run.info.status for run in site.runs()}
    (state,) = site.flow_runs()
    assert state in ("CRASHED", "CANCELLED")
    assert site.task_runs() <= {"COMPLETED", "CRASHED", "CANCELLED", "FAILED"}
    if code == 143:  # what comes after is the same for both
        again = site.train().finish()
        assert statuses(again.summary)["a"] == "trained"
        assert site.weights() == undisturbed.weights()
        first, *_ = site.curve_of("a")
        assert first["at"] < again.began
        (parent,) = site.runs("train")
        assert (parent.info.status, parent.data.tags["fuseline.attempt"]) == ("FINISHED", "2")


def test_sigterm_to_all_processes(site: Site) -> None:
    """As a service manager or a batch system sends it: to the workers and the Prefect server too, which must outlive the run."""
    prefect = site.folder / "prefect"
    own: dict[str, Any] = {"PREFECT_API_URL": None, "PREFECT_HOME": str(prefect)}
    going = site.train(faults={"a": ["slow", SECOND_EPOCH, 0.4]}, **own)
    going.wait_for(site.reached("a").exists, "the second epoch has begun")
    for process in site.processes():
        process.terminate()
    ended = going.finish()
    assert (ended.code, ended.out) == (143, "")
    assert "Traceback" not in ended.err
    assert site.checkpoint_of("a")
    (parent,) = site.runs("train")
    assert parent.info.status == "KILLED"
    assert states(prefect, "flow_run") <= {"CRASHED", "CANCELLED"}


def test_a_second_signal_ends_at_once(site: Site) -> None:
    """A member that does not come to the end of its step keeps the first signal waiting. Another one waits for nobody: records
    stay as they were, for the next start to mend."""
    going = site.train(faults={"a": ["block", SECOND_EPOCH]})
    going.wait_for(site.reached("a").exists, "the second epoch has begun")
    going.wait_for(site.is_known, "MLflow knows of the run")
    until(lambda: not going.going or going.terminate(), "it has ended")  # two that come too close are one to Python
    ended = going.finish()
    assert (ended.code, ended.out) == (143, "")
    (parent,) = site.runs("train")
    assert parent.info.status == "RUNNING"


def test_a_dead_run_still_shown_as_running(site: Site) -> None:
    """Everything is killed, the Prefect server too: both records say RUNNING of a run that no one carries on, until
    ``fuseline reconcile``."""
    prefect = site.folder / "prefect"
    own: dict[str, Any] = {"PREFECT_API_URL": None, "PREFECT_HOME": str(prefect)}
    going = site.train(faults={"a": ["block", SECOND_EPOCH]}, **own)
    going.wait_for(site.reached("a").exists, "the second epoch has begun")
    going.wait_for(lambda: "RUNNING" in states(prefect, "task_run"), "Prefect knows of a task")
    going.wait_for(site.is_known, "MLflow knows of the run")
    for process in site.processes():
        process.kill()
    going.finish()
    (parent,) = site.runs("train")
    assert parent.info.status == "RUNNING"
    assert states(prefect, "flow_run") == {"RUNNING"}

    done = site.start("reconcile", "--json", **own).finish()
    assert done.code == 0, done.err
    (parent,) = site.runs("train")
    assert parent.info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in site.runs()}
    assert states(prefect, "flow_run") == {"CRASHED"}
    assert states(prefect, "task_run") <= {"COMPLETED", "CRASHED"}


def states(prefect: Any, table: str) -> set[str]:
    """The states that a Prefect server's database shows, without a server."""
    with closing(sqlite3.connect(f"file:{prefect / 'prefect.db'}?mode=ro", uri=True)) as database:
        return {state for (state,) in database.execute(f"select state_type from {table}")}
