"""From a registered version to the champion: fetch and verify, judge, change the aliases, and look whether it serves.

What is judged is what was registered: both packages are fetched into a private folder, verified, and run in a process apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mlflow.exceptions import MlflowException

from fuseline.apart import apart
from fuseline.errors import FuselineError, UserError, first_line
from fuseline.planned import Planned
from fuseline.promotion.verdict import Contestant, Verdict
from fuseline.store import Store, content_key
from fuseline.tracking import tags
from fuseline.tracking.champions import Champions, Moved, Standing
from fuseline.tracking.client import connected
from fuseline.tracking.deliver import without_secrets
from fuseline.tracking.events import PROMOTED, ROLLED_BACK, Event, Said
from fuseline.tracking.registry import CHAMPION
from fuseline.tracking.settings import Settings
from fuseline.tracking.versions import Resolved, fetch, resolve

ATTEMPTS = 50
"""So often a version is judged anew because another one was faster."""

State = Literal["waiting", "promoted", "kept", "manual"]


@dataclass(frozen=True)
class Outcome:
    """What became of a version: ``waiting`` if that is yet to be seen, ``manual`` if the recipe leaves it to others.

    Attributes:
        why: a sentence.
        verdict: what the gate said, as a tree, if it was asked.
        champion: the champion's version afterwards.
    """

    name: str
    version: int | None
    state: State
    why: str
    verdict: dict[str, Any] | None = None
    champion: int | None = None

    @property
    def tree(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """The verdict line by line, if there is one, and what became of it."""
        lines = [] if self.verdict is None else [Verdict.model_validate(self.verdict).text()]
        return "\n".join([*lines, self.why])


def promote(settings: Settings, name: str, version: int, reason: str | None = None) -> Outcome:
    """Judge a version against the champion of now, and let it take its place if it passes; with a reason, whatever the gate says.

    Raises:
        UserError: there is no such version, or its test rows are not in the store here.
        PackageError: a package is not what was registered.
        FuselineError: MLflow can't be reached.
    """
    with _reached(settings):
        its = resolve(settings, f"{name}/{version}")
        champions = Champions(settings, name)
        for _ in range(ATTEMPTS):
            standing = champions.standing()
            if standing.champion == version:
                return _is_champion(name, version)
            try:
                return _decide(settings, champions, standing, its, reason)
            except Moved:
                continue
    raise FuselineError(f"{name}/{version}: the champion was changed by others again and again; try once more.")


def settled(settings: Settings, name: str, version: int) -> Outcome | None:
    """What is known of a version without judging it: it is the champion, was rolled back, or was judged before against this
    champion on the same rows."""
    with _reached(settings):
        its, champions = resolve(settings, f"{name}/{version}"), Champions(settings, name)
        champion = champions.aliases().get(CHAMPION)
        if champion == version:
            return _is_champion(name, version)
        left = next((its for its in champions.events() if its.number is not None and its.before == version), None)
        if left is not None and left.event == ROLLED_BACK:
            why = f"{name}/{version} was rolled back ({left.why}), so that only fuseline promote can bring it back"
            return Outcome(name, version, "kept", why, champion=champion)
        before = champions.known(_asked(its, champion))
        if before is None:
            return None
        why = f"{name}/{version} was judged against {_named(name, champion)} before, and is not judged again: {before.why}"
        return Outcome(name, version, "kept", why, champion=champion)


def after_all(settings: Settings, name: str, version: int, since: int) -> Outcome:
    """What became of a version that somebody else was asked to judge, by the history since a time in milliseconds since 1970."""
    with _reached(settings):
        champions = Champions(settings, name)
        champion = champions.aliases().get(CHAMPION)
        mine = [its for its in champions.events() if its.challenger == version and its.at >= since]
        if not mine and champion == version:
            return _is_champion(name, version)
        if not mine:
            return Outcome(name, version, "waiting", "its history says nothing of it yet.", champion=champion)
        verdict = next((found for its in mine if (found := champions.verdict(its.run_id)) is not None), None)
        tree = None if verdict is None else verdict.model_dump(mode="json")
        return Outcome(name, version, "promoted" if mine[0].event == PROMOTED else "kept", mine[0].why, tree, champion)


def roll_back(settings: Settings, name: str, reason: str) -> Event:
    """Let the previous champion be the champion again.

    Raises:
        UserError: there is no such model, or no previous champion.
    """
    with _reached(settings):
        resolve(settings, f"{name}@{CHAMPION}")
        event = Champions(settings, name).roll_back(reason)
        assert event is not None, "it was to be rolled back whoever the champion is"
        return event


def history(settings: Settings, name: str) -> list[Event]:
    """What happened to a model's champions, the newest first.

    Raises:
        UserError: there is no such model.
    """
    with _reached(settings):
        try:
            connected(settings).get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"no model {name!r} is registered.") from None
        champions = Champions(settings, name)
        champions.keep_true()
        return champions.events()


def _is_champion(name: str, version: int) -> Outcome:
    return Outcome(name, version, "kept", f"{name}/{version} is the champion already.", champion=version)


def _named(name: str, champion: int | None) -> str:
    return "nobody" if champion is None else f"{name}/{champion}"


def _decide(settings: Settings, champions: Champions, standing: Standing, its: Resolved, reason: str | None) -> Outcome:
    """Judge a version against a champion, and do what follows.

    Raises:
        Moved: meanwhile something has changed.
    """
    name, judged = f"{its.name}/{its.version}", _asked(its, standing.champion)
    with tempfile.TemporaryDirectory() as private:
        said, plan, verdict = Path(private) / "said.npz", _plan(its), None
        challenger = Contestant(
            name, fetch(settings, name, Path(private) / "challenger").package
        )  # if it is refused, force won't help
        try:
            verdict = _judged(settings, standing, challenger, Path(private), plan, said)
        except FuselineError:
            if reason is None:
                raise
        if verdict is not None and not verdict.passed and reason is None:
            champions.keep(standing, Said(its.version, verdict.why, verdict, judged=judged))
            champions.tag(its.version, "verdict", f"not promoted: {verdict.why}")
            return Outcome(its.name, its.version, "kept", verdict.why, verdict.model_dump(mode="json"), standing.champion)
        forced = reason if verdict is None or not verdict.passed else None
        why = f"{name} is promoted by force: {reason}" if forced is not None or verdict is None else verdict.why
        champions.promote(standing, Said(its.version, why, verdict, forced, judged))
        champions.tag(its.version, "verdict", f"promoted: {why}")
        tree = None if verdict is None else verdict.model_dump(mode="json")
        fault = _fault(settings, name, Path(private) / "again", plan, said)
        if fault is None:
            return Outcome(its.name, its.version, "promoted", why, tree, its.version)
        why = f"{name} was promoted, but does not serve ({fault}), and was rolled back"
        champions.roll_back(why, only=its.version)
        champions.tag(its.version, "verdict", f"rolled back: {fault}")
        return Outcome(its.name, its.version, "kept", f"{why}.", tree, champions.aliases().get(CHAMPION))


def _judged(
    settings: Settings, standing: Standing, challenger: Contestant, private: Path, plan: Path | None, said: Path
) -> Verdict:
    """What the gate says."""
    if plan is None:
        text = f"the test rows of {challenger.name} are not in the store here"
        raise UserError(f"{text}; run its recipe here again, which brings them back.")
    champion = None
    if standing.champion is not None:
        name = f"{challenger.name.rpartition('/')[0]}/{standing.champion}"
        champion = Contestant(name, fetch(settings, name, private / "champion").package)
    tree = apart("fuseline.package.contest:hold", plan, challenger, champion, standing.earlier, said)
    return Verdict.model_validate(tree)


def _fault(settings: Settings, name: str, private: Path, plan: Path | None, said: Path) -> str | None:
    """Why what is registered as the champion, fetched anew, does not say what it said when it was judged."""
    try:
        package = fetch(settings, name, private).package
        fault: str | None = apart("fuseline.package.contest:differs", package, plan, said)
    except Exception as error:  # whatever it is: it does not serve
        return first_line(error)
    return fault


def _plan(its: Resolved) -> Path | None:
    """The folder of the plan that names a version's test rows, if the store has it with its data."""
    key, store = its.tags.get(tags.PLAN), Store()
    if key is None or (folder := store.find("plan", key)) is None:
        return None
    try:
        return folder if store.find("data", Planned.open(folder).data) is not None else None
    except (OSError, ValueError):
        return None


def _asked(its: Resolved, champion: int | None) -> str:
    """What the verdict on a version against a champion hangs on: the plan names the test rows, the gate and the guards."""
    return content_key(version=its.version, champion=champion, plan=its.tags.get(tags.PLAN))


@contextmanager
def _reached(settings: Settings) -> Iterator[None]:
    """One sentence for what MLflow can't do."""
    try:
        yield
    except MlflowException as error:
        uri = without_secrets(settings.server.mlflow_tracking_uri)
        text = f"MLflow at {uri} can't be asked ({without_secrets(first_line(error))})"
        raise FuselineError(f"{text}; see that it runs, and that mlflow.yml names the right one.") from None
