"""From a version to the champion, with a judge that says what the test wants; the real one is in tests/flows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from fuseline.errors import FuselineError, PackageError, UserError
from fuseline.promotion.verdict import Check, Measured, Verdict, decided
from fuseline.tracking import promote as module
from fuseline.tracking.champions import Champions
from fuseline.tracking.promote import Outcome, after_all, history, promote, roll_back, settled
from fuseline.tracking.settings import Settings, load_settings
from fuseline.tracking.tags import PLAN


class Court:
    """A model whose versions are as good as their numbers say, and what is asked of the judge."""

    def __init__(self, champions: Champions, name: str) -> None:
        self.champions, self.name, self.plan = champions, name, Path("plan")
        self.worth = {1: 10, 2: 5, 3: 20, 4: 30}
        self.asked: list[tuple[str, str | None, int]] = []
        self.broken: set[int] = set()
        self.meanwhile: list[Callable[[], object]] = []

    def apart(self, function: str, *given: Any) -> Any:
        if function.endswith(":differs"):
            number = int(given[0].name)
            return "it says something else of 'kind' than when it was judged" if number in self.broken else None
        _, challenger, champion, earlier, _ = given
        self.asked.append((challenger.name, None if champion is None else champion.name, len(earlier)))
        while self.meanwhile:
            self.meanwhile.pop()()
        old = -1 if champion is None else self.worth[int(champion.package.name)]
        passed = self.worth[int(challenger.package.name)] > old
        check = Check.of("kind: gain of accuracy", "gain > 0", Measured(0.1), passed, "the gain is 0.1")
        against = None if champion is None else champion.name
        return decided(challenger.name, against, [check], sketch=["a"]).model_dump(mode="json")

    @property
    def settings(self) -> Settings:
        return load_settings()

    def promote(self, version: int, reason: str | None = None) -> Outcome:
        return promote(self.settings, self.name, version, reason)

    def events(self) -> list[tuple[str, int | None, int | None]]:
        return [(its.event, its.before, its.after) for its in reversed(history(self.settings, self.name))]


@pytest.fixture
def court(common_tracker: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Court:
    monkeypatch.setenv("FUSELINE_HOME", str(common_tracker.home))
    monkeypatch.chdir(common_tracker.home.parent)
    name = request.node.name.replace("[", "-").replace("]", "")
    champions = Champions(load_settings(), name)
    champions._client.create_registered_model(name)
    for number in range(1, 5):
        champions._client.create_model_version(name, "file:///nowhere", tags={PLAN: f"plan of {number}"})
    its = Court(champions, name)
    monkeypatch.setattr(module, "apart", its.apart)
    monkeypatch.setattr(module, "_plan", lambda version: its.plan)
    monkeypatch.setattr(
        module, "fetch", lambda settings, reference, folder: SimpleNamespace(package=folder / reference.rpartition("/")[2])
    )
    return its


def test_the_first_the_better_and_the_worse(court: Court) -> None:
    first, worse, better = court.promote(1), court.promote(2), court.promote(3)
    assert [its.state for its in (first, worse, better)] == ["promoted", "kept", "promoted"]
    assert [its.champion for its in (first, worse, better)] == [1, 1, 3]
    assert court.asked == [
        (f"{court.name}/{v}", c and f"{court.name}/{c}", e) for v, c, e in ((1, None, 0), (2, 1, 0), (3, 1, 1))
    ]
    assert court.events() == [("promoted", None, 1), ("kept", 1, 1), ("promoted", 1, 3)]
    assert worse.text().splitlines()[0].startswith("NO ")
    tags = court.champions._client.get_model_version(court.name, "2").tags
    assert tags["verdict"] == f"not promoted: {worse.why}"


def test_the_champion_is_not_judged_against_itself(court: Court) -> None:
    court.promote(1)
    again = court.promote(1)
    assert (again.state, again.champion, again.verdict) == ("kept", 1, None)
    assert len(court.asked) == 1


def test_force_sets_the_gate_aside_and_says_why(court: Court) -> None:
    court.promote(1)
    forced = court.promote(2, "the old one leaks")
    assert (forced.state, forced.champion) == ("promoted", 2)
    assert forced.verdict is not None
    assert Verdict.model_validate(forced.verdict).passed is False
    newest = history(court.settings, court.name)[0]
    assert (newest.forced, newest.verdict) == ("the old one leaks", "lost")


def test_a_reason_is_no_force_where_the_gate_says_yes(court: Court) -> None:
    court.promote(1, "first of all")
    assert history(court.settings, court.name)[0].forced is None


def test_without_its_test_rows_a_version_is_not_judged_but_by_force(court: Court) -> None:
    court.plan = None  # type: ignore[assignment]
    with pytest.raises(UserError, match="run its recipe here again"):
        court.promote(1)
    assert court.events() == []
    assert court.promote(1, "I know it").champion == 1
    newest = history(court.settings, court.name)[0]
    assert (newest.verdict, newest.forced) == ("not judged", "I know it")


def test_a_package_that_is_refused_is_never_promoted(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PackageError("m/1: the package is refused")

    monkeypatch.setattr(module, "fetch", refuse)
    for reason in (None, "whatever"):
        with pytest.raises(PackageError):
            court.promote(1, reason)
    assert court.events() == []
    assert court.champions.aliases() == {}


def test_a_champion_whose_package_is_refused_is_followed_by_force_alone(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    court.promote(1)
    its = module.fetch

    def refuse(settings: Any, reference: str, folder: Path) -> Any:
        if reference.endswith("/1"):
            raise PackageError("m/1: the package is refused")
        return its(settings, reference, folder)

    monkeypatch.setattr(module, "fetch", refuse)
    with pytest.raises(PackageError):
        court.promote(3)
    forced = court.promote(3, "the old one was damaged")
    assert (forced.state, forced.champion) == ("promoted", 3)


def test_a_champion_that_does_not_serve_is_rolled_back_at_once(court: Court) -> None:
    court.promote(1)
    court.broken = {3}
    outcome = court.promote(3)
    assert (outcome.state, outcome.champion) == ("kept", 1)
    assert "something else of 'kind'" in outcome.why
    assert court.events() == [("promoted", None, 1), ("promoted", 1, 3), ("rolled back", 3, 1)]
    assert court.champions.aliases() == {"champion": 1}
    known = settled(court.settings, court.name, 3)
    assert known is not None
    assert "was rolled back" in known.why
    assert "only fuseline promote" in known.why


@pytest.mark.parametrize(("late", "early"), [(3, 4), (4, 3)])
def test_of_two_candidates_the_better_one_stays_whatever_the_order(court: Court, late: int, early: int) -> None:
    """The second is promoted while the first is being judged."""
    court.promote(1)
    court.meanwhile = [lambda: court.promote(early)]
    outcome = court.promote(late)
    assert court.champions.aliases()["champion"] == 4
    assert outcome.state == ("promoted" if late == 4 else "kept")
    assert court.asked[-1] == (f"{court.name}/{late}", f"{court.name}/{early}", 0)


def test_what_is_known_is_not_judged_again(court: Court) -> None:
    assert settled(court.settings, court.name, 1) is None
    court.promote(1)
    court.promote(2)
    first, second = (settled(court.settings, court.name, version) for version in (1, 2))
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == ("kept", "kept")
    assert "already" in first.why
    assert "not judged again" in second.why
    court.promote(3)  # another champion is another question
    assert settled(court.settings, court.name, 2) is None
    court.champions._client.set_model_version_tag(court.name, "2", PLAN, "another")
    assert settled(court.settings, court.name, 2) is None


def test_what_others_did_is_read_from_the_history(court: Court) -> None:
    assert after_all(court.settings, court.name, 1, 0).state == "waiting"
    court.promote(1)
    court.promote(2)
    won, lost = (after_all(court.settings, court.name, version, 0) for version in (1, 2))
    assert (won.state, won.champion, lost.state, lost.champion) == ("promoted", 1, "kept", 1)
    assert lost.verdict is not None
    assert "NO " in lost.text()
    assert after_all(court.settings, court.name, 2, 2**62).state == "waiting"


def test_back_again(court: Court) -> None:
    with pytest.raises(UserError):
        roll_back(court.settings, court.name, "why")
    court.promote(1)
    court.promote(3)
    event = roll_back(court.settings, court.name, "why")
    assert (event.before, event.after, event.why) == (3, 1, "why")


def test_what_is_not_there_is_named(court: Court) -> None:
    with pytest.raises(UserError, match="nobody"):
        history(court.settings, "nobody")
    with pytest.raises(UserError, match="9"):
        court.promote(9)
    with pytest.raises(UserError, match="nobody"):
        roll_back(court.settings, "nobody", "why")


def test_an_mlflow_that_is_away_is_one_sentence(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise MlflowException("no answer from http://me:secret@host")

    monkeypatch.setattr(module, "resolve", away)
    with pytest.raises(FuselineError, match="can't be asked") as error:
        court.promote(1)
    assert "secret" not in str(error.value)
