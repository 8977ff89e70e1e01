"""One MLflow database for the tests of registry and history."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from fuseline.tracking.runs import Tracker
from fuseline.tracking.settings import load_settings


@pytest.fixture(scope="session")
def common_tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    home = tmp_path_factory.mktemp("registry") / "home"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
        patch.setenv("FUSELINE_HOME", str(home))
        patch.chdir(home.parent)
        yield Tracker(load_settings(), "experiment")
