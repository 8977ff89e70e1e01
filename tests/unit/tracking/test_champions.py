"""Champions and their history, against real MLflow databases: one after the other, killed in between, and all at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fuseline.errors import UserError
from fuseline.promotion.verdict import Check, Earlier, Measured, Verdict, decided
from fuseline.tracking import champions as module
from fuseline.tracking.champions import Champions, Moved
from fuseline.tracking.events import KEPT, PROMOTED, ROLLED_BACK, Event, Said, predecessor
from fuseline.tracking.settings import load_settings


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def verdict(challenger: int, champion: int | None, passed: bool = True) -> Verdict:
    check = Check.of("kind: gain of accuracy", "gain > 0", Measured(0.1, 0.05, 0.15), passed, "the gain is 0.1")
    return decided(f"m/{challenger}", None if champion is None else f"m/{champion}", [check], sketch=["a", "b"])


@pytest.fixture
def champions(common_tracker: Any, request: pytest.FixtureRequest) -> Iterator[Champions]:
    """A model with four versions, in the database that tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSELINE_HOME", str(common_tracker.home))
        patch.chdir(common_tracker.home.parent)
        its = Champions(load_settings(), request.node.name.replace("[", "-").replace("]", "").replace(" ", "-"))
        its._client.create_registered_model(its.name)
        for _ in range(4):
            its._client.create_model_version(its.name, "file:///nowhere")
        yield its


def enthrone(champions: Champions, *versions: int) -> list[Event]:
    """Promote some versions one after the other."""
    done = []
    for version in versions:
        standing = champions.standing()
        its = verdict(version, standing.champion)
        done.append(champions.promote(standing, Said(version, its.why, its, judged=f"{version} {standing.champion}")))
    return done


def chain(events: list[Event]) -> list[tuple[int | None, int | None, int | None]]:
    """The changes, the oldest first: number, from, to."""
    return [(its.number, its.before, its.after) for its in reversed(events) if its.number is not None]


def test_a_promotion_moves_the_aliases_and_is_told(champions: Champions) -> None:
    first, second = enthrone(champions, 1, 3)
    assert champions.aliases() == {"champion": 3, "previous": 1}
    assert champions.events() == [second, first]
    assert (first.before, first.after, first.verdict, first.number) == (None, 1, "first", 1)
    assert (second.before, second.after, second.verdict, second.number) == (1, 3, "won", 2)
    assert "@" in second.who
    assert second.why == "m/3 passes all 1 checks against m/1."
    tree = second.tree()
    assert (tree["from"], tree["to"], tree["event"]) == (1, 3, PROMOTED)
    assert champions.verdict(second.run_id) == verdict(3, 1)


def test_a_verdict_that_changes_nothing_is_told_too_and_counted(champions: Champions) -> None:
    enthrone(champions, 1)
    lost = verdict(2, 1, passed=False)
    kept = champions.keep(champions.standing(), Said(2, lost.why, lost, judged="2 against 1"))
    assert champions.aliases() == {"champion": 1}
    assert (kept.event, kept.verdict, kept.number, kept.before, kept.after) == (KEPT, "lost", None, 1, 1)
    assert champions.standing().earlier == (Earlier(f"{champions.name}/2", ("a", "b")),)
    assert champions.known("2 against 1") == kept
    assert champions.known("3 against 1") is None
    assert champions._client.get_run(kept.run_id).data.tags["fuseline.verdict"] == "lost"
    enthrone(champions, 3)
    assert champions.standing().earlier == ()  # of a new champion the count begins anew
    assert [event.number for event in champions.events()] == [2, None, 1]


def test_who_decided_by_what_is_no_longer_so_changes_nothing(champions: Champions) -> None:
    before = champions.standing()
    enthrone(champions, 1)
    with pytest.raises(Moved):
        champions.promote(before, Said(2, "late"))
    after = champions.standing()
    champions.keep(after, Said(2, "lost", verdict(2, 1, passed=False)))
    with pytest.raises(Moved):  # one challenger more was judged on these rows, so that the level is another
        champions.promote(after, Said(3, "won", verdict(3, 1)))
    assert champions.aliases() == {"champion": 1}
    assert len(champions.events()) == 2


def test_force_is_told_with_its_reason(champions: Champions) -> None:
    enthrone(champions, 1)
    lost = verdict(2, 1, passed=False)
    event = champions.promote(champions.standing(), Said(2, "by force", lost, forced="the old one leaks"))
    assert (event.verdict, event.forced) == ("lost", "the old one leaks")
    assert champions.aliases()["champion"] == 2
    unjudged = champions.promote(champions.standing(), Said(3, "by force", forced="no rows"))
    assert unjudged.verdict == "not judged"
    assert champions.verdict(unjudged.run_id) is None


