"""What becomes of a trained version: who judges it, and what keeps it from being judged."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from fuseline.errors import PackageError
from fuseline.planned import Planned
from fuseline.tracking.promote import Outcome
from tasks import promotion as module
from tasks.promotion import DEPLOYMENT, promote_trained, promote_version, shown

WON = Outcome("flowers", 7, "promoted", "it won", champion=7)


@pytest.fixture
def asked(stages: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the task where version 7 was registered, and give the outcome and what was asked of whom."""
    calls: list[Any] = []
    its = {"registered": 7, "settled": None, "deployed": False, "promote": WON, "manual": False}

    def promote(settings: Any, *given: Any) -> Outcome:
        calls.append(("promote", *given))
        if isinstance(its["promote"], Exception):
            raise its["promote"]
        return its["promote"]

    monkeypatch.setattr(module, "registered", lambda run: its["registered"])
    monkeypatch.setattr(module, "settled", lambda settings, name, version: its["settled"])
    monkeypatch.setattr(module, "is_deployed", lambda: its["deployed"])
    monkeypatch.setattr(module, "promote", promote)
    monkeypatch.setattr(
        module, "run_deployment", lambda name, **given: calls.append((name, given["parameters"], given["timeout"]))
    )
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))

    def go(**changes: Any) -> tuple[Outcome, list[Any]]:
        its.update(changes)
        if its["manual"]:
            plan = Planned.open(stages.plan.folder)
            registry = plan.recipe.registry.model_copy(update={"promote": "manual"})
            changed = Planned(**(vars(plan) | {"recipe": plan.recipe.model_copy(update={"registry": registry})}))
            monkeypatch.setattr(module.Planned, "open", lambda folder: changed)
        return promote_trained.fn(stages.plan, stages.run), calls

    return go


def test_it_is_judged_at_once(asked: Any) -> None:
    assert asked() == (WON, [("promote", "flowers", 7)])


def test_what_is_known_is_not_asked_again(asked: Any) -> None:
    known = Outcome("flowers", 7, "kept", "it is the champion already")
    assert asked(settled=known) == (known, [])


def test_a_team_has_it_judged_by_its_deployment(asked: Any) -> None:
    outcome, calls = asked(deployed=True)
    assert calls == [(DEPLOYMENT, {"name": "flowers", "version": 7}, 0)]
    assert outcome.state == "waiting"
    assert "fuseline history flowers" in outcome.why


def test_by_hand_means_that_nobody_is_asked(asked: Any) -> None:
    outcome, calls = asked(manual=True, registered=None)
    assert (outcome.state, calls) == ("manual", [])


def test_without_mlflow_it_waits(asked: Any) -> None:
    outcome, calls = asked(registered=None)
    assert (outcome.state, calls) == ("waiting", [])
    assert "next run of the recipe" in outcome.why


def test_what_keeps_it_from_being_judged_does_not_end_the_run(asked: Any) -> None:
    outcome, _ = asked(promote=PackageError("the champion's package is refused"))
    assert (outcome.state, outcome.version) == ("waiting", 7)
    assert "refused" in outcome.why


def test_by_command_it_is_judged_whatever_is_known(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, calls = asked()
    assert promote_version.fn("flowers", 7, "because") == WON
    assert calls[-1] == ("promote", "flowers", 7, "because")


def test_a_verdict_is_shown_on_prefects_page(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(module, "create_markdown_artifact", lambda text, **given: seen.append((text, given)))
    verdict = {"challenger": "My_m/2", "champion": None, "passed": True, "why": "it passes.", "checks": []}
    shown(Outcome("My_m", 2, "promoted", "it passes.", verdict, 2))
    shown(WON)
    [(text, given)] = seen
    assert "promote: it passes." in text
    assert given["key"] == "verdict-my-m"
