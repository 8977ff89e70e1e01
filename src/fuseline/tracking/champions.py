"""The aliases ``champion`` and ``previous`` of a registered model, and the history of who held them.

Every change is one run of an experiment of its own, and so is every verdict that changed nothing. A change is told before it is
made, and under a lock: what a process that died had told, the next one completes. So the history has no gap, whenever somebody
is killed, and of several who want to change the same thing only one finds it as it was when it decided.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mlflow.entities import Run

from fuseline.errors import FuselineError, UserError
from fuseline.promotion.verdict import Earlier, Verdict
from fuseline.store import home, locked, read_json
from fuseline.tracking import tags
from fuseline.tracking.events import KEPT, KIND, PROMOTED, ROLLED_BACK, Event, Said, event_of, number_of, predecessor
from fuseline.tracking.records import now
from fuseline.tracking.registry import CHAMPION, PREVIOUS, registry_lock
from fuseline.tracking.runs import Tracker
from fuseline.tracking.settings import Experiment, Settings, Tracking
from fuseline.tracking.spool import user

HISTORY = "fuseline-history"
"""The experiment that holds the histories of all models."""

VERDICT = "verdict.json"
NEWEST = 10
"""The last change is among so many, for no more can be told in one millisecond."""


class Moved(FuselineError):  # noqa: N818 (it says what has happened)
    """Somebody else has changed the champion, or has had a challenger judged, since it was looked at."""


class Standing(NamedTuple):
    """The champion's version, and the challengers that it has met."""

    champion: int | None
    earlier: tuple[Earlier, ...] = ()


