"""What a real MLflow database says that its runs need; where it can't say it, nothing may be removed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuseline.errors import UserError
from fuseline.tracking.named import named_entries
from fuseline.tracking.settings import Server, Settings
from fuseline.tracking.spool import spooled_entries
from fuseline.tracking.tags import ENTRIES, KEY, KIND, entry_tags


def at(uri: str) -> Settings:
    return Settings(server=Server(mlflow_tracking_uri=uri))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that has no runs yet, to be copied."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('named') / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
        MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture
def client(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a database of one's own, in an empty home."""
    from mlflow import MlflowClient

    monkeypatch.setenv("FUSELINE_HOME", str(tmp_path / "home"))
    (tmp_path / "mlflow.db").write_bytes(Path(database.removeprefix("sqlite:///")).read_bytes())
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def run(client: Any, experiment: str, key: str, kind: str = "train", status: str = "FINISHED", **tags: str) -> str:
    made = str(client.create_run(experiment, tags={KIND: kind, KEY: key, **tags}).info.run_id)
    client.set_terminated(made, status)
    return made


def test_runs_of_every_experiment_and_ending_name_their_plans_and_entries(client: Any) -> None:
    elsewhere, closed = (client.create_experiment(name) for name in ("elsewhere", "closed"))
    many = [("fusion", f"{number:032}") for number in range(150)]
    run(client, "0", "1", **entry_tags([("bank", "b1"), *many]))
    run(client, elsewhere, "2", status="FAILED", **{ENTRIES: "report/r2\npackage/k2  "})
    run(client, elsewhere, "3", status="RUNNING")
    run(client, elsewhere, "4", kind="member", **entry_tags([("bank", "b4")]))
    client.delete_run(run(client, elsewhere, "5", **entry_tags([("bank", "b5")])))
    run(client, closed, "6")
    client.delete_experiment(closed)
    plans = {("plan", key) for key in "123"}
    assert named_entries(at(client.tracking_uri)) == {*plans, ("bank", "b1"), *many, ("report", "r2"), ("package", "k2")}


def test_all_pages_are_read(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(type(client)):  # type: ignore[misc]
        def search_runs(self, *args: Any, **settings: Any) -> Any:
            return super().search_runs(*args, max_results=2, **settings)

        def search_experiments(self, *args: Any, **settings: Any) -> Any:
            return super().search_experiments(*args, max_results=2, **settings)

    for number in range(5):
        run(client, client.create_experiment(f"experiment {number}"), f"{number}")
        run(client, "0", f"more {number}")
    monkeypatch.setattr("fuseline.tracking.client.MlflowClient", Small)
    expected = {("plan", name) for number in range(5) for name in (f"{number}", f"more {number}")}
    assert named_entries(at(client.tracking_uri)) == expected


def test_runs_that_mlflow_has_yet_to_be_told_of_are_named_too(client: Any, tmp_path: Path) -> None:
    from fuseline.tracking.spool import start_run

    run(client, "0", "1")
    spool = start_run("waiting", "recipe", {})
    assert ("plan", "waiting") in spooled_entries()
    assert named_entries(at(client.tracking_uri)) == {("plan", "1"), ("plan", "waiting")}
    spool.close()


def test_records_that_can_not_be_read_are_said_so(client: Any, tmp_path: Path, refusal: Callable[..., str]) -> None:
    run(client, "0", "1")
    spool = tmp_path / "home" / "spool" / "run"
    spool.mkdir(parents=True)
    (spool / "owner.json").write_text("{")
    sentence = refusal(UserError, named_entries, at(client.tracking_uri))
    assert str(spool.parent) in sentence
    assert "nothing is removed" in sentence


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, refusal: Callable[..., str]) -> None:
    sentence = refusal(UserError, named_entries, at(f"sqlite:///{tmp_path / 'mlflow.db'}"))
    assert str(tmp_path / "mlflow.db") in sentence
    assert "nothing is removed" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"junk" * 1000])
def test_a_file_that_is_no_database_is_said_so(tmp_path: Path, refusal: Callable[..., str], content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    assert "nothing is removed" in refusal(UserError, named_entries, at(f"sqlite:///{tmp_path / 'mlflow.db'}"))


def test_a_database_without_any_run_is_not_the_one(client: Any, refusal: Callable[..., str]) -> None:
    assert "knows no training run" in refusal(UserError, named_entries, at(client.tracking_uri))
    run(client, "0", "member", kind="member")
    assert "knows no training run" in refusal(UserError, named_entries, at(client.tracking_uri))


def test_a_server_that_is_not_there_is_said_so(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sentence = refusal(UserError, named_entries, at("http://127.0.0.1:9"))
    assert "http://127.0.0.1:9 can't be asked" in sentence
    assert "nothing is removed" in sentence
