"""Workers and whole runs are killed while members learn; nothing finished is lost, and what was begun goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import EPOCHS, EVERY_STEP, Finished, Site, statuses, steps

MIDDLE = 10
"""A step in the middle of the third epoch: the rows that a member learns from make four batches."""

AGAIN = "--set", "training.limits={retries: 1, wait_seconds: 0}"
SIDE_BY_SIDE = "--set", "training.processes=3"


@dataclass(frozen=True)
class Story:
    """What happened on a site: when the fault came, in milliseconds since 1970, and how the last run ended."""

    site: Site
    fault: int
    run_id: str
    ended: Finished

    def ended_before(self, member: str) -> list[int]:
        """The epochs of a member that ended before the fault, as its learning curve in MLflow says."""
        run = self.site.run_of(member)
        history = self.site.client().get_metric_history(run.info.run_id, "loss")
        return sorted(point.step for point in history if point.timestamp < self.fault)


def now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def worker_killed(new_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The worker of one member is killed in its third epoch; the recipe allows another try."""
    site = new_site(tmp_path_factory.mktemp("worker-killed"))
    going = site.train(*AGAIN, *EVERY_STEP, faults={"b": ["block", MIDDLE]})
    going.wait_for(site.reached("b").exists, "the third epoch has begun")
    fault = now()
    os.kill(int(site.reached("b").read_text()), signal.SIGKILL)
    site.release("b")
    ended = going.finish()
    yield Story(site, fault, ended.summary["run_id"], ended)
    site.close()


@pytest.fixture(scope="module")
def everything_killed(new_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The whole run is killed when one member has finished, the second is in its third epoch, and the third in its first; then it
    is run again."""
    site = new_site(tmp_path_factory.mktemp("everything-killed"))
    going = site.train(*SIDE_BY_SIDE, *EVERY_STEP, faults={"b": ["block", MIDDLE], "c": ["block", 1]})
    going.wait_for(site.reached("b").exists, "the third epoch of one has begun")
    going.wait_for(site.reached("c").exists, "the first epoch of another one has begun")
    going.wait_for(lambda: len(site.weights()) == 1, "the other one is trained")
    going.wait_for(site.is_known, "MLflow knows of the run")
    fault = now()
    going.kill()
    (parent,) = site.runs("train")
    ended = site.train(*SIDE_BY_SIDE, *EVERY_STEP).finish()
    yield Story(site, fault, parent.info.run_id, ended)
    site.close()


@pytest.fixture(params=["worker_killed", "everything_killed"])
def story(request: pytest.FixtureRequest) -> Story:
    found: Story = request.getfixturevalue(request.param)
    return found


def test_sigkill_in_the_middle_of_an_epoch(story: Story, undisturbed: Site) -> None:
    """What stood in the checkpoint is not done again, and the weights are those of a run that nothing disturbed."""
    assert story.ended.summary["failed"] == 0
    assert story.site.weights() == undisturbed.weights()
    assert story.ended_before("b") == [1, 2]


def test_the_fused_ensemble_is_that_of_an_undisturbed_run(story: Story, undisturbed: Site) -> None:
    expected = undisturbed.commands[0].finish().summary
    for part in ("best", "candidates"):
        assert story.ended.summary[part] == expected[part]


def test_retry_makes_no_second_run(story: Story) -> None:
    """A second attempt goes on in the same MLflow run, says which it is, and logs no step again."""
    (parent,) = story.site.runs("train")
    assert (parent.info.run_id, parent.info.status) == (story.run_id, "FINISHED")
    assert story.ended.summary["run_id"] == story.run_id
    members = story.site.runs("member")
    assert sorted((run.info.run_name, run.info.status) for run in members) == [(name, "FINISHED") for name in "abc"]
    for run in members:
        logged = steps(story.site.client(), run.info.run_id)
        assert logged["loss"] == logged["holdout_loss"] == list(range(1, EPOCHS + 1))
        assert all(len(set(its)) == len(its) for its in logged.values())


def test_attempts_are_counted(worker_killed: Story, everything_killed: Story) -> None:
    (parent,) = everything_killed.site.runs("train")
    assert parent.data.tags["fuseline.attempt"] == "2"
    (parent,) = worker_killed.site.runs("train")
    assert parent.data.tags["fuseline.attempt"] == "1"
    assert {run.info.run_name: run.data.tags["fuseline.attempt"] for run in worker_killed.site.runs("member")} == {
        "a": "1",
        "b": "2",
        "c": "1",
    }


def test_resume(everything_killed: Story) -> None:
    """What had finished is not trained again, and the summary and MLflow say how much that was."""
    summary = everything_killed.ended.summary
    assert statuses(summary) == {"a": "reused", "b": "trained", "c": "trained"}
    assert (summary["trained"], summary["reused"]) == (2, 1)
    assert everything_killed.ended_before("a") == list(range(1, EPOCHS + 1))
    assert everything_killed.ended_before("c") == []
    (parent,) = everything_killed.site.runs("train")
    assert (parent.data.metrics["members_trained"], parent.data.metrics["members_reused"]) == (2, 1)


def test_prefect_shows_no_dead_run_as_running(everything_killed: Story) -> None:
    assert everything_killed.site.flow_runs() == ["CRASHED", "COMPLETED"]
    assert everything_killed.site.task_runs() <= {"CRASHED", "COMPLETED"}


def test_kill_while_saving(site: Site, undisturbed: Site) -> None:
    """Killed in the middle of a checkpoint's bytes, before its rename, and while an entry of the store is half made: no torn file
    is ever read, and none stays."""
    faults: dict[str, Any] = {
        "a": ["torn once", 6, 2000],
        "b": ["die once", 6, "os.rename", "checkpoints"],
        "c": ["die once", 16, "open", "training.json"],
    }
    done = site.train(*AGAIN, *EVERY_STEP, faults=faults).finish()
    assert done.summary["trained"] == 3
    assert {run.info.run_name: run.data.tags["fuseline.attempt"] for run in site.runs("member")} == dict.fromkeys("abc", "2")
    assert site.weights() == undisturbed.weights()
    assert site.temporaries() == []