class Champions:
    """The champions of one registered model."""

    def __init__(self, settings: Settings, name: str) -> None:
        tracking = Tracking(experiment=Experiment(name=HISTORY), artifact_location=settings.tracking.artifact_location)
        self._tracker = Tracker(settings.model_copy(update={"tracking": tracking}), HISTORY, home())
        self._client, self.name = self._tracker.client, name

    # ------------------------------------------------------------------------------------------------- looking

    def aliases(self) -> dict[str, int]:
        return {alias: int(version) for alias, version in self._client.get_registered_model(self.name).aliases.items()}

    def standing(self) -> Standing:
        """How things are now, to be given back with what is done about it."""
        champion = self.aliases().get(CHAMPION)
        return Standing(champion, tuple(self._earlier(champion)))

    def events(self) -> list[Event]:
        """The history, the newest first."""
        return [event_of(run) for run in self._runs("attributes.status = 'FINISHED'")]

    def known(self, judged: str) -> Event | None:
        """The last event in which something was judged."""
        found = self._runs(f"attributes.status = 'FINISHED' and tags.`{tags.JUDGED}` = '{judged}'")
        return event_of(found[0]) if found else None

    # ------------------------------------------------------------------------------------------------ changing

    def promote(self, standing: Standing, said: Said) -> Event:
        """Let the challenger become the champion, and the champion the ``previous`` one.

        Raises:
            Moved: nothing was done, since something has changed meanwhile.
        """
        with self._alone(standing):
            return self._change(PROMOTED, standing.champion, said.challenger, standing.champion, said)

    def keep(self, standing: Standing, said: Said) -> Event:
        """Record a verdict that changes nothing.

        Raises:
            Moved: as for :meth:`promote`.
        """
        with self._alone(standing):
            run_id = self._tell(KEPT, standing.champion, standing.champion, None, said)
            self._client.set_terminated(run_id, "FINISHED")
            return self._read(run_id)

    def roll_back(self, why: str, only: int | None = None) -> Event | None:
        """Let the ``previous`` champion be the champion again, and the one before it the ``previous`` one.

        Args:
            only: if this version is still the champion; else nothing is done. A first champion leaves its place empty then.

        Raises:
            UserError: there is no previous one.
        """
        with self._alone():
            held, events = self.aliases(), self.events()
            champion, back = held.get(CHAMPION), held.get(PREVIOUS)
            if champion is None or (back is None and only is None):
                raise UserError(f"the model {self.name!r} has no previous champion to go back to.")
            if only not in (None, champion):
                return None
            if only is not None:
                back = predecessor(events, champion)
            return self._change(ROLLED_BACK, champion, back, predecessor(events, back), Said(champion, why))

    # ----------------------------------------------------------------------------------------------- under the lock

    @contextmanager
    def _alone(self, standing: Standing | None = None) -> Iterator[None]:
        """Hold the lock of the model's aliases, with nothing left half done."""
        with locked(registry_lock(home(), self.name)):
            self._settle()
            if standing is not None and self.standing() != standing:
                raise Moved(f"the champion of {self.name!r} was changed, or another challenger was judged, meanwhile")
            yield

    def _settle(self) -> None:
        """Complete what a process that died had told."""
        for run in self._runs("attributes.status = 'RUNNING'"):
            event = event_of(run)
            if event.event == KEPT or self.aliases().get(CHAMPION) not in (event.before, event.after):
                self._client.set_terminated(event.run_id, "FAILED")
                continue
            self._apply(event.after, number_of(run.data.tags.get(tags.PREVIOUS)))
            self._client.set_terminated(event.run_id, "FINISHED")

    def keep_true(self) -> None:
        """Complete what a process that died had told."""
        with self._alone():
            pass

    def _change(self, event: str, before: int | None, after: int | None, previous: int | None, said: Said) -> Event:
        run_id = self._tell(event, before, after, previous, said)
        self._apply(after, previous)
        self._client.set_terminated(run_id, "FINISHED")
        return self._read(run_id)

    def _apply(self, champion: int | None, previous: int | None) -> None:
        held = self.aliases()
        for alias, version in ((PREVIOUS, previous), (CHAMPION, champion)):
            if version is not None:
                self._client.set_registered_model_alias(self.name, alias, str(version))
            elif alias in held:
                self._client.delete_registered_model_alias(self.name, alias)

    def _tell(self, event: str, before: int | None, after: int | None, previous: int | None, said: Said) -> str:
        verdict = said.verdict
        number = None if event == KEPT else 1 + self._last()
        its = {
            tags.KIND: KIND,
            tags.MODEL: self.name,
            tags.EVENT: event,
            tags.NUMBER: number,
            tags.CHALLENGER: said.challenger,
            tags.BEFORE: before,
            tags.AFTER: after,
            tags.PREVIOUS: previous,
            tags.WHO: f"{user()}@{socket.gethostname()}",
            tags.WHY: said.why[: tags.LONGEST],
            tags.VERDICT: said.word,
            tags.FORCED: said.forced,
            tags.JUDGED: said.judged or None,
            tags.SKETCH: None if verdict is None else " ".join(verdict.sketch) or None,
        }
        told = {name: str(value) for name, value in its.items() if value is not None}
        title = f"{self.name} {event} {said.challenger}"
        run_id = str(self._client.create_run(self._tracker.experiment, now(), {**told, "mlflow.user": user()}, title).info.run_id)
        if verdict is not None:
            self._client.log_dict(run_id, verdict.model_dump(mode="json"), VERDICT)
            self._client.log_text(run_id, verdict.text(), "verdict.txt")
        return run_id

    # ------------------------------------------------------------------------------------------------- reading

    def _earlier(self, champion: int | None) -> Iterator[Earlier]:
        if champion is None:
            return
        for run in self._runs(f"attributes.status = 'FINISHED' and tags.`{tags.BEFORE}` = '{champion}'"):
            event = event_of(run)
            if event.sketch:
                yield Earlier(f"{self.name}/{event.challenger}", event.sketch)

    def _last(self) -> int:
        """The number of the last change."""
        newest = self._runs(f"attributes.status = 'FINISHED' and tags.`{tags.NUMBER}` LIKE '%'", NEWEST)
        return max((event_of(run).number or 0 for run in newest), default=0)

    def _runs(self, text: str, most: int | None = None) -> list[Run]:
        """The runs of this model's history that meet a condition, the newest first."""
        wanted = f"tags.`{tags.KIND}` = '{KIND}' and tags.`{tags.MODEL}` = '{self.name}' and {text}"
        found: list[Run] = []
        page = None
        while True:
            order = ["attributes.start_time DESC"]
            some = self._client.search_runs(
                [self._tracker.experiment], wanted, max_results=most or 1000, order_by=order, page_token=page
            )
            found += some
            page = some.token
            if not page or most is not None:
                return sorted(found, key=lambda run: (run.info.start_time, event_of(run).number or 0), reverse=True)

    def _read(self, run_id: str) -> Event:
        return event_of(self._client.get_run(run_id))

    def tag(self, version: int, name: str, value: str) -> None:
        """Say something of a version itself."""
        self._client.set_model_version_tag(self.name, str(version), name, value)

    def verdict(self, run_id: str) -> Verdict | None:
        """The verdict of an event, line by line; None if the gate was not asked."""
        if not any(file.path == VERDICT for file in self._client.list_artifacts(run_id)):
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Verdict.model_validate(read_json(Path(self._client.download_artifacts(run_id, VERDICT, folder))))
