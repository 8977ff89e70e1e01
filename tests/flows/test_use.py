"""A registered ensemble in use: predictions by the real command, and the same numbers over HTTP."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

WINES = ["class_0", "class_1", "class_2"]
PROBABILITIES = [f"wine_proba_{name}" for name in WINES]


@pytest.fixture(scope="module")
def predicted(first_run: Any, commands: Callable[..., Any]) -> tuple[Any, Path]:
    """All rows of wine in a CSV, two of them spoilt; what the command said, and the folder with its files."""
    rows = load_wine(as_frame=True).data.astype(object)
    rows.iloc[3, 2], rows.iloc[170, 0] = "unknown", "inf"
    rows.to_csv(first_run.folder / "rows.csv", index=False)
    done = commands(
        "predict", "wine@champion", "--data", "rows.csv", "--out", "answers.parquet", "--rejects", "bad.csv", "--json",
        home=first_run.home,
    )  # fmt: skip
    return done, first_run.folder


def test_the_command_says_what_it_did_and_lists_the_bad_rows(predicted: Any) -> None:
    done, folder = predicted
    summary = done.summary
    assert (summary["rows"], summary["rejected"], summary["model"], summary["version"]) == (176, 2, "wine", 1)
    assert pd.read_csv(folder / "bad.csv")["row"].tolist() == [3, 170]
    assert not list(folder.glob(".answers*"))


def test_the_answers_are_those_that_the_run_had_of_its_test_rows(predicted: Any, first_run: Any) -> None:
    found = pd.read_parquet(predicted[1] / "answers.parquet").set_index("row")
    assert found.index.tolist() == [row for row in range(178) if row not in (3, 170)]
    report = first_run.reports()[0]
    rows, expected = np.load(report / "rows-wine.npy"), np.load(report / "predictions-wine.npy")
    kept = np.isin(rows, found.index)
    np.testing.assert_allclose(found.loc[rows[kept], PROBABILITIES], expected[kept], atol=1e-6)
    truth = np.array(WINES)[load_wine().target[found.index]]
    assert np.mean([t in its for t, its in zip(truth, found["wine_set"], strict=True)]) > 0.8


def test_the_prediction_is_a_run_of_its_own(predicted: Any, first_run: Any, runs_of: Callable[..., list[Any]]) -> None:
    (run,) = runs_of(first_run.home, kind="predict")
    assert run.info.run_id == predicted[0].summary["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["fuseline.version"] == "wine/1"
    assert run.data.params["model"] == "wine/1"
    assert (run.data.metrics["rows"], run.data.metrics["rejected"]) == (176, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing@champion", "--data", "rows.csv", "--out", "x.parquet"], "no model 'nothing' is registered; choose from wine"),
        (["wine@champion", "--data", "none.csv", "--out", "x.parquet"], "none.csv: there is no such file"),
        (["wine@champion", "--data", "rows.csv", "--out", "x.csv"], "Parquet file"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    first_run: Any, commands: Callable[..., Any], plain: Callable[[str], str], arguments: list[str], said: str
) -> None:
    done = commands("predict", *arguments, home=first_run.home)
    assert done.code == 2
    assert said in plain(done.err)
    assert "Traceback" not in done.err


def test_ids_sets_and_intervals_of_a_table(mixed_run: Any, commands: Callable[..., Any]) -> None:
    answers = mixed_run.folder / "answers.parquet"
    done = commands(
        "predict", "mixed/1", "--data", mixed_run.folder / "table.parquet", "--out", answers, "--json", home=mixed_run.home
    ).summary
    assert (done["rows"], done["rejected"], done["rejects"]) == (160, 0, None)
    table, found = pd.read_parquet(mixed_run.folder / "table.parquet"), pd.read_parquet(answers)
    assert found["name"].tolist() == table["name"].tolist()
    assert list(found.columns[-3:]) == ["kind_set", "size_low", "size_high"]
    inside = (found["size_low"] <= table["size"]) & (table["size"] <= found["size_high"])
    assert inside.mean() > 0.75  # 24 calibration rows promise 0.9 only on the whole


def test_keys_are_made_once(commands: Callable[..., Any], tmp_path: Path) -> None:
    done = commands("keygen", tmp_path / "keys", home=tmp_path / "home")
    assert done.code == 0
    assert "signing:" in done.out
    assert commands("keygen", tmp_path / "keys", home=tmp_path / "home").code == 2


# ------------------------------------------------------------------------------------------------ over HTTP


def test_the_server_answers_with_the_same_numbers_and_ends_when_told(
    predicted: Any,
    first_run: Any,
    fuseline_command: Path,
    environment: Callable[..., dict[str, str]],
    until: Callable[..., Any],
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (first_run.folder / "serve.txt").open("w") as messages:
        process = subprocess.Popen(
            [fuseline_command, "serve", "wine@champion", "--port", str(port)],
            env=environment(first_run.home),
            cwd=first_run.folder,
            stdout=messages,
            stderr=messages,
        )
    said = first_run.folder / "serve.txt"
    try:
        until(lambda: process.poll() is not None or "/invocations" in said.read_text(), "the server is up", 300)
        assert process.poll() is None, said.read_text()
        rows = load_wine(as_frame=True).data.iloc[:3]
        question = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"dataframe_split": rows.to_dict("split")}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(question, timeout=60) as answer:
            served = pd.DataFrame(json.load(answer)["predictions"])
        found = pd.read_parquet(predicted[1] / "answers.parquet")[served.columns].iloc[:3]
        pd.testing.assert_frame_equal(served, found, rtol=1e-6, atol=1e-6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
    finally:
        process.kill()
        process.wait()
