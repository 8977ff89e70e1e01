"""What a timing decides, by a clock that only the timed work moves on; and that it is decided once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseline.store import Store
from fuseline.timing import Decision, decided, fastest

Way = Callable[[], object]


class Clock:
    """Time that passes only while somebody works, and who worked in which order."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def way(self, name: str, *seconds: float) -> Way:
        """Work that takes so long, call by call; the last figure holds for all calls that follow."""
        left = list(seconds)

        def work() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work

    def broken(self, name: str, error: Exception, after: int = 0) -> Way:
        """Work that takes no time, and fails after so many calls."""

        def work() -> None:
            self.calls.append(name)
            if self.calls.count(name) > after:
                raise error

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("fuseline.timing.time.perf_counter", lambda: made.now)
    return made


def test_the_faster_way_is_chosen_after_a_call_to_warm_up(clock: Clock) -> None:
    decision = fastest({"apart": clock.way("apart", 4.0), "stacked": clock.way("stacked", 60.0, 2.0)})
    assert (decision.chosen, decision.seconds) == ("stacked", {"apart": 4.0, "stacked": 2.0})
    assert decision.why == "stacked: 2 s against 4 s apart"


def test_ways_are_timed_in_turns(clock: Clock) -> None:
    fastest({name: clock.way(name, 1.0) for name in "abc"}, rounds=3)
    assert clock.calls == list("abc") * 4


def test_the_median_counts_and_not_the_mean(clock: Clock) -> None:
    decision = fastest({"apart": clock.way("apart", 4.0), "stacked": clock.way("stacked", 9.0, 2.0, 90.0, 2.0, 90.0, 2.0)})
    assert decision.chosen == "stacked"
    assert decision.seconds["stacked"] == 2.0


@pytest.mark.parametrize(("seconds", "chosen"), [(1.0, "plain"), (0.95, "plain"), (0.8, "other"), (1.5, "plain")])
def test_the_plain_way_wins_unless_another_is_faster_by_the_margin(clock: Clock, seconds: float, chosen: str) -> None:
    decision = fastest({"plain": clock.way("plain", 1.0), "other": clock.way("other", seconds)}, margin=1.2)
    assert decision.chosen == chosen
    assert ("not faster by 1.2" in decision.why) == (seconds == 0.95)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6), st.floats(1, 2))
def test_no_way_is_faster_than_the_chosen_by_more_than_the_margin(seconds: list[float], margin: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr("fuseline.timing.time.perf_counter", lambda: clock.now)
        decision = fastest({f"way {i}": clock.way(f"way {i}", s) for i, s in enumerate(seconds)}, rounds=1, margin=margin)
    its = decision.seconds[decision.chosen]
    assert its <= min(decision.seconds.values()) * margin
    assert decision.chosen == "way 0" or its == min(decision.seconds.values()) < decision.seconds["way 0"]


def test_seconds_are_those_of_a_unit_of_work(clock: Clock) -> None:
    ways = {"apart": clock.way("apart", 0.0328), "stacked": clock.way("stacked", 0.0152)}
    decision = fastest(ways, work=8, unit="a member step")
    assert decision.seconds == pytest.approx({"apart": 0.0041, "stacked": 0.0019})
    assert decision.why == "stacked: 1.9 ms a member step against 4.1 ms apart"


@pytest.mark.parametrize("after", [0, 3], ids=["at first", "later"])
def test_a_way_that_fails_is_out(clock: Clock, after: int) -> None:
    error = OSError("there is no compiler\nand more of it")
    ways = {"a": clock.way("a", 3.0), "compiled": clock.broken("compiled", error, after), "b": clock.way("b", 1.0)}
    decision = fastest(ways)
    assert (decision.chosen, decision.seconds) == ("b", {"a": 3.0, "b": 1.0})
    assert decision.why.endswith("; compiled fails (there is no compiler)")
    assert clock.calls.count("compiled") == after + 1


def test_the_next_is_plain_where_the_plain_way_fails(clock: Clock) -> None:
    ways = {"plain": clock.broken("plain", OSError("no")), "b": clock.way("b", 1.0), "c": clock.way("c", 0.95)}
    assert fastest(ways).chosen == "b"


def test_one_way_alone_is_chosen_and_not_timed(clock: Clock) -> None:
    assert fastest({"plain": clock.way("plain", 1.0)}) == Decision(chosen="plain", seconds={}, why="plain: the only way")
    assert clock.calls == []


def test_the_last_that_is_left_is_not_timed_any_more(clock: Clock) -> None:
    decision = fastest({"plain": clock.way("plain", 1.0), "other": clock.broken("other", OSError("no"))})
    assert decision.why == "plain: the only way; other fails (no)"
    assert clock.calls == ["plain", "other"]


def test_where_all_fail_the_first_is_heard(clock: Clock) -> None:
    with pytest.raises(OSError, match="first"):
        fastest({"a": clock.broken("a", OSError("first")), "b": clock.broken("b", ValueError("second"))})


# ---------------------------------------------------------------------------------------------------------------------- kept


def test_a_decision_is_made_once_and_read_again(clock: Clock, store: Store) -> None:
    ways = {"apart": clock.way("apart", 4.0), "stacked": clock.way("stacked", 2.0)}
    first = decided(store, {"spec": "mlp", "members": 8}, ways, rounds=2)
    calls = list(clock.calls)
    assert len(calls) == 6
    slow = {"apart": clock.way("apart", 1.0), "stacked": clock.way("stacked", 9.0)}
    assert decided(Store(store.root), {"members": 8, "spec": "mlp"}, slow, rounds=2) == first
    assert clock.calls == calls
    (file,) = store.root.glob("decision/*/decision.json")
    assert json.loads(file.read_text()) == first.model_dump()


def other_machine(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("fuseline.timing.machine", lambda: {"cpu": "another"})


@pytest.mark.parametrize(
    ("what", "names", "options"),
    [
        ({"spec": "cnn"}, "ab", {"rounds": 1}),
        ({"spec": "mlp"}, "abc", {"rounds": 1}),
        ({"spec": "mlp"}, "ba", {"rounds": 1}),
        ({"spec": "mlp"}, "ab", {"rounds": 1, "margin": 2.0}),
        (None, "ab", {"rounds": 1}),
    ],
    ids=["of something else", "among other ways", "with another plain way", "by another margin", "on another machine"],
)
def test_another_question_is_timed_anew(
    clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch, what: dict[str, Any] | None, names: str, options: dict[str, Any]
) -> None:
    asked = {"spec": "mlp"}
    decided(store, asked, {name: clock.way(name, 1.0) for name in "ab"}, rounds=1)
    clock.calls.clear()
    if what is None:
        other_machine(monkeypatch)
    decided(store, asked if what is None else what, {name: clock.way(name, 1.0) for name in names}, **options)
    assert clock.calls == list(names) * 2


def test_nothing_is_kept_of_a_timing_that_failed(clock: Clock, store: Store) -> None:
    with pytest.raises(OSError, match="no"):
        decided(store, {}, {"a": clock.broken("a", OSError("no")), "b": clock.broken("b", OSError("no"))})
    ways = {"a": clock.way("a", 2.0), "b": clock.way("b", 1.0)}
    assert decided(store, {}, ways).chosen == "b"