def test_rolling_back_goes_back_step_by_step(champions: Champions) -> None:
    enthrone(champions, 1, 2, 3)
    event = champions.roll_back("it was slow")
    assert event is not None
    assert (event.event, event.before, event.after, event.why) == (ROLLED_BACK, 3, 2, "it was slow")
    assert champions.aliases() == {"champion": 2, "previous": 1}
    champions.roll_back("so was this")
    assert champions.aliases() == {"champion": 1}
    with pytest.raises(UserError, match="no previous champion"):
        champions.roll_back("and this")
    enthrone(champions, 4)
    assert champions.aliases() == {"champion": 4, "previous": 1}
    assert chain(champions.events()) == [(1, None, 1), (2, 1, 2), (3, 2, 3), (4, 3, 2), (5, 2, 1), (6, 1, 4)]


def test_a_first_champion_that_does_not_serve_leaves_its_place_empty(champions: Champions) -> None:
    enthrone(champions, 1)
    champions.roll_back("it does not serve", only=1)
    assert champions.aliases() == {}
    assert chain(champions.events()) == [(1, None, 1), (2, 1, None)]


def test_one_that_is_no_longer_champion_is_not_rolled_back(champions: Champions) -> None:
    enthrone(champions, 1, 2)
    assert champions.roll_back("too late", only=1) is None
    assert champions.aliases() == {"champion": 2, "previous": 1}


@pytest.mark.parametrize("last", ["create_run", "log_dict", "set_registered_model_alias", "set_terminated"])
@pytest.mark.parametrize("rolled_back", [False, True])
def test_what_a_process_that_was_killed_had_told_is_completed(
    champions: Champions, monkeypatch: pytest.MonkeyPatch, last: str, rolled_back: bool
) -> None:
    """Whatever call it was killed behind, the next one finds a history without a gap, and the champion that it ends with."""
    enthrone(champions, 1, 2)
    its = getattr(champions._client, last)

    def dies(*args: Any, **settings: Any) -> None:
        its(*args, **settings)
        raise Killed

    if last == "log_dict" and rolled_back:
        pytest.skip("a step back has no verdict")
    with monkeypatch.context() as patch:
        patch.setattr(champions._client, last, dies)
        with pytest.raises(Killed):
            champions.roll_back("why") if rolled_back else enthrone(champions, 3)
    champions.keep_true()
    after = 1 if rolled_back else 3
    assert champions.aliases()["champion"] == after
    assert chain(champions.events())[-1] == (3, 2, after)
    enthrone(champions, 4)
    assert chain(champions.events())[-1] == (4, after, 4)
    assert champions.aliases() == {"champion": 4, "previous": after}


def test_a_change_of_one_that_others_have_changed_since_is_given_up(
    champions: Champions, monkeypatch: pytest.MonkeyPatch
) -> None:
    enthrone(champions, 1)
    with monkeypatch.context() as patch:
        patch.setattr(champions, "_apply", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            enthrone(champions, 2)
    champions._client.set_registered_model_alias(champions.name, "champion", "4")  # by hand
    champions.keep_true()
    assert champions.aliases() == {"champion": 4}
    assert [event.after for event in champions.events()] == [1]


def test_whom_a_champion_followed_is_known_by_its_last_promotion() -> None:
    def event(before: int | None, after: int, name: str = PROMOTED) -> Event:
        return Event("", 1, 0, name, after, before, after, "", "", "", None, "", ())

    events = [event(3, 2, ROLLED_BACK), event(2, 3), event(4, 2), event(1, 2)]
    assert predecessor(events, 2) == 4
    assert predecessor(events, 9) is None


# ---------------------------------------------------------------------------------------------------------- at once


PROCESSES, ROUNDS = 8, 20
RACE = Path(__file__).with_name("race.py")


def test_of_eight_at_once_in_twenty_rounds_the_best_always_stands_and_the_history_has_no_gap(
    home: Path, database: Path, monkeypatch: pytest.MonkeyPatch, client: Callable[[], Any]
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(RACE), str(PROCESSES), str(ROUNDS)],
        env={**os.environ, "FUSELINE_HOME": str(home)}, cwd=home.parent, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bests = [int(line) for line in done.stdout.split()]
    assert bests == [PROCESSES * (number + 1) for number in range(ROUNDS)]
    its = Champions(load_settings(), "raced")
    changes = chain(its.events())
    assert [number for number, _, _ in changes] == list(range(1, len(changes) + 1))
    assert [before for _, before, _ in changes] == [None, *(after for _, _, after in changes[:-1])]
    assert ROUNDS <= len(changes) <= PROCESSES * ROUNDS
    assert its.aliases() == {"champion": PROCESSES * ROUNDS, "previous": changes[-1][1]}
    statuses = {run.info.status for run in client().search_runs([its._tracker.experiment])}
    assert statuses == {"FINISHED"}


def test_the_registry_and_the_champions_have_one_lock() -> None:
    assert module.registry_lock(Path("home"), "m") == Path("home/locks/registry-m.lock")
