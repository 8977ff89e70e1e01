"""What comes from elsewhere and is opened: weights, a registered model, archives of data."""

from __future__ import annotations

import ast
import io
import pickle
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.data.archives import unpack_tar, unpack_zip
from fuseline.data.files import from_npz
from fuseline.errors import DataError, PackageError
from fuseline.package.signing import make_pair
from fuseline.package.trust import MODEL, seal, verify
from fuseline.tracking.settings import load_settings
from fuseline.tracking.versions import Fetched, fetch

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "flows").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]


def calls(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Every call of a function of this dotted name in the program: where, and its keyword arguments."""
    found = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                where = f"{file.relative_to(ROOT)}:{node.lineno}"
                found.append((where, {word.arg: ast.unparse(word.value) for word in node.keywords}))
    return found


# ------------------------------------------------------------------------------------------------ loading weights


def test_loading_weights_says_weights_only_everywhere() -> None:
    every = calls("torch.load")
    assert every
    assert [where for where, settings in every if settings.get("weights_only") != "True"] == []


@pytest.mark.parametrize("module", ["pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pandas", "pd"])
def test_loading_weights_unpickles_nothing(module: str) -> None:
    unpickling = ("load", "loads", "Unpickler", "open", "read_pickle")
    assert [where for name in unpickling for where, _ in calls(f"{module}.{name}")] == []


# ------------------------------------------------------------------------------------------------ the registered model


@pytest.fixture
def at_home(first_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FUSELINE_HOME", str(first_run.home))
    monkeypatch.chdir(tmp_path)
    return Path(first_run.home)


@pytest.fixture
def fetched(at_home: Path, tmp_path: Path) -> Fetched:
    return fetch(load_settings(), "wine/1", tmp_path / "copy")


@pytest.fixture
def stored(at_home: Path, first_run: Any, tracked: Callable[..., Any]) -> Path:
    """Where the registry's store has the model."""
    version = tracked(at_home).get_model_version("wine", "1")
    return Path(tracked(at_home).get_logged_model(version.model_id).artifact_location)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_registered_model_arrives_as_it_was_saved_in_a_private_folder(fetched: Fetched, stored: Path) -> None:
    assert files_of(fetched.model) == files_of(stored)
    assert fetched.model.parent.stat().st_mode & 0o777 == 0o700
    assert fetched.provenance["recipe"]["name"] == "wine"
    assert fetched.provenance["package"] == fetched.package.name
    assert {"data", "code", "plan", "split", "partition", "replicas", "requirements", "environment"} <= set(fetched.provenance)


def test_the_registered_model_names_no_path_of_the_machine_that_made_it_outside_its_provenance(fetched: Fetched) -> None:
    home = str(Path(load_settings().tracking.artifact_location).parent).encode()
    files = {name: content for name, content in files_of(fetched.model).items() if name != "manifest.json"}
    assert [name for name, content in files.items() if home in content or str(ROOT).encode() in content] == []


def test_the_registered_model_with_one_bit_of_any_file_flipped_is_refused_and_nothing_is_imported(fetched: Fetched) -> None:
    files, before = files_of(fetched.model), set(sys.modules)
    taken = []
    for number, (name, content) in enumerate(sorted(files.items())):
        if not content:
            changed = bytearray(b"\n")
        else:
            changed = bytearray(content)
            changed[(len(content) * 7919 * (number + 1)) % len(content)] ^= 1 << number % 8
        (fetched.model / name).write_bytes(changed)
        try:
            verify(fetched.model)
            taken.append(name)
        except PackageError:
            pass
        (fetched.model / name).write_bytes(content)
    assert len(files) > 150
    assert taken == []
    verify(fetched.model)
    new = [str(getattr(sys.modules[name], "__file__", "")) for name in set(sys.modules) - before]
    assert [file for file in new if str(fetched.model) in file] == []


CANARY = "open({!r}, 'w').close()\n"


def edit_code(folder: Path, canary: str) -> None:
    for name in ("pyfunc_model.py", "code/fuseline/__init__.py"):
        (folder / name).write_text(CANARY.format(canary) + (folder / name).read_text())


def add_code(folder: Path, canary: str) -> None:
    (folder / "code" / "sitecustomize.py").write_text(CANARY.format(canary))


def remove_weights(folder: Path, canary: str) -> None:
    next(folder.rglob("weights.safetensors")).unlink()


def link_weights(folder: Path, canary: str) -> None:
    weights = next(folder.rglob("weights.safetensors"))
    shutil.copy(weights, canary + ".aside")
    weights.unlink()
    weights.symlink_to(canary + ".aside")


def lead_out(folder: Path, canary: str) -> None:
    text = (folder / MODEL).read_text()
    (folder / MODEL).write_text(text.replace("path: artifacts/", "path: ../../../"))


def lead_out_and_reseal(folder: Path, canary: str) -> None:
    lead_out(folder, canary)
    seal(folder, next((folder / "artifacts").iterdir()).relative_to(folder).as_posix(), {})


@pytest.mark.parametrize("tamper", [edit_code, add_code, remove_weights, lead_out, lead_out_and_reseal])
def test_the_registered_model_tampered_with_where_it_lies_is_refused_when_it_is_fetched(
    at_home: Path, stored: Path, tmp_path: Path, tamper: Callable[[Path, str], None]
) -> None:
    canary, aside = tmp_path / "canary", tmp_path / "aside"
    shutil.copytree(stored, aside)
    try:
        tamper(stored, str(canary))
        with pytest.raises(PackageError, match=r"^wine/1: the package is refused, and nothing of it was loaded: "):
            fetch(load_settings(), "wine@champion", tmp_path / "copy")
    finally:
        shutil.rmtree(stored)
        shutil.copytree(aside, stored)
    assert not canary.exists()
    assert list((tmp_path / "copy").iterdir()) == []
    fetch(load_settings(), "wine@champion", tmp_path / "copy")


@pytest.mark.parametrize("tamper", [link_weights, lead_out_and_reseal])
def test_the_registered_model_copied_by_hand_is_refused_too(
    fetched: Fetched, tmp_path: Path, tamper: Callable[[Path, str], None]
) -> None:
    tamper(fetched.model, str(tmp_path / "canary"))
    with pytest.raises(PackageError, match="is refused"):
        verify(fetched.model)


def test_the_registered_model_must_be_signed_where_mlflow_yml_names_keys(at_home: Path, stored: Path, tmp_path: Path) -> None:
    private, _ = make_pair(tmp_path / "keys")
    (tmp_path / "mlflow.yml").write_text("signing: {public_keys: [keys/fuseline.pub]}")
    with pytest.raises(PackageError, match="is not signed"):
        fetch(load_settings(), "wine/1", tmp_path / "copy")
    (tmp_path / "mlflow.yml").unlink()
    copy = fetch(load_settings(), "wine/1", tmp_path / "copy")
    seal(copy.model, copy.package.relative_to(copy.model).as_posix(), dict(copy.provenance), private)
    assert verify(copy.model, [tmp_path / "keys" / "fuseline.pub"]).provenance == copy.provenance


# ------------------------------------------------------------------------------------------------ data sets and archives


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../escaped", "/escaped", "a/../../escaped"):
        with tarfile.open(tmp_path / "bad.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
            packed.writestr(name, "x")
        for unpack, file in ((unpack_tar, "bad.tar"), (unpack_zip, "bad.zip")):
            with pytest.raises(DataError, match="leads out of the folder"):
                unpack(tmp_path / file, tmp_path / "in" / "side")
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_that_swells_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(50_000_000))
    assert (tmp_path / "bomb.zip").stat().st_size < 60_000
    with pytest.raises(DataError, match="times its own"):
        unpack_zip(tmp_path / "bomb.zip", tmp_path / "inside")
    assert not list((tmp_path / "inside").glob("*"))


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return open, (str(self.canary), "w")


def test_an_archive_of_arrays_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array([Evil(tmp_path / "canary")], dtype=object))
    with pytest.raises(DataError, match="without pickle"):
        from_npz(path=str(tmp_path / "rows.npz"))
    assert not (tmp_path / "canary").exists()
    assert [where for where, settings in calls("np.load") if settings.get("allow_pickle", "False") != "False"] == []
    pickle.loads(pickle.dumps(Evil(tmp_path / "canary"))).close()  # else this test could not fail
    assert (tmp_path / "canary").exists()
