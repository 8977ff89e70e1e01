"""What happens to the champions of a model, as the entries of its history: each is a run in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import Run

from fuseline.promotion.verdict import Verdict
from fuseline.tracking import tags

KIND = "history"
PROMOTED, KEPT, ROLLED_BACK = "promoted", "kept", "rolled back"


@dataclass(frozen=True)
class Said:
    """Why something is done.

    Attributes:
        challenger: the version that it is about.
        verdict: what the gate said; None if it was not asked.
        forced: the reason that was given for not going by it.
        judged: the hash of what was judged, so that the same is not judged again.
    """

    challenger: int
    why: str
    verdict: Verdict | None = None
    forced: str | None = None
    judged: str = ""

    @property
    def word(self) -> str:
        if self.verdict is None:
            return "not judged"
        return "first" if self.verdict.passed and self.verdict.champion is None else "won" if self.verdict.passed else "lost"


@dataclass(frozen=True)
class Event:
    """An entry of the history; changes are numbered, 1, 2, 3, …, and verdicts that changed nothing are not."""

    run_id: str
    number: int | None
    at: int
    event: str
    challenger: int
    before: int | None
    after: int | None
    who: str
    why: str
    verdict: str
    forced: str | None
    judged: str
    sketch: tuple[str, ...]

    def tree(self) -> dict[str, Any]:
        """For ``--json``."""
        when = datetime.fromtimestamp(self.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        own = {name: value for name, value in vars(self).items() if name not in ("at", "sketch", "judged", "before", "after")}
        return {"when": when, **own, "from": self.before, "to": self.after}


def event_of(run: Run) -> Event:
    """An entry, as its run holds it."""
    its = run.data.tags
    return Event(
        run_id=str(run.info.run_id),
        number=number_of(its.get(tags.NUMBER)),
        at=int(run.info.start_time),
        event=its[tags.EVENT],
        challenger=int(its[tags.CHALLENGER]),
        before=number_of(its.get(tags.BEFORE)),
        after=number_of(its.get(tags.AFTER)),
        who=its.get(tags.WHO, ""),
        why=its.get(tags.WHY, ""),
        verdict=its.get(tags.VERDICT, ""),
        forced=its.get(tags.FORCED),
        judged=its.get(tags.JUDGED, ""),
        sketch=tuple(its.get(tags.SKETCH, "").split()),
    )


def number_of(text: str | None) -> int | None:
    return int(text) if text else None


def predecessor(events: Sequence[Event], champion: int | None) -> int | None:
    """Whom a champion followed when it was promoted last; ``events`` are the newest first."""
    return next((its.before for its in events if its.event == PROMOTED and its.after == champion), None)
