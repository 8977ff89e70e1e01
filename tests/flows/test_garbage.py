"""``fuseline gc`` on the store of a real run: what the run is made of stays, so that it is found again, and the rest goes."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.store import Store


@pytest.fixture
def aged(bootstrap_run: Any, tmp_path: Path) -> Path:
    """The home of a run some hours ago, and in its store a bank that no run names."""
    home = tmp_path / "home"
    shutil.copytree(bootstrap_run.home, home)
    Store(home / "store").make("bank", "forgotten", lambda folder: (folder / "a").write_bytes(bytes(1000)) and None)
    before = time.time() - 5 * 3600
    for path in [*home.rglob("*"), home]:
        os.utime(path, (before, before))
    return home


def entries(home: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in (home / "store").glob("*/[!.]*") if path.is_dir()}


def test_what_a_run_is_made_of_stays_and_is_found_again(
    aged: Path, bootstrap_run: Any, commands: Callable[..., Any], replicas: Callable[[Path], dict[str, int]]
) -> None:
    before, made = entries(aged), replicas(aged)
    for arguments, left in ((["gc", "--json"], before), (["gc", "--json", "--yes"], before - {"bank/forgotten"})):
        counted = {tally["kind"]: tally["going"] for tally in json.loads(commands(*arguments, home=aged).out)}
        assert {kind: going for kind, going in counted.items() if going and kind not in ("lineage", "locks")} == {"bank": 1}
        assert entries(aged) == left
    again = commands("run", bootstrap_run.recipe, "--json", home=aged).summary
    assert (again["trained"], again["reused"]) == (0, 1)
    assert entries(aged) == before - {"bank/forgotten"}
    assert replicas(aged) == made


def test_without_its_run_nothing_is_known_and_nothing_removed(
    aged: Path, commands: Callable[..., Any], tracked: Callable[[Path], Any], runs_of: Callable[..., list[Any]]
) -> None:
    before = entries(aged)
    for run in runs_of(aged, "train"):
        tracked(aged).delete_run(run.info.run_id)
    done = commands("gc", "--yes", home=aged)
    assert done.code == 2
    assert "knows no training run" in done.err
    assert entries(aged) == before
