"""What runs name of the store, so that it is not garbage: those that MLflow knows, and those that it has yet to be told of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlflow.entities import ViewType

from fuseline.errors import UserError, first_line
from fuseline.tracking.client import connected, missing_database
from fuseline.tracking.settings import Settings
from fuseline.tracking.spool import root, spooled_entries
from fuseline.tracking.tags import KEY, KIND, tagged_entries


def named_entries(settings: Settings) -> set[tuple[str, str]]:
    """The kind and key of each entry that a training run names which is not deleted, whatever became of it; its plan at least.

    Raises:
        UserError: what is named can't be told, or MLflow has no run at all, as where it is not the one that the runs went to.
    """
    try:
        waiting = spooled_entries()  # first: what is delivered meanwhile, MLflow knows
    except (OSError, ValueError) as error:
        raise _unknown(f"a run's records in {root()} can't be read ({first_line(error)})", "remove what is damaged") from None
    return waiting | {entry for tags in _training_runs(settings) for entry in _entries(tags)}


def _training_runs(settings: Settings) -> list[dict[str, str]]:
    """The tags of all training runs."""
    remedy = "see that mlflow.yml names the MLflow that the runs went to"
    uri = settings.server.mlflow_tracking_uri
    if (database := missing_database(settings)) is not None:
        raise _unknown(f"there is no MLflow database {database}", remedy)
    try:
        client = connected(settings)
        experiments = [experiment.experiment_id for experiment in _all(client.search_experiments)]
        wanted = (experiments, f"tags.`{KIND}` = 'train'", ViewType.ACTIVE_ONLY)
        runs = list(_all(client.search_runs, *wanted)) if experiments else []
    except Exception as error:  # whatever it is: who is not told what is needed must not remove anything
        raise _unknown(f"MLflow at {uri} can't be asked ({first_line(error)})", remedy) from None
    if not runs:
        raise _unknown(f"MLflow at {uri} knows no training run", remedy)
    return [run.data.tags for run in runs]


def _unknown(why: str, remedy: str) -> UserError:
    return UserError(f"{why}, so it is not known what is needed, and nothing is removed; {remedy}.")


def _all(search: Any, *args: Any) -> Iterator[Any]:
    """All that a search finds, page by page."""
    page = search(*args)
    yield from page
    while page.token:
        page = search(*args, page_token=page.token)
        yield from page


def _entries(tags: dict[str, str]) -> Iterator[tuple[str, str]]:
    if KEY in tags:
        yield "plan", tags[KEY]
    yield from tagged_entries(tags)
