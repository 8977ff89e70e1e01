"""A process that is killed again and again, at every record and between every call and the note of it, tells MLflow the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.store import home as current_home
from fuseline.tracking import registry
from fuseline.tracking.deliver import Deliverer
from fuseline.tracking.records import Record
from fuseline.tracking.settings import load_settings
from fuseline.tracking.spool import read, spools
from tests.unit.tracking.known import everything
from tests.unit.tracking.story import CURVE, save, seal, tell

STORY = Path(__file__).with_name("story.py")


def lives(what: str) -> int:
    """Let a story be told or delivered by processes that die; how many did."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", STORY, what],
        env={**os.environ, "FUSELINE_HOME": str(current_home())},
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    deaths, code = map(int, done.stdout.split())
    assert code == 0, done.stderr
    return deaths


def said(folder: Path) -> list[Record]:
    return [record for record, _ in read(folder) if record is not None]


def without_times(record: Record) -> dict[str, Any]:
    tree = record.model_dump(exclude={"at", "run", "tags", "version"})
    tree["points"] = [(name, value, step) for name, value, _, step in record.points]
    if record.start is not None:
        tree["start"]["parent"] = record.start.parent is not None
    return tree


def test_who_dies_after_each_record_says_each_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once the end is said, the next start is a run of its own."""
    deaths = lives("tell")
    ended, other = spools()
    again = [record for record in said(ended) if record.again and record.run == ended.name]
    assert [record.tags["fuseline.attempt"] for record in again] == [str(n) for n in range(2, deaths + 1)]
    others = [without_times(record) for record in said(ended) if record not in again]

    monkeypatch.setenv("FUSELINE_HOME", str(home / "undisturbed"))
    spool = tell(home / "package")
    expected = [without_times(record) for record in said(spool.folder)]
    spool.close()
    assert len(others) == len(expected) == deaths
    assert others == expected == [without_times(record) for record in said(other)]


def test_who_dies_between_a_call_and_the_note_of_it_sends_nothing_twice(
    home: Path, monkeypatch: pytest.MonkeyPatch, client: Callable[[], Any]
) -> None:
    monkeypatch.setattr(registry, "apart", save)
    monkeypatch.setattr(registry, "seal_model", seal)
    spool = tell(home / "package")
    spool.close()
    copied = home / "undisturbed" / "spool" / spool.run
    shutil.copytree(spool.folder, copied)

    monkeypatch.setenv("FUSELINE_HOME", str(home / "undisturbed"))
    assert Deliverer(home / "undisturbed", load_settings()).wait([copied]) == 0
    expected, versions = everything(client()), client().search_model_versions("name = 'model'")

    monkeypatch.setenv("FUSELINE_HOME", str(home))
    deaths = lives("deliver")
    assert deaths > 2 * len(said(copied) or [1])
    found = everything(client())
    assert found == expected
    assert {name: run["status"] for name, run in found.items()} == {"train recipe": "FINISHED", "member m": "FINISHED"}
    assert found["member m"]["points"]["loss"] == [(step, value, at) for _, value, at, step in CURVE]
    assert found["train recipe"]["inputs"] == ["d1"]
    assert found["train recipe"]["files"] == ["b.txt", "plan/a.txt", "summary.json"]
    (version,) = client().search_model_versions("name = 'model'")
    assert version.tags == versions[0].tags
    assert (version.version, version.aliases) == (versions[0].version, versions[0].aliases)
    experiment = client().get_experiment_by_name("recipe").experiment_id
    assert len(client().search_logged_models([experiment])) == 1
