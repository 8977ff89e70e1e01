"""Versions found by name and brought here, against a real MLflow database; real packages are in tests/security."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuseline.errors import PackageError, UserError
from fuseline.package.trust import seal
from fuseline.tracking.runs import Tracker
from fuseline.tracking.settings import Server, Settings, Signing
from fuseline.tracking.tags import MANIFEST
from fuseline.tracking.versions import fetch, resolve

MLMODEL = """
flavors:
  python_function:
    artifacts: {ensemble: {path: artifacts/key, uri: artifacts/key}}
    code: code
    loader_module: mlflow.pyfunc.loaders.code_model
    model_code_path: pyfunc_model.py
"""


@pytest.fixture
def settings(common_tracker: Tracker) -> Settings:
    return Settings(server=Server(mlflow_tracking_uri=f"sqlite:///{common_tracker.home}/mlflow.db"))


@pytest.fixture
def registered(common_tracker: Tracker, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., tuple[str, Path]]:
    """Register a sealed folder as the next version of this test's model; its name and where its files lie."""
    name = request.node.name.replace("[", "-").replace("]", "")

    def go(tagged: bool = True) -> tuple[str, Path]:
        client = common_tracker.client
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        place = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        for file in ("MLmodel", "pyfunc_model.py", "code/a.py", "artifacts/key/ensemble.json"):
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(MLMODEL if file == "MLmodel" else f"1 / 0  # {place.name}")
        digest = seal(place, "artifacts/key", {"recipe": {"name": "wine"}})
        client.create_model_version(name, str(place), tags={MANIFEST: digest} if tagged else None)
        return name, place

    return go


def test_a_version_is_found_by_its_number_and_its_aliases(
    registered: Callable[..., tuple[str, Path]], common_tracker: Tracker, settings: Settings
) -> None:
    name, _ = registered()
    registered()
    for alias in ("champion", "challenger"):
        common_tracker.client.set_registered_model_alias(name, alias, "2")
    found = resolve(settings, f"{name}@champion")
    assert (found.name, found.version, found.aliases) == (name, 2, ["challenger", "champion"])
    assert resolve(settings, f"{name}/2") == found
    assert resolve(settings, f"{name}/1").aliases == []


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("NAME@nobody", "no alias 'nobody'; choose from champion"),
        ("NAME/7", "no version 7; choose from 1"),
        ("nothing@champion", "no model 'nothing' is registered; choose from "),
        ("NAME", "NAME@ALIAS"),
        ("NAME/0", "NAME@ALIAS"),
        ("NAME/../1", "NAME@ALIAS"),
        ("NAME@a@b", "NAME@ALIAS"),
        ("x' OR '1'='1@champion", "no model"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    registered: Callable[..., tuple[str, Path]], common_tracker: Tracker, settings: Settings, reference: str, said: str
) -> None:
    name, _ = registered()
    common_tracker.client.set_registered_model_alias(name, "champion", "1")
    with pytest.raises(UserError) as caught:
        resolve(settings, reference.replace("NAME", name))
    assert said in str(caught.value)


def test_asking_where_there_is_no_database_makes_none(tmp_path: Path) -> None:
    settings = Settings(server=Server(mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"))
    with pytest.raises(UserError, match="there is no MLflow database"):
        resolve(settings, "wine@champion")
    assert not list(tmp_path.iterdir())


def test_what_is_fetched_is_private_and_the_same(
    registered: Callable[..., tuple[str, Path]], settings: Settings, tmp_path: Path
) -> None:
    name, place = registered()
    had = fetch(settings, f"{name}/1", tmp_path / "here")
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o700
    assert had.package == had.model / "artifacts/key"
    assert had.provenance == {"recipe": {"name": "wine"}}
    files = {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert {path.relative_to(had.model): path.read_bytes() for path in had.model.rglob("*") if path.is_file()} == files
    assert fetch(settings, f"{name}/1", tmp_path / "here") == had


@pytest.mark.parametrize("resealed", [False, True])
def test_what_was_changed_where_it_lies_is_refused_and_removed(
    registered: Callable[..., tuple[str, Path]], settings: Settings, tmp_path: Path, resealed: bool
) -> None:
    name, place = registered()
    (place / "code/a.py").write_text("evil")
    if resealed:
        seal(place, "artifacts/key", {})
    with pytest.raises(PackageError) as caught:
        fetch(settings, f"{name}/1", tmp_path / "here")
    assert str(caught.value).startswith(f"{name}/1: the package is refused, and nothing of it was loaded: ")
    assert list((tmp_path / "here").iterdir()) == []


def test_without_a_key_a_version_needs_no_signature_and_with_one_it_does(
    registered: Callable[..., tuple[str, Path]], settings: Settings, tmp_path: Path
) -> None:
    from fuseline.package.signing import make_pair

    name, _ = registered(tagged=False)
    fetch(settings, f"{name}/1", tmp_path / "here")
    _, public = make_pair(tmp_path / "keys")
    strict = settings.model_copy(update={"signing": Signing(public_keys=(str(public),))})
    with pytest.raises(PackageError, match="not signed"):
        fetch(strict, f"{name}/1", tmp_path / "here")


def test_files_that_are_gone_are_said_to_be(
    registered: Callable[..., tuple[str, Path]], settings: Settings, tmp_path: Path
) -> None:
    name, place = registered()
    place.rename(tmp_path / "elsewhere")
    with pytest.raises((UserError, PackageError), match=rf"{name}/1"):
        fetch(settings, f"{name}/1", tmp_path / "here")
