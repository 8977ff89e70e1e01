"""Runs in MLflow, by explicit ids: nothing here depends on an active run.

A parent run is one invocation of a recipe; its members and fusion rules are its children. A run is found again by the tag
that holds its content key: one that never finished is continued, one that finished is never opened again.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.types import ColSpec, DataType, Schema

from fuseline.data.schema import Schema as DataSchema
from fuseline.errors import UserError
from fuseline.store import home, locked
from fuseline.tracking.settings import Settings

KEY, KIND, ORIGIN, ATTEMPT = "fuseline.key", "fuseline.kind", "fuseline.origin", "fuseline.attempt"
RECIPE = "fuseline.recipe"
MOST_METRICS, MOST_PARAMS, MOST_TAGS, LONGEST_PARAM = 800, 100, 100, 6000
"""What a batch takes at the most: 1,000 of all, 100 of parameters and of tags."""

Point = tuple[str, float, int, int]
NONE: Mapping[str, Any] = {}


class Tracker:
    """MLflow, for the runs of one experiment."""

    def __init__(self, settings: Settings, experiment: str) -> None:
        if settings.is_local:
            home().mkdir(parents=True, exist_ok=True)
            logging.getLogger("alembic").setLevel(logging.WARNING)  # a new database tells of each of its migrations
        server = settings.server
        with locked(home() / "locks" / "tracking.lock"):  # a new database is made by one process alone
            self.client = MlflowClient(server.mlflow_tracking_uri, server.mlflow_registry_uri)
            self._born: dict[str, set[tuple[str, str]]] = {}
            self.experiment = self._experiment(settings, settings.tracking.experiment.name or experiment)

    def _experiment(self, settings: Settings, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise UserError(f"the MLflow experiment {name!r} was deleted; restore it, or name another one in mlflow.yml.")
        if found is not None:
            return str(found.experiment_id)
        place = str(Path(settings.tracking.artifact_location) / name) if settings.is_local else None
        pages = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow shows the pages of language models first
        return str(self.client.create_experiment(name, artifact_location=place, tags=pages))

    def start(self, name: str, kind: str, key: str, parent: str | None = None, tags: Mapping[str, str] = NONE) -> str:
        """The id of a running run: an unfinished one of the same kind, key and parent, or a new one; with some tags."""
        unfinished = self._unfinished(kind, key, parent)
        if unfinished is not None:
            run_id = str(unfinished.info.run_id)
            attempt = int(unfinished.data.tags.get(ATTEMPT, "1")) + 1
            self.client.update_run(run_id, status="RUNNING")
            self.log(run_id, tags={**tags, ATTEMPT: str(attempt)})
            return run_id
        every = {**tags, KIND: kind, KEY: key, ATTEMPT: "1", "mlflow.user": getpass.getuser()}
        if parent is None:
            every["fuseline.owner"] = f"{socket.gethostname()}:{os.getpid()}"
        else:
            every["mlflow.parentRunId"] = parent
        run_id = str(self.client.create_run(self.experiment, tags=every, run_name=name).info.run_id)
        self._born.setdefault(run_id, set())
        if parent in self._born:
            self._born[parent].add((kind, key))
        return run_id

    def _unfinished(self, kind: str, key: str, parent: str | None) -> Run | None:
        """A run to continue. A parent that was born here has no children but those started here, so nothing is searched for."""
        if parent in self._born and (kind, key) not in self._born[parent]:
            return None
        found = self._search(kind, key, parent)
        return next((run for run in found if parent or run.info.status != "FINISHED"), None)

    def origin(self, kind: str, key: str) -> str | None:
        """The first finished run, of any experiment, that made what the key names."""
        everywhere = [e.experiment_id for e in self.client.search_experiments()]
        finished = [run for run in self._search(kind, key, None, everywhere) if run.info.status == "FINISHED"]
        return str(finished[-1].info.run_id) if finished else None

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def finished(self, kind: str, most: int = 100) -> list[Run]:
        """The last runs of a kind that finished, newest first."""
        text = f"tags.`{KIND}` = '{kind}' and attributes.status = 'FINISHED'"
        return list(self.client.search_runs([self.experiment], text, ViewType.ACTIVE_ONLY, most, ["attributes.start_time DESC"]))

    def log(
        self,
        run_id: str,
        params: Mapping[str, Any] = NONE,
        metrics: Mapping[str, float] = NONE,
        points: Sequence[Point] = (),
        tags: Mapping[str, str] = NONE,
    ) -> None:
        """Log everything that there is to say of a run, in as few batches as MLflow takes.

        Args:
            params: a tree of settings, logged flat; those of an earlier attempt are the same by their key.
            metrics: numbers without a step.
            points: (name, value, time in ms, step); sending one again changes nothing, since those four are its key. A number
                that is not finite is left out, since MLflow would store another one for it.
            tags: replace those of the same name.
        """
        now = time.time_ns() // 1_000_000
        every = [*points, *((name, value, now, 0) for name, value in metrics.items())]
        batches = zip_longest(
            _parts([Metric(name, value, at, step) for name, value, at, step in every if abs(value) < float("inf")], MOST_METRICS),
            _parts([Param(name, str(value)[:LONGEST_PARAM]) for name, value in flatten(params).items()], MOST_PARAMS),
            _parts([RunTag(name, value) for name, value in tags.items()], MOST_TAGS),
            fillvalue=(),
        )
        for some_metrics, some_params, some_tags in batches:
            self.client.log_batch(run_id, some_metrics, some_params, some_tags)

    def files(self, run_id: str, folder: Path, under: str | None = None) -> None:
        self.client.log_artifacts(run_id, str(folder), under)

    def dataset(self, run_id: str, name: str, digest: str, origin: str, schema: DataSchema) -> None:
        """Say which data a run used: their digest, where they came from, and their columns (the first thousand)."""
        columns = [(column, DataType.double) for column in schema.numeric]
        columns += [(column, DataType.string) for column in schema.categorical]
        columns += [(t, DataType.string if its.classes else DataType.double) for t, its in schema.targets.items()]
        shown = Schema([ColSpec(kind, column) for column, kind in columns[:1000]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow knows two names of one kind of local file
            source = resolve_dataset_source(origin) if Path(origin).is_file() else CodeDatasetSource({"origin": origin})
        data = MetaDataset(source, name, digest, shown)  # type: ignore[abstract]
        entity = Dataset(**data.to_dict())
        self.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def _search(self, kind: str, key: str, parent: str | None, experiments: list[str] | None = None) -> list[Run]:
        text = f"tags.`{KIND}` = '{kind}' and tags.`{KEY}` = '{key}'"
        if parent is not None:
            text += f" and tags.`mlflow.parentRunId` = '{parent}'"
        order = ["attributes.start_time DESC"]
        within = experiments or [self.experiment]
        return list(self.client.search_runs(within, text, ViewType.ACTIVE_ONLY, order_by=order))


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves by their path.

    >>> flatten({"a": {"b": 1}, "c": [2, 3]})
    {'a.b': 1, 'c.0': 2, 'c.1': 3}
    """
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        return {path: tree}
    return {name: leaf for key, value in items for name, leaf in flatten(value, f"{path}.{key}" if path else str(key)).items()}


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
