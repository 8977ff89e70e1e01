"""A run that is killed with SIGKILL at twenty random moments ends as one that nothing disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fuseline.store import sha256_of
from tests.faults.harness import EPOCHS, EVERY_STEP, MEMBERS, Site, steps, until

KILLS, EACH = 20, 3
STAGES = {"training": 8, "bank": 4, "fusion": 4, "registration": 4}
"""The stages and how many kills each is to have, in the order in which a run comes to them."""

SLOW, SLOW_DISK = 0.1, 0.03
"""Seconds that each step takes while the run is being killed, so that training outlasts many kills, and each file."""

LASTS = {"training": 0.5, "bank": 0.2, "fusion": 0.3, "registration": 0.4}
"""Seconds after the begin of a stage within which a kill comes."""

SLOWED = {name: ["slow", 1, SLOW] for name in MEMBERS}
ARRAYS, RULES = (".npy", ".safetensors"), ("mean", "weights")


def signs(site: Site, stage: str) -> Iterator[Path]:
    """What appears, or is written anew, when a run comes to a stage."""
    if stage == "training":
        return site.meeting.glob("*.reached")
    if stage == "registration":
        return (site.home / "locks").glob("registry-*.lock")
    return (site.store / "locks").glob(f"{stage}-*.lock")


def last(site: Site, since: int) -> str:
    """The stage that a run has come to since it was started, or ``start``."""
    return next((s for s in reversed(STAGES) if any(sign.stat().st_mtime_ns > since for sign in signs(site, s))), "start")


def killed_in(site: Site, stage: str, random: np.random.Generator) -> str | None:
    """Start the run, and kill it some time after it has come to a stage or, where that one has nothing left to do, to one behind
    it; the stage in which it was killed. None if it had finished by then."""
    since, order = time.time_ns(), ["start", *STAGES]
    had = {kind for kind in ("bank", "fusion") if any(site.store.glob(f"{kind}/[!.]*"))}
    stage = next(its for its in order[order.index(stage) :] if its not in had)
    going = site.train(*EVERY_STEP, faults=SLOWED, FAULTS_SLOW_DISK=str(SLOW_DISK))
    until(lambda: not going.going or order.index(last(site, since)) >= order.index(stage), f"{stage} has begun")
    with suppress(subprocess.TimeoutExpired):
        going.process.wait(random.uniform(0, LASTS[stage]))
    if not going.going:
        assert going.finish().code == 0, going.screen
        return None
    going.kill()
    found = last(site, since)
    return f"{found} again" if found in had else found  # it was found in the store, and nothing was done


def made(site: Site) -> dict[str, str]:
    """The sha256 of each array of the bank and of the fusions, and of the members' weights."""
    arrays = [path for kind in ("bank", "fusion") for path in site.store.glob(f"{kind}/[!.]*/**/*") if path.suffix in ARRAYS]
    return site.weights() | {str(path.relative_to(site.store)): sha256_of(path) for path in arrays}


def wanted(killed: Counter[str]) -> str | None:
    """The stage to be killed in next; None when it is enough."""
    total = sum(killed[stage] for stage in STAGES)
    too_few = [stage for stage, count in STAGES.items() if killed[stage] < (count if total < KILLS else EACH)]
    return too_few[0] if too_few else None


def is_over(site: Site) -> bool:
    """Whether the run that was killed had finished by its own records, so that only their delivery is left."""
    for file in site.home.glob("spool/[!.]*/records.jsonl"):
        ends = [line for line in file.read_text().splitlines() if '"end":"FINISHED"' in line and file.parent.name in line]
        if not any(json.loads(line)["run"] == file.parent.name for line in ends):
            return False
    return True


@pytest.mark.skipif("FUSELINE_RANDOM_KILLS" not in os.environ, reason="takes minutes; set FUSELINE_RANDOM_KILLS=1 to run it")
def test_random_kills(sites: Callable[[str], Site], undisturbed: Site) -> None:
    random, killed, site = np.random.default_rng(20), Counter[str](), sites("killed")
    while stage := wanted(killed):
        found = killed_in(site, stage, random)
        if found is not None:
            killed[found] += 1
        if found is None or is_over(site):  # the same command would be a new run: on with another home, in which all is trained
            check(site, undisturbed)
            site = sites(f"killed-after-{killed.total()}")
            site.copy_store(undisturbed, "data", "plan", "replica")
    assert sum(killed[stage] for stage in STAGES) >= KILLS
    assert min(killed[stage] for stage in STAGES) >= EACH
    site.train(*EVERY_STEP).finish()
    check(site, undisturbed)


def check(site: Site, undisturbed: Site) -> None:
    """A home in which a run was killed all but the last time holds what the undisturbed one holds, and records that say so."""
    starts = len(site.commands)
    assert site.start("reconcile", "--json").finish().summary["waiting"] == 0
    assert made(site) == made(undisturbed)

    (parent,) = site.runs("train")
    assert parent.data.tags["fuseline.attempt"] == str(starts)
    told = json.loads(Path(site.client().download_artifacts(parent.info.run_id, "summary.json")).read_text())
    expected = undisturbed.commands[0].finish().summary
    for part in ("best", "candidates"):
        assert told[part] == expected[part]
    assert [entry["metrics"] for entry in told["members"]] == [entry["metrics"] for entry in expected["members"]]

    runs = site.runs()
    assert {run.info.status for run in runs} == {"FINISHED"}
    whose = Counter((run.data.tags["fuseline.kind"], run.info.run_name) for run in runs)
    members, fusions = [("member", name) for name in MEMBERS], [("fusion", f"fusion {rule}") for rule in RULES]
    assert whose == Counter([("train", site.name), *members, *fusions])
    for run in site.runs("member"):
        logged = steps(site.client(), run.info.run_id)
        assert logged["loss"] == list(range(1, EPOCHS + 1))
        assert [name for name, its in logged.items() if len(set(its)) < len(its)] == []
    (version,) = site.client().search_model_versions(f"name = '{site.name}'")
    assert version.run_id == parent.info.run_id
    states = site.flow_runs()
    assert len(states) == starts
    assert set(states[:-1]) <= {"CRASHED"}
    assert states[-1] in ("CRASHED", "COMPLETED")
