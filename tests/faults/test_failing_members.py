"""Members that can't be trained: each for a reason of its own, beside siblings that can."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Finished, Site, member, statuses

FAULTS = {
    "raises": ["fail", 6],
    "killed": ["kill", 6],
    "eats": ["eat", 6],
    "hangs": ["hang", 6],
    "nan": ["not finite", 7, "nan"],
    "infinite": ["not finite", 7, "inf"],
}
FAILURES = {
    "raises": ("raised", ["RuntimeError", "a mistake of its own"]),
    "killed": ("killed", ["SIGKILL"]),
    "eats": ("out of memory", ["GiB"]),
    "hangs": ("hung", ["minutes"]),
    "nan": ("not finite", ["epoch 2", "step 3"]),
    "infinite": ("not finite", ["epoch 2", "step 3"]),
}
"""By member: the kind of failure, and words of its reason. The second epoch begins with the fifth step."""

LIMITS = "training.limits={silent_minutes: 0.2, memory_gib: 1.2, retries: 0}"


@dataclass(frozen=True)
class Limped:
    site: Site
    ended: Finished

    def entry(self, name: str) -> Any:
        (found,) = [entry for entry in self.ended.summary["members"] if entry["name"] == name]
        return found


@pytest.fixture(scope="module")
def limped(new_site: Callable[[Path], Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limped]:
    """A run of two sound members and six that fail; two are enough."""
    site = new_site(tmp_path_factory.mktemp("limped"))
    site.write([member(name) for name in ("a", "b", *FAULTS)], min_members=2)
    yield Limped(site, site.train("--set", LIMITS, faults=FAULTS).finish())
    site.close()


@pytest.mark.parametrize("name", ["raises", "killed", "eats", "hangs"])
def test_one_member_runs_out_of_memory_crashes_or_is_killed(limped: Limped, name: str) -> None:
    """It is listed with its reason, in the summary and in MLflow."""
    check_failure(limped, name)


@pytest.mark.parametrize("name", ["nan", "infinite"])
def test_loss_is_nan_or_infinite(limped: Limped, name: str) -> None:
    """The member is quarantined at once, with epoch and step; no number that is not finite reaches MLflow."""
    check_failure(limped, name)
    run = limped.site.run_of(name)
    assert all(abs(value) < 1e300 for value in run.data.metrics.values())
    history = limped.site.client().get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [1]


def check_failure(limped: Limped, name: str) -> None:
    failure, words = FAILURES[name]
    entry = limped.entry(name)
    assert entry["status"] == "failed"
    assert [word for word in words if word not in entry["reason"]] == []
    run = limped.site.run_of(name)
    assert run.info.status == "FAILED"
    assert run.data.tags["fuseline.failure"] == failure
    assert [word for word in words if word not in run.data.tags["fuseline.reason"]] == []


def test_its_siblings_finish_and_are_fused_without_it(limped: Limped) -> None:
    summary = limped.ended.summary
    assert (summary["trained"], summary["reused"], summary["failed"]) == (2, 0, len(FAULTS))
    assert {name for name, status in statuses(summary).items() if status == "trained"} == {"a", "b"}
    (bank,) = limped.site.store.glob("bank/[!.]*/bank.json")
    text = bank.read_text()
    assert [name for name in FAULTS if json.dumps(name) in text] == []
    assert summary["registered"]["version"] == 1
    (parent,) = limped.site.runs("train")
    assert parent.info.status == "FINISHED"


def test_the_flow_run_of_such_a_run_has_completed(limped: Limped) -> None:
    assert limped.site.flow_runs() == ["COMPLETED"]
    assert limped.site.task_runs() == {"COMPLETED", "FAILED"}


def test_fewer_members_than_min_members_fail_the_run_and_it_says_so(site: Site, undisturbed: Site) -> None:
    site.copy_store(undisturbed)
    site.write([member("a"), member("b"), member("c"), member("raises")], min_members=4)
    ended = site.train(faults=FAULTS).finish()
    assert (ended.code, ended.out) == (1, "")
    assert [word for word in ("3 of 4", "min_members", "raises", "a mistake of its own") if word not in ended.sentence] == []
    (parent,) = site.runs("train")
    assert parent.info.status == "FAILED"
    assert "min_members" in parent.data.tags["fuseline.reason"]
    assert {run.info.run_name: run.info.status for run in site.runs("member")} == {
        "a": "FINISHED",
        "b": "FINISHED",
        "c": "FINISHED",
        "raises": "FAILED",
    }
    assert site.flow_runs() == ["FAILED"]
