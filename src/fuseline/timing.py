"""What a timing decides: which of several ways to do the same thing is the fastest here. It is decided once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from fuseline.component import Part
from fuseline.devices import machine
from fuseline.errors import first_line
from fuseline.store import Store, content_key, read_json, write_json

Candidates = Mapping[str, Callable[[], object]]
"""Ways to do the same work, the plain one first. A call ends when the work is done (on a GPU it synchronises); what must be built
or compiled is built in the first call, which is not timed."""


class Decision(Part):
    """The way that was chosen, the median seconds of each way that was timed, and why, in a sentence."""

    chosen: str
    seconds: dict[str, float]
    why: str


def fastest(candidates: Candidates, rounds: int = 5, margin: float = 1.1, *, work: int = 1, unit: str = "") -> Decision:
    """Time some ways in turns, after one call each to warm up, and choose the fastest by the median of ``rounds`` calls.

    The first way is the plain one: another is chosen only if it is faster by the factor ``margin``. A way that fails is out, and
    the next plain one takes its place. Where one way is left, it is chosen and not timed.

    Args:
        work: how many units of work a call does; the seconds are those of one.
        unit: what such a unit is called, like "a member step".

    Raises:
        Exception: every way failed; this is what the first said.
    """
    errors: dict[str, Exception] = {}
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name in list(taken):
            if len(candidates) == 1:
                break
            start = time.perf_counter()
            try:
                candidates[name]()
            except Exception as error:  # whatever it is, this way is no good here
                errors[name] = error
                del taken[name]
            else:
                taken[name] += [time.perf_counter() - start] if number else []
        if len(taken) < 2:
            break
    if not taken:
        raise errors[next(iter(candidates))]
    seconds = {name: median(times) / work for name, times in taken.items() if times}
    chosen = plain = next(iter(taken))
    if len(seconds) > 1:
        quickest = min(seconds, key=seconds.__getitem__)
        chosen = quickest if seconds[plain] > margin * seconds[quickest] else plain
    return Decision(chosen=chosen, seconds=seconds, why=_why(chosen, seconds, margin, unit, errors))


def decided(store: Store, what: Mapping[str, Any], candidates: Candidates, **options: Any) -> Decision:
    """The same, decided once for this machine and kept in the store; whoever asks again, now or later, gets the same answer.

    Args:
        what: all that the decision is about, as for :func:`fuseline.store.content_key`.
        options: as for :func:`fastest`.
    """

    def build(folder: Path) -> None:
        write_json(folder / "decision.json", fastest(candidates, **options))

    key = content_key(what=dict(what), ways=list(candidates), options=options, machine=machine())
    place, _ = store.make("decision", key, build)
    return Decision.model_validate(read_json(place / "decision.json"))


def _why(chosen: str, seconds: Mapping[str, float], margin: float, unit: str, errors: Mapping[str, Exception]) -> str:
    """One sentence.

    >>> _why("stacked", {"apart": 0.0041, "stacked": 0.0019}, 1.1, "a member step", {})
    'stacked: 1.9 ms a member step against 4.1 ms apart'
    >>> _why("apart", {"apart": 0.0041, "stacked": 0.004}, 1.1, "", {"compiled": OSError("there is no compiler")})
    'apart: 4.1 ms against 4 ms stacked, which is not faster by 1.1; compiled fails (there is no compiler)'
    """
    failed = "".join(f"; {name} fails ({first_line(error)})" for name, error in errors.items())
    if chosen not in seconds:
        return f"{chosen}: the only way{failed}"
    others = ", ".join(f"{_readable(s)} {name}" for name, s in seconds.items() if name != chosen)
    mine = f"{_readable(seconds[chosen])} {unit}".strip()
    quicker = ", which is not faster by " + f"{margin:g}" if min(seconds.values()) < seconds[chosen] else ""
    return f"{chosen}: {mine} against {others}{quicker}{failed}"


def _readable(seconds: float) -> str:
    """
    >>> [_readable(s) for s in (2.5, 0.0312, 45e-6)]
    ['2.5 s', '31 ms', '45 µs']
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-6:.2g} µs"
