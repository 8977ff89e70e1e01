"""A model's folder and its manifest: whatever is changed in it is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fuseline.errors import PackageError, UserError
from fuseline.package.signing import make_pair
from fuseline.package.trust import MANIFEST, MODEL, SIGNATURE, seal, verify

MLMODEL = """
flavors:
  python_function:
    artifacts: {ensemble: {path: artifacts/key, uri: artifacts/key}}
    code: code
    env: {conda: conda.yaml}
    loader_module: mlflow.pyfunc.loaders.code_model
    model_code_path: pyfunc_model.py
mlflow_version: 3.17.2
"""
FILES = {
    MODEL: MLMODEL,
    "pyfunc_model.py": "1 / 0",
    "code/fuseline/__init__.py": "",
    "artifacts/key/ensemble.json": "{}",
    "artifacts/key/weights.safetensors": "weights",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_pair(tmp_path / "keys")


def refused(folder: Path, *arguments: object) -> str:
    with pytest.raises(PackageError) as caught:
        verify(folder, *arguments)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert sentence.startswith(f"{folder}: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_a_sealed_folder_is_what_it_says(folder: Path) -> None:
    digest = seal(folder, "artifacts/key", {"data": "abc"})
    manifest = verify(folder, (), digest)
    assert set(manifest.files) == set(FILES)
    assert manifest.package == "artifacts/key"
    assert manifest.provenance == {"data": "abc"}
    assert manifest.files["artifacts/key/weights.safetensors"].size == 7


def test_what_is_sealed_does_not_depend_on_where_it_lies(folder: Path, tmp_path: Path) -> None:
    digest = seal(folder, "artifacts/key", {})
    folder.rename(tmp_path / "elsewhere")
    assert seal(tmp_path / "elsewhere", "artifacts/key", {}) == digest


@pytest.mark.parametrize("name", [*FILES, MANIFEST, SIGNATURE])
@pytest.mark.parametrize("signed", [False, True])
def test_any_bit_of_any_byte_counts(folder: Path, pair: tuple[Path, Path], name: str, signed: bool) -> None:
    (folder / "code/fuseline/__init__.py").write_text("#")
    seal(folder, "artifacts/key", {"recipe": "x"}, pair[0] if signed else None)
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        (folder / name).write_bytes(changed)
        refused(folder)
    (folder / name).write_bytes(whole)
    verify(folder)


def add(folder: Path) -> None:
    (folder / "code" / "more.py").write_text("")


def add_hidden(folder: Path) -> None:
    (folder / ".hidden").write_text("")


def remove(folder: Path) -> None:
    (folder / "pyfunc_model.py").unlink()


def link(folder: Path) -> None:
    (folder / "pyfunc_model.py").rename(folder.parent / "aside")
    (folder / "pyfunc_model.py").symlink_to(folder.parent / "aside")


def link_folder(folder: Path) -> None:
    (folder / "code").rename(folder.parent / "aside")
    (folder / "code").symlink_to(folder.parent / "aside")


def link_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "aside")
    (folder / MANIFEST).symlink_to(folder.parent / "aside")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def lengthen(folder: Path) -> None:
    with (folder / "artifacts/key/weights.safetensors").open("a") as file:
        file.write("!")


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (add, "code/more.py does not belong there"),
        (add_hidden, ".hidden does not belong there"),
        (remove, "pyfunc_model.py is missing"),
        (link, "pyfunc_model.py is a link"),
        (link_folder, "code is a link"),
        (link_manifest, "it has no manifest.json"),
        (pipe, "pipe is no plain file"),
        (lengthen, "weights.safetensors has changed"),
        (lambda folder: (folder / MANIFEST).unlink(), "it has no manifest.json"),
        (lambda folder: (folder / SIGNATURE).unlink(), "it has no manifest.sig"),
    ],
)
def test_what_is_added_removed_or_linked_is_refused(folder: Path, tamper: Callable[[Path], None], named: str) -> None:
    seal(folder, "artifacts/key", {})
    tamper(folder)
    assert named in refused(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "code/../../outside", "code//x", "./x", "a\\b", ""])
def test_a_name_that_leads_out_is_refused_though_the_manifest_is_whole(folder: Path, name: str) -> None:
    seal(folder, "artifacts/key", {})
    tree = json.loads((folder / MANIFEST).read_bytes())
    tree["files"][name] = {"size": 0, "sha256": "0" * 64}
    _write_whole(folder, json.dumps(tree).encode())
    assert "not a plain path" in refused(folder)


def _write_whole(folder: Path, content: bytes) -> None:
    """A manifest with a signature file that fits."""
    import hashlib

    (folder / MANIFEST).write_bytes(content)
    signed = {"public_key": None, "sha256": hashlib.sha256(content).hexdigest(), "signature": None}
    (folder / SIGNATURE).write_text(json.dumps(signed, indent=1, sort_keys=True))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("path: artifacts/key", "path: ../../..", "'../../..'"),
        ("path: artifacts/key", "path: /etc", "'/etc'"),
        ("code: code", "code: ../code", "'../code'"),
        ("model_code_path: pyfunc_model.py", "model_code_path: /tmp/x.py", "'/tmp/x.py'"),
        ("mlflow.pyfunc.loaders.code_model", "os", "more than"),
        ("    code: code", "    code: code\n    python_model: m.pkl", "more than"),
        ("  python_function:", "  sklearn: {pickled_model: m.pkl}\n  python_function:", "more than"),
        ("flavors:", "flavours:", "not one of fuseline's"),
        ("    code: code", "    code: code\n    code: code", "not one of fuseline's"),
    ],
)
def test_what_mlflow_would_follow_out_of_the_folder_is_refused_though_sealed(
    folder: Path, old: str, new: str, named: str
) -> None:
    (folder / MODEL).write_text(MLMODEL.replace(old, new, 1))
    seal(folder, "artifacts/key", {})
    assert named in refused(folder)


def test_the_package_must_be_among_the_files(folder: Path) -> None:
    seal(folder, "artifacts/other", {})
    assert "no ensemble in artifacts/other" in refused(folder)


# ------------------------------------------------------------------------------------------------ signatures


def test_a_signed_package_is_taken_from_who_is_trusted_alone(folder: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    stranger = make_pair(tmp_path / "stranger")
    seal(folder, "artifacts/key", {}, pair[0])
    verify(folder)
    verify(folder, [pair[1]])
    verify(folder, [stranger[1], pair[1]])
    assert "not among signing.public_keys" in refused(folder, [stranger[1]])


def test_an_unsigned_package_is_refused_where_keys_are_named(folder: Path, pair: tuple[Path, Path]) -> None:
    seal(folder, "artifacts/key", {})
    assert "not signed" in refused(folder, [pair[1]])


def test_the_trusted_key_under_a_strangers_signature_is_refused(folder: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    seal(folder, "artifacts/key", {}, pair[0])
    mine = json.loads((folder / SIGNATURE).read_bytes())
    (folder / "pyfunc_model.py").write_text("evil")
    seal(folder, "artifacts/key", {}, make_pair(tmp_path / "stranger")[0])
    forged = json.loads((folder / SIGNATURE).read_bytes())
    for taken in (["public_key"], ["public_key", "signature"]):
        tree = forged | {name: mine[name] for name in taken}
        (folder / SIGNATURE).write_text(json.dumps(tree, indent=1, sort_keys=True))
        assert "signature" in refused(folder, [pair[1]])


def test_another_whole_manifest_is_not_the_one_that_was_registered(folder: Path) -> None:
    digest = seal(folder, "artifacts/key", {})
    (folder / "pyfunc_model.py").write_text("evil")
    seal(folder, "artifacts/key", {})
    assert "not the one that was registered" in refused(folder, (), digest)


def test_a_private_key_is_its_owners_alone(folder: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert pair[0].stat().st_mode & 0o777 == 0o600
    assert pair[0].parent.stat().st_mode & 0o777 == 0o700
    pair[0].chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        seal(folder, "artifacts/key", {}, pair[0])
    assert not (folder / MANIFEST).exists()


def test_a_pair_is_never_written_over(pair: tuple[Path, Path]) -> None:
    before = pair[0].read_bytes()
    with pytest.raises(UserError, match="is there already"):
        make_pair(pair[0].parent)
    assert pair[0].read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PUBLIC KEY-----\nMCowBQ==\n-----END PUBLIC KEY-----\n"])
def test_a_key_that_is_none_is_named(folder: Path, pair: tuple[Path, Path], tmp_path: Path, content: bytes | None) -> None:
    seal(folder, "artifacts/key", {}, pair[0])
    if content is not None:
        (tmp_path / "other.pub").write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pub: this public key"):
        verify(folder, [tmp_path / "other.pub"])


def test_a_key_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    (tmp_path / "ec.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ec.key").chmod(0o600)
    with pytest.raises(UserError, match="not of the kind ed25519"):
        seal(folder, "artifacts/key", {}, tmp_path / "ec.key")
