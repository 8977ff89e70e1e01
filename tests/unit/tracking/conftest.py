"""What tests of tracking share: real MLflow databases, and processes that die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fuseline.tracking.deliver import Deliverer
from fuseline.tracking.runs import Tracker
from fuseline.tracking.settings import load_settings
from fuseline.tracking.spool import Spool, held, opened, start_run


@pytest.fixture(scope="session")
def common_tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    """One database for the tests of runs, registry and history."""
    home = tmp_path_factory.mktemp("registry") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSELINE_HOME", str(home))
        patch.chdir(home.parent)
        yield Tracker(load_settings(), "experiment", home)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has made, which takes it seconds."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def database(empty_database: Path, home: Path) -> Path:
    """MLflow's database of this home."""
    home.mkdir()
    return Path(shutil.copy(empty_database, home))


@pytest.fixture
def begin(home: Path) -> Iterator[Callable[..., Spool]]:
    """Begin or continue a run of a plan, in a home of one's own; what is still held at the end is let go of."""
    others = held()  # of other tests in this process
    yield lambda key="key", recipe="recipe", **tags: start_run(key, recipe, tags)
    for run in set(held()) - set(others):
        opened(run).close()


@pytest.fixture
def delivering(home: Path) -> Callable[[], Deliverer]:
    """A new deliverer of this home, as a new process would have it."""
    return lambda: Deliverer(home, load_settings())


@pytest.fixture
def client(home: Path) -> Callable[[], Any]:
    """MLflow's client for this home."""

    def open_() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
            from mlflow import MlflowClient

            return MlflowClient(load_settings().server.mlflow_tracking_uri)

    return open_


@pytest.fixture
def process(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python code in a process of its own, in this home; it can be spoken with by lines."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments]
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, "FUSELINE_HOME": str(home)},
                cwd=home.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for its in started:
        its.kill()
        its.communicate()
