"""Runs in MLflow, by explicit ids: nothing here depends on an active run. Each call may be repeated, and changes nothing then."""

from __future__ import annotations

import logging
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
from mlflow.exceptions import MlflowException
from mlflow.types import ColSpec, DataType, Schema

from fuseline.errors import ProcessDied, UserError
from fuseline.store import locked
from fuseline.tracking.client import make_database
from fuseline.tracking.records import NONE, Data, Point, Start
from fuseline.tracking.settings import Settings
from fuseline.tracking.tags import ID, KEY, KIND

MOST_METRICS, MOST_PARAMS, MOST_TAGS = 800, 100, 100
"""What a batch takes at the most: 1,000 of all, 100 of parameters and of tags."""

PARENT = "mlflow.parentRunId"

PASSING = (OSError, UserError, ProcessDied, MemoryError, EOFError)
"""Errors that may pass: of the way to MLflow, of its state, or of a machine that is short of something now."""


class Tracker:
    """MLflow, for the runs of one experiment."""

    def __init__(self, settings: Settings, experiment: str, home: Path) -> None:
        self.home, self.signing = home, settings.signing
        if settings.is_local:
            home.mkdir(parents=True, exist_ok=True)
            logging.getLogger("alembic").setLevel(logging.WARNING)  # a new database tells of each of its migrations
        server = settings.server
        with locked(home / "locks" / "tracking.lock"), warnings.catch_warnings():  # one process alone makes a new database
            warnings.simplefilter("ignore", DeprecationWarning)  # SQLAlchemy has some for mlflow's tables when they are imported
            make_database(settings)
            self.client = MlflowClient(server.mlflow_tracking_uri, server.mlflow_registry_uri)
            self.experiment = self._experiment(settings, settings.tracking.experiment.name or experiment)

    def _experiment(self, settings: Settings, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            _check_active(found)
            return str(found.experiment_id)
        place = str(Path(settings.tracking.artifact_location) / name) if settings.is_local else None
        pages = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow shows the pages of language models first
        return str(self.client.create_experiment(name, artifact_location=place, tags=pages))

    def check(self) -> None:
        """Whether MLflow can be told of runs of this experiment at all.

        Raises:
            MlflowException, UserError: it can't.
        """
        _check_active(self.client.get_experiment(self.experiment))

    def start(self, own: str, start: Start, parent: str | None, tags: Mapping[str, str], at: int, sent: bool) -> str:
        """MLflow's id of a run that begins.

        Args:
            own: our own id of it.
            parent: MLflow's id of the run that it belongs to.
            sent: it may have been sent before, so that it is looked for.
        """
        if sent:
            found = self._search(f"tags.`{ID}` = '{own}'", [self.experiment])
            if found:
                return str(found[0].info.run_id)
        every = {**tags, ID: own, KIND: start.kind, KEY: start.key, **({PARENT: parent} if parent else {})}
        return str(self.client.create_run(self.experiment, at, every, start.name).info.run_id)

    def go_on(self, run_id: str, without: Sequence[str]) -> None:
        """A run that had ended runs again, without some of its tags."""
        self.client.update_run(run_id, status="RUNNING")
        for tag in self.client.get_run(run_id).data.tags.keys() & set(without):
            self.client.delete_tag(run_id, tag)

    def end(self, run_id: str, status: str, at: int) -> None:
        self.client.set_terminated(run_id, status, at)

    def log(
        self,
        run_id: str,
        params: Mapping[str, str] = NONE,
        points: Sequence[Point] = (),
        tags: Mapping[str, str] = NONE,
    ) -> None:
        """Log in as few batches as MLflow takes. Name, value, time and step are a number's key, and a parameter's value can't be
        changed, so that sending them again changes nothing; a tag replaces that of the same name."""
        batches = zip_longest(
            _parts([Metric(name, value, at, step) for name, value, at, step in points], MOST_METRICS),
            _parts([Param(name, value) for name, value in params.items()], MOST_PARAMS),
            _parts([RunTag(name, value) for name, value in tags.items()], MOST_TAGS),
            fillvalue=(),
        )
        for some_metrics, some_params, some_tags in batches:
            self.client.log_batch(run_id, some_metrics, some_params, some_tags)

    def files(self, run_id: str, folder: Path, under: str | None = None) -> None:
        self.client.log_artifacts(run_id, str(folder), under)

    def data(self, run_id: str, data: Data) -> None:
        """Say which data a run used: their digest, where they came from, and their columns (the first thousand)."""
        schema, origin = data.schema_, data.origin
        columns = [(column, DataType.double) for column in schema.numeric]
        columns += [(column, DataType.string) for column in schema.categorical]
        columns += [(t, DataType.string if its.classes else DataType.double) for t, its in schema.targets.items()]
        shown = Schema([ColSpec(kind, column) for column, kind in columns[:1000]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow knows two names of one kind of local file
            known = Path(origin).is_file()
            source = resolve_dataset_source(origin) if known else CodeDatasetSource({"origin": origin})
        meta = MetaDataset(source, data.name, data.digest, shown)  # type: ignore[abstract]
        entity = Dataset(**meta.to_dict())
        self.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def origin(self, kind: str, key: str) -> str | None:
        """The first finished run, of any experiment, that made what a key names."""
        everywhere = [e.experiment_id for e in self.client.search_experiments()]
        found = self._search(f"tags.`{KIND}` = '{kind}' and tags.`{KEY}` = '{key}'", everywhere)
        finished = [run for run in found if run.info.status == "FINISHED"]
        return str(finished[-1].info.run_id) if finished else None

    def _search(self, text: str, experiments: list[str]) -> list[Run]:
        order = ["attributes.start_time DESC"]
        return list(self.client.search_runs(experiments, text, ViewType.ACTIVE_ONLY, order_by=order))


def _check_active(experiment: Any) -> None:
    if experiment.lifecycle_stage == "deleted":
        name = experiment.name
        raise UserError(f"the MLflow experiment {name!r} was deleted; restore it, or name another one in mlflow.yml.")


def is_for_ever(error: Exception) -> bool:
    """Whether sending the same again can't help, if MLflow is well otherwise: the request itself is at fault, not the way to
    MLflow, its state, or who may do what."""
    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    else:
        response = getattr(error, "response", None)  # of an upload
        if response is None:
            return not isinstance(error, PASSING) or isinstance(error, FileNotFoundError)
        status = response.status_code
    return 400 <= status < 500 and status not in (401, 403, 408, 429, 499)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
