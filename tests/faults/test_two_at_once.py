"""Several commands at the same time in one home."""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.faults.harness import Site, statuses, until


def test_two_runs_of_one_recipe_at_once(site: Site) -> None:
    """The second says who runs the recipe already, waits for its end, and then trains nothing."""
    first = site.train(faults={"a": ["block", 2]})
    first.wait_for(site.reached("a").exists, "the first has begun to train")
    second = site.train()
    second.wait_for(lambda: f"process {first.pid}" in second.screen, "the second says who holds the recipe")
    assert first.going
    site.release("a")
    assert statuses(first.finish().summary) == dict.fromkeys("abc", "trained")
    assert statuses(second.finish().summary) == dict.fromkeys("abc", "reused")
    assert len(site.weights()) == 3
    assert [run.info.status for run in site.runs("train")] == ["FINISHED", "FINISHED"]
    assert len(site.runs("member")) == 6


def test_promotion_race(site: Site, undisturbed: Site) -> None:
    """Three runs come to the registry in the same moment: they register one after the other, and each alias names one version
    that is there."""
    site.copy_store(undisturbed)
    registry = site.home / "locks" / f"registry-{site.name}.lock"
    registry.parent.mkdir(parents=True)
    rules = ("[mean]", "[weights]", "[mean, weights, vote]")
    with registry.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        racing = [site.train("--set", f"fusion.rules={its}") for its in rules]
        until(lambda: waiting(registry) == len(rules) or not all(c.going for c in racing), "all wait for the registry")
        assert all(command.going for command in racing), [command.screen for command in racing]
    summaries = [command.finish().summary for command in racing]
    versions = {str(version.version): version for version in site.client().search_model_versions(f"name = '{site.name}'")}
    assert sorted(versions, key=int) == ["1", "2", "3"]
    assert {str(its["registered"]["version"]): its["run_id"] for its in summaries} == {
        number: version.run_id for number, version in versions.items()
    }
    assert {version.status for version in versions.values()} == {"READY"}
    aliases = site.client().get_registered_model(site.name).aliases
    assert str(aliases.pop("challenger")) == "3"
    assert {str(holder) for holder in aliases.values()} <= set(versions)
    assert "champion" in aliases


def waiting(lock: Path) -> int:
    """How many processes the kernel keeps waiting for a lock."""
    number = f":{lock.stat().st_ino} "
    return sum("->" in line and number in line for line in Path("/proc/locks").read_text().splitlines())
