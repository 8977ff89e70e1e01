"""What a run is said to need on the disk, against what real runs took."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from fuseline import footprint
from fuseline.disk import NoRoomError
from fuseline.footprint import Need, estimate, require_room
from fuseline.plan import Plan
from fuseline.store import Store


def taken(ran: Any, *places: str) -> list[int]:
    """The sizes of the files of a run in some places."""
    return [size for file, size in ran.sizes.items() if file.startswith(places)]


@pytest.fixture(params=["first_run", "mixed_run", "bootstrap_run"])
def ran(request: pytest.FixtureRequest) -> Any:
    """A run with many replicas, one of several targets, and the smallest there is."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def plan(ran: Any) -> Plan:
    return Plan.open(ran.plan)


def test_the_estimate_is_within_a_factor_of_two_of_what_was_taken(ran: Any, plan: Plan, tmp_path: Path) -> None:
    need = estimate(plan, Store(tmp_path / "store"))
    for kind in ("replicas", "bank"):
        real = sum(taken(ran, f"store/{kind.removesuffix('s')}/"))
        assert real / 2 < getattr(need, kind) < real * 2, kind
    whole = sum(taken(ran, "")) - sum(taken(ran, "store/data/", "store/plan/"))
    assert whole / 2 < need.total < 2 * whole
    largest = max(taken(ran, "store/replica/", "store/bank/"))
    assert largest / 2 < need.largest_file < 2 * largest


def test_what_is_there_needs_no_room(ran: Any, plan: Plan, tmp_path: Path) -> None:
    need = estimate(plan, Store(ran.store))
    assert (need.replicas, need.checkpoints, need.bank) == (0, 0, 0)
    assert 0 < need.total < estimate(plan, Store(tmp_path / "store")).total
    assert require_room(plan, Store(ran.store)) == need


def test_the_refusal_says_how_much_where_and_what_to_do(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    need = estimate(plan, store)
    monkeypatch.setattr(footprint, "free", lambda place: need.total)
    assert require_room(plan, store) == need
    monkeypatch.setattr(footprint, "free", lambda place: need.total - 1)
    with pytest.raises(NoRoomError) as caught:
        require_room(plan, store)
    sentence = str(caught.value)
    assert caught.value.exit_code == 2
    assert "MB in " in sentence
    assert [word for word in (str(store.root), "MB are free", "fuseline gc", "FUSELINE_HOME") if word not in sentence] == []


def test_a_file_that_may_not_be_written_is_said_so(plan: Plan, tmp_path: Path) -> None:
    store, (soft, hard) = Store(tmp_path / "store"), resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = estimate(plan, store).largest_file - 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(NoRoomError, match=r"a file of about .*\(`ulimit -f`\); raise that limit"):
            require_room(plan, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_total_counts_every_part_once() -> None:
    assert Need(1, 2, 4, 8, 16, 32, 64, 999).total == 127
