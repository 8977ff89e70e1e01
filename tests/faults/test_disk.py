"""The disk is full, or has lost what was on it."""

from __future__ import annotations

import resource

from tests.faults.harness import EVERY_STEP, Site, statuses
from tests.faults.test_killed_members import MIDDLE


def test_disk_full(site: Site, undisturbed: Site) -> None:
    """From the middle of the third epoch on a member finds no room, as where its files are larger than those of all others: its
    last checkpoint stays, the run ends with a sentence and not without the member, and goes on from there once there is room."""
    going = site.train(*EVERY_STEP, faults={"a": ["block", MIDDLE]})
    going.wait_for(site.reached("a").exists, "the third epoch has begun")
    before = site.checkpoint_of("a")
    assert before
    worker = int(site.reached("a").read_text())
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (4096, 4096))
    site.release("a")
    ended = going.finish()
    assert (ended.code, ended.out) == (2, "")
    assert "no room" in ended.sentence
    assert site.checkpoint_of("a") == before
    (parent,) = site.runs("train")
    assert parent.info.status == "FAILED"
    assert "no room" in parent.data.tags["fuseline.reason"]

    again = site.train(*EVERY_STEP).finish()
    assert statuses(again.summary)["a"] == "trained"
    assert site.weights() == undisturbed.weights()
    curve = site.curve_of("a")
    assert [epoch["epoch"] for epoch in curve] == [1, 2, 3, 4]
    assert [epoch["at"] < again.began for epoch in curve] == [True, True, False, False]
    assert site.temporaries() == []


def test_a_stored_result_is_missing_or_damaged(site: Site, undisturbed: Site) -> None:
    """One byte of a member's weights is flipped, and another's answers are gone: both are trained again, with a warning; the
    third is reused."""
    site.copy_store(undisturbed)
    first, second, _ = sorted(site.store.glob("replica/[!.]*"))
    data = bytearray((first / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (first / "weights.safetensors").write_bytes(data)
    next(second.glob("values-*.npy")).unlink()
    ended = site.train().finish()
    assert sorted(statuses(ended.summary).values()) == ["reused", "trained", "trained"]
    assert site.weights() == undisturbed.weights()
    for folder in (first, second):
        assert f"{folder.name} is damaged" in ended.err
    expected = undisturbed.commands[0].finish().summary
    assert ended.summary["candidates"] == expected["candidates"]
