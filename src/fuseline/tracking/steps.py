"""What is to be done in MLflow for a record: steps in order, each of which may be done again and changes nothing then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fuseline.report.summary import tracked
from fuseline.tracking.delivery import State
from fuseline.tracking.records import Files, Record
from fuseline.tracking.refused import refused
from fuseline.tracking.registry import as_it_stands, register
from fuseline.tracking.runs import Tracker
from fuseline.tracking.tags import ORIGIN, VERSION

Step = tuple[str, Callable[[], object]]
"""What it is called, and how it is done."""


class Orphaned(Exception):  # noqa: N818 (it says what has happened)
    """MLflow has refused the run that a record is about."""


def steps(tracker: Tracker, folder: Path, record: Record, state: State, sent: bool) -> Iterator[Step]:
    """The steps of a record of the spool in a folder; ``sent`` if it may have been sent before."""

    def run_id(own: str = record.run) -> str:
        if own not in state.runs:
            raise Orphaned("MLflow has refused the run that it is about")
        return state.runs[own]

    def send(files: Files) -> None:
        tracker.files(run_id(), folder / files.folder, files.under)

    if (start := record.start) is not None:

        def begin() -> None:
            parent = None if start.parent is None else run_id(start.parent)
            state.runs[record.run] = tracker.start(record.run, start, parent, record.tags, start.at or record.at, sent)

        yield "start", begin
    if record.again:
        yield "go on", lambda: tracker.go_on(run_id(), record.without)
    if (data := record.data) is not None:
        yield "data", lambda: tracker.data(run_id(), data)
    tags = {} if record.start is not None else record.tags
    if record.params or record.points or tags:
        yield "log", lambda: tracker.log(run_id(), record.params, record.points, tags)
    if (key := record.origin) is not None:

        def name_origin() -> None:
            found = tracker.origin("member", key)
            if found is not None and found != run_id():
                tracker.log(run_id(), tags={ORIGIN: found})

        yield "origin", name_origin
    for files in record.files:
        yield f"files {files.folder}", partial(send, files)
    if (version := record.version) is not None:

        def add_version() -> None:
            state.registered = register(tracker, run_id(), version)
            tracker.log(run_id(), tags={VERSION: f"{state.registered.name}/{state.registered.version}"})

        yield "version", add_version
    if (tree := record.summary) is not None:

        def sum_up() -> None:
            if state.registered is not None:  # it may have been promoted since it was registered
                state.registered = as_it_stands(tracker, state.registered)
            told = tracked(tree, run_id(), state.registered, False, refused(folder.parent, folder.name))
            tracker.client.log_dict(run_id(), told, "summary.json")

        yield "summary", sum_up
    if (end := record.end) is not None:
        yield "end", lambda: tracker.end(run_id(), end, record.at)
