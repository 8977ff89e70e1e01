"""The registered version, loaded in a fresh process where fuseline is not installed and nothing may be unpickled."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

LOADER = """
import importlib.util, json, sys
folder, model = sys.argv[1:]
opened = []
def hook(event, arguments):
    if event == "pickle.find_class":
        opened.append(arguments)
assert importlib.util.find_spec("fuseline") is None, "fuseline is installed here"
import mlflow.pyfunc
import pandas as pd
sys.addaudithook(hook)
loaded = mlflow.pyfunc.load_model(model)
import fuseline
where = fuseline.__file__
answers = {}
for name in ("rows", "odd"):
    frame = pd.read_parquet(f"{folder}/{name}.parquet")
    loaded.predict(frame).to_parquet(f"{folder}/{name}-answers.parquet")
try:
    loaded.predict(pd.read_parquet(f"{folder}/rows.parquet").drop(columns=[DROP]))
    refused = ""
except Exception as error:
    refused = f"{type(error).__name__}: {error}"
frame = pd.read_parquet(f"{folder}/rows.parquet")
straight, turned = loaded.predict(frame), loaded.predict(frame.iloc[::-1]).iloc[::-1]
gap = float((straight.select_dtypes("number") - turned.select_dtypes("number")).abs().max().max())
said = {"where": where, "refused": refused, "unpickled": [str(o) for o in opened], "gap": gap}
json.dump(said, open(f"{folder}/said.json", "w"))
"""


def model_folder(client: Any, registered: dict[str, Any]) -> Path:
    version = client.get_model_version(registered["name"], str(registered["version"]))
    place = client.get_model_version_download_uri(version.name, version.version)
    return Path(client.get_logged_model(version.model_id).artifact_location if place.startswith("models:") else place)


def answers_of(folder: Path, model: Path, rows: pd.DataFrame, odd: pd.DataFrame, drop: str, processes: list[Any]) -> Path:
    folder.mkdir()
    rows.to_parquet(folder / "rows.parquet")
    odd.to_parquet(folder / "odd.parquet")
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    names = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONDONTWRITEBYTECODE": "1",  # the model's folder stays as it was registered
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'none.db'}",
    }
    with (folder / "messages.txt").open("w") as messages:
        processes.append(
            subprocess.Popen(
                [base, "-c", LOADER.replace("DROP", repr(drop)), folder, model],
                env=environment, cwd=folder, stdout=messages, stderr=messages,
            )
        )  # fmt: skip
    return folder


def raw_wine() -> pd.DataFrame:
    return load_wine(as_frame=True).data


@pytest.fixture(scope="session")
def test_rows(first_run: Any, mixed_run: Any) -> dict[str, Any]:
    return {"wine": np.load(first_run.reports()[0] / "rows-wine.npy"), "mixed": np.load(mixed_run.reports()[0] / "rows-kind.npy")}


@pytest.fixture(scope="session")
def loaded(
    first_run: Any,
    mixed_run: Any,
    tracked: Callable[..., Any],
    test_rows: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """For both packages the folder with what a fresh process said."""
    place = tmp_path_factory.mktemp("fresh")
    mixed = pd.read_parquet(mixed_run.folder / "table.parquet").drop(columns=["name", "kind", "size"])
    odd_wine = raw_wine().iloc[:4].assign(alcohol=[np.nan, 12, 13, 14], hue=[1, 1, np.nan, 1])
    odd_mixed = pd.DataFrame(
        {"color": ["violet", None, "red", "red"], "y": [0.0, 1.0, np.nan, np.nan], "x": [1.0, np.nan, 2.0, np.nan]}
    )
    processes: list[Any] = []
    folders = {}
    for name, run, frame, odd, drop in (
        ("wine", first_run, raw_wine(), odd_wine, "hue"),
        ("mixed", mixed_run, mixed, odd_mixed, "color"),
    ):
        model = model_folder(tracked(run.home), run.summary["registered"])
        folders[name] = answers_of(place / name, model, frame.iloc[test_rows[name]], odd, drop, processes)
    codes = [process.wait(300) for process in processes]
    assert codes == [0, 0], "\n".join((folder / "messages.txt").read_text() for folder in folders.values())
    return folders


def said(folder: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return answer


WINES = ["class_0", "class_1", "class_2"]


def test_the_code_comes_from_the_model_and_nothing_is_unpickled(loaded: dict[str, Path], first_run: Any) -> None:
    for folder in loaded.values():
        assert "/models/" in said(folder)["where"]
        assert said(folder)["unpickled"] == []


def test_columns_are_those_documented(loaded: dict[str, Path]) -> None:
    wine = ["wine", *(f"wine_proba_{c}" for c in WINES), "wine_uncertainty", "wine_epistemic"]
    kind = ["kind", "kind_proba_down", "kind_proba_up", "kind_uncertainty", "kind_epistemic"]
    size = ["size", "size_uncertainty", "size_epistemic"]
    assert list(pd.read_parquet(loaded["wine"] / "rows-answers.parquet").columns) == wine
    assert list(pd.read_parquet(loaded["mixed"] / "rows-answers.parquet").columns) == kind + size


def test_a_fresh_process_says_what_the_pipeline_said(loaded: dict[str, Path], first_run: Any, mixed_run: Any) -> None:
    wine = pd.read_parquet(loaded["wine"] / "rows-answers.parquet")
    expected = np.load(first_run.reports()[0] / "predictions-wine.npy")
    np.testing.assert_allclose(wine[[f"wine_proba_{c}" for c in WINES]], expected, rtol=0, atol=1e-6)
    assert wine["wine"].tolist() == [WINES[i] for i in expected.argmax(1)]
    mixed, report = pd.read_parquet(loaded["mixed"] / "rows-answers.parquet"), mixed_run.reports()[0]
    expected = np.load(report / "predictions-kind.npy")
    np.testing.assert_allclose(mixed[["kind_proba_down", "kind_proba_up"]], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed[["size"]], np.load(report / "predictions-size.npy"), rtol=1e-6, atol=1e-6)


def test_answers_keep_the_rows_index_and_do_not_depend_on_their_neighbours(
    loaded: dict[str, Path], test_rows: dict[str, Any]
) -> None:
    for name, folder in loaded.items():
        assert pd.read_parquet(folder / "rows-answers.parquet").index.tolist() == test_rows[name].tolist()
        assert said(folder)["gap"] < 1e-6


def test_probabilities_and_uncertainties_are_consistent(loaded: dict[str, Path]) -> None:
    wine = pd.read_parquet(loaded["wine"] / "rows-answers.parquet")
    p = wine[[f"wine_proba_{c}" for c in WINES]].to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(wine["wine_uncertainty"], -(p * np.log(p)).sum(1), rtol=1e-6, atol=1e-9)
    assert (wine["wine_epistemic"] >= 0).all()
    mixed = pd.read_parquet(loaded["mixed"] / "rows-answers.parquet")
    assert (mixed["size_uncertainty"] > 0).all()


def test_gaps_and_words_never_seen_are_answered(loaded: dict[str, Path]) -> None:
    for name in ("wine", "mixed"):
        odd = pd.read_parquet(loaded[name] / "odd-answers.parquet")
        assert len(odd) == 4
        assert np.isfinite(odd.select_dtypes("number").to_numpy()).all()


def test_a_column_that_is_not_there_is_named(loaded: dict[str, Path]) -> None:
    for name, column in (("wine", "hue"), ("mixed", "color")):
        assert column in said(loaded[name])["refused"]


# ------------------------------------------------------------------------------------------------ the model's files


@pytest.fixture(params=["wine", "mixed"])
def model(request: pytest.FixtureRequest, first_run: Any, mixed_run: Any, tracked: Callable[..., Any]) -> Path:
    run = first_run if request.param == "wine" else mixed_run
    return model_folder(tracked(run.home), run.summary["registered"])


READABLE = {".json", ".safetensors", ".sig", ".py", ".txt", ".typed", ".yaml", ""}


def is_pickle(content: bytes) -> bool:
    try:
        return any(operation.name == "STOP" for operation, _, _ in pickletools.genops(content))
    except Exception:
        return False


def test_no_file_is_a_pickle(model: Path) -> None:
    files = [path for path in model.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= READABLE
    for path in files:
        content = path.read_bytes()
        assert not is_pickle(content), path
        assert not content.startswith((b"\x80", b"PK\x03\x04")), path
        if path.suffix != ".safetensors":
            content.decode("utf-8")


def test_no_compiled_code_is_carried(model: Path) -> None:
    assert not list(model.rglob("__pycache__"))


def test_signature_example_and_requirements_are_there(model: Path) -> None:
    from mlflow.models import Model

    meta = Model.load(str(model / "MLmodel"))
    assert meta.signature is not None
    assert meta.saved_input_example_info is not None
    example = meta.load_input_example(str(model))
    assert list(example.columns) == meta.signature.inputs.input_names()
    assert len(example) >= 2
    lines = (model / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in lines} >= {"mlflow", "torch", "numpy", "pandas", "safetensors", "pydantic"}
    assert all("==" in line for line in lines)


def test_the_signature_names_the_answers_columns(
    first_run: Any, mixed_run: Any, tracked: Callable[..., Any], loaded: dict[str, Path]
) -> None:
    from mlflow.models import Model

    for name, run in (("wine", first_run), ("mixed", mixed_run)):
        meta = Model.load(str(model_folder(tracked(run.home), run.summary["registered"]) / "MLmodel"))
        answers = pd.read_parquet(loaded[name] / "rows-answers.parquet")
        assert meta.signature.outputs.input_names() == list(answers.columns)


def test_the_version_is_tagged_with_its_test_metrics(first_run: Any, tracked: Callable[..., Any]) -> None:
    client = tracked(first_run.home)
    version = client.get_model_version("wine", "1")
    best = next(c for c in first_run.summary["candidates"] if c["rule"] == first_run.summary["best"]["wine"])
    assert float(version.tags["test.wine.log_loss"]) == pytest.approx(best["metrics"]["wine"]["log_loss"]["value"], rel=1e-4)
    assert version.tags["floors"] == "cleared"
    assert version.run_id == first_run.summary["run_id"]
    aliases = client.get_registered_model("wine").aliases
    assert str(aliases["champion"]) == "1"
