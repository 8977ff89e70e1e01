"""``mlflow.yml`` and what the environment says instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuseline.errors import UserError
from fuseline.package.signing import make_pair
from fuseline.tracking.settings import Signing, check_signing, load_settings

SHIPPED = Path(__file__).parents[3] / "mlflow.yml"


@pytest.fixture
def write(home: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        Path("mlflow.yml").write_text(text)
        return Path("mlflow.yml")

    return write


def test_without_a_file_runs_go_to_a_database_in_the_home(home: Path) -> None:
    settings = load_settings()
    assert settings.server.mlflow_tracking_uri == f"sqlite:///{home}/mlflow.db"
    assert settings.tracking.artifact_location == f"{home}/artifacts"
    assert settings.ui.host == "127.0.0.1"
    assert settings.is_local


def test_the_file_shipped_says_the_defaults(home: Path) -> None:
    assert load_settings(SHIPPED) == load_settings()


def test_an_empty_file_says_nothing(home: Path, write: Callable[[str], Path]) -> None:
    default = load_settings()
    assert load_settings(write("# nothing\n")) == default


def test_a_server_of_a_team(write: Callable[[str], Path]) -> None:
    settings = load_settings(write("server: {mlflow_tracking_uri: 'http://127.0.0.1:5000'}\n"))
    assert not settings.is_local


def test_the_environments_addresses_win(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://one")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://two")
    server = load_settings(write("server: {mlflow_tracking_uri: 'http://file', mlflow_registry_uri: 'http://file'}\n")).server
    assert (server.mlflow_tracking_uri, server.mlflow_registry_uri) == ("http://one", "http://two")


def test_keys_are_files_beside_the_settings(home: Path, write: Callable[[str], Path], tmp_path: Path) -> None:
    settings = load_settings(write("signing: {private_key: keys/a, public_keys: [/b, '${FUSELINE_HOME}/c']}\n"))
    assert settings.signing.private_key == str(tmp_path / "keys/a")
    assert settings.signing.public_keys == ("/b", f"{home}/c")


def test_a_key_that_can_not_sign_is_said_before_anything_is_trained(tmp_path: Path, refusal: Callable[..., str]) -> None:
    private, public = make_pair(tmp_path / "keys")
    check_signing(Signing(private_key=str(private), public_keys=(str(public),)))
    private.chmod(0o644)
    assert "chmod 600" in refusal(UserError, check_signing, Signing(private_key=str(private)))
    assert "none.pub" in refusal(UserError, check_signing, Signing(public_keys=(str(tmp_path / "none.pub"),)))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sever: {}", "sever"),
        ("ui: {port: 0}", "ui.port"),
        ("ui: {port: many}", "ui.port"),
        ("tracking: {experiment: {name: 'a/b c'}}", "tracking.experiment.name"),
        ("ui: [", "YAML"),
        ("ui: {port: 1}\nui: {port: 2}", "ui"),
        ("[1, 2]", "mlflow.yml"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    write: Callable[[str], Path], refusal: Callable[..., str], text: str, word: str
) -> None:
    sentence = refusal(UserError, load_settings, write(text))
    assert "mlflow.yml" in sentence
    assert word in sentence
