"""``fuseline evaluate``: a registered version on its test rows, on rows that have drifted, and on rows without targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine


def wine() -> pd.DataFrame:
    bunch = load_wine(as_frame=True)
    return bunch.data.assign(target=np.asarray(bunch.target_names, str)[bunch.target])


@pytest.fixture(scope="module")
def tested(first_run: Any) -> Any:
    """The report of the test rows, and the rows."""
    folder = first_run.reports()[0]
    return json.loads((folder / "report.json").read_text()), wine().iloc[np.load(folder / "rows-wine.npy")]


@pytest.fixture(scope="module")
def on_test_rows(first_run: Any, tested: Any, commands: Callable[..., Any]) -> Any:
    file = first_run.folder / "same.parquet"
    tested[1].to_parquet(file)
    return commands("evaluate", "wine@champion", "--data", file, "--json", home=first_run.home).summary


def test_on_the_test_rows_the_report_is_the_test_report(on_test_rows: Any, tested: Any) -> None:
    """The package says what the bank said, and the same metrics, intervals and seeds follow from it."""
    part = tested[0]["targets"]["wine"]
    chosen = next(its for its in part["candidates"] if its["name"] == part["chosen"])
    found = on_test_rows["targets"]["wine"]
    assert list(found["metrics"]) == list(chosen["metrics"])
    for name, score in found["metrics"].items():
        assert score["then"] == chosen["metrics"][name]
        assert score["now"] == pytest.approx(chosen["metrics"][name], rel=1e-4)
        assert not score["change"]["worse"]
    assert found["confusion"] == part["confusion"]
    assert (on_test_rows["rows"], on_test_rows["fitted"]["rows"]) == (part["rows"], 0)


def test_on_the_test_rows_nothing_has_drifted(on_test_rows: Any) -> None:
    tests = on_test_rows["drift"]["tests"]
    names = {(test["part"], test["name"]) for test in tests}
    assert {("inputs", "alcohol"), ("predictions", "wine: class"), ("disagreement", "wine")} <= names
    assert len(tests) == 13 + 2 + 1
    assert all(test["psi"] < 1e-3 and test["q"] == pytest.approx(1) for test in tests if test["part"] == "inputs")
    assert on_test_rows["drift"]["size"] == "stable"
    assert (on_test_rows["worse"], on_test_rows["alarm"], on_test_rows["events"]) == ([], [], [])


@pytest.fixture(scope="module")
def drifted(first_run: Any, tested: Any, commands: Callable[..., Any]) -> Any:
    """Everything that makes wines differ has moved by three standard deviations."""
    rows = tested[1]
    moved = rows.assign(**{name: rows[name] + 3 * rows[name].std() for name in ("alcohol", "flavanoids", "proline")})
    file = first_run.folder / "moved.csv"
    moved.to_csv(file, index=False)
    return commands("evaluate", "wine/1", "--data", file, "--json", home=first_run.home).summary


def test_what_has_drifted_is_named_and_gives_alarm(drifted: Any, ask: Callable[..., Any], until: Callable[..., Any]) -> None:
    large = {test["name"] for test in drifted["drift"]["tests"] if test["part"] == "inputs" and test["size"] == "large"}
    assert large == {"alcohol", "flavanoids", "proline"}
    assert drifted["drift"]["parts"]["predictions"] == "large"
    assert "wine: log_loss" in drifted["worse"]
    assert drifted["events"] == ["fuseline.drift", "fuseline.regression"]
    wanted = {"event": {"name": drifted["events"]}, "resource": {"id": ["fuseline.model.wine"]}}
    found = until(lambda: _events(ask, wanted), "Prefect knows both events", 60)
    assert {event["event"] for event in found} == set(drifted["events"])
    assert all(event["resource"]["fuseline.version"] == "wine/1" for event in found)
    payload = next(event["payload"] for event in found if event["event"] == "fuseline.drift")
    assert "inputs: alcohol" in payload["what"]


def _events(ask: Callable[..., Any], wanted: dict[str, Any]) -> Any:
    found = ask("events/filter", filter=wanted)["events"]
    return found if len(found) >= 2 else None


def test_an_evaluation_is_a_run_of_its_own_kind(drifted: Any, first_run: Any, runs_of: Callable[..., Any], tracked: Any) -> None:
    [run] = [run for run in runs_of(first_run.home, "evaluate") if run.info.run_id == drifted["run_id"]]
    assert run.info.status == "FINISHED"
    assert (run.data.tags["fuseline.model"], run.data.tags["fuseline.drift"]) == ("wine/1", "large")
    now = drifted["targets"]["wine"]["metrics"]["log_loss"]["now"]
    assert run.data.metrics["now/wine/log_loss"] == pytest.approx(now["value"])
    assert run.data.metrics["drift/inputs/drifted"] >= 3
    client = tracked(first_run.home)
    assert {"report.json", "summary.json", "pictures"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    pictures = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {"drift.png", "now-wine.png"}


def test_without_targets_there_is_drift_alone(first_run: Any, tested: Any, commands: Callable[..., Any]) -> None:
    file = first_run.folder / "unlabelled.parquet"
    tested[1].drop(columns="target").assign(hue=np.nan).to_parquet(file)
    done = commands("evaluate", "wine@champion", "--data", file, "--set", "evaluation.drift.level=0.05", home=first_run.home)
    assert done.code == 0, done.err
    for words in ("without targets", "hue", "missing", "fuseline.drift"):
        assert words in done.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "class_9"}, "target column 'target', row 0: 'class_9' is not among the classes class_0, class_1, class_2."),
        ({"alcohol": "strong"}, "column 'alcohol', row 0: 'strong' is not a number."),
    ],
    ids=["a class it does not know", "a word for a number"],
)
def test_a_mistake_in_the_rows_is_named(
    first_run: Any, commands: Callable[..., Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = tmp_path / "rows.csv"
    wine().head(5).assign(**change).to_csv(file, index=False)
    done = commands("evaluate", "wine@champion", "--data", file, home=first_run.home)
    assert done.code == 2
    assert words in done.err
