"""Whether a model's folder is what was packaged: checked file by file before anything in it is imported or parsed.

``manifest.json`` names every file of the folder with its size and sha256, and says where the package comes from.
``manifest.sig`` holds the manifest's own sha256 and, where a key is configured, an ed25519 signature of the manifest. A change of
any byte of any file, these two among them, is seen; that a stranger wrote the whole folder anew, only a signature tells.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from pydantic import Field, ValidationError

from fuseline.component import Part, explain
from fuseline.errors import PackageError
from fuseline.store import sha256_of
from fuseline.yaml12 import parse

MANIFEST, SIGNATURE, MODEL = "manifest.json", "manifest.sig", "MLmodel"
FORMAT = 1
LARGEST = 1 << 24
"""So many bytes a manifest has at the most."""


class File(Part):
    """A file's size in bytes and its sha256."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(Part):
    """What ``manifest.json`` holds.

    Attributes:
        package: the folder of the ensemble, relative to the model's.
        provenance: the recipe, the data's fingerprint, the version of the code, the environment, the keys of split and shares.
        files: every file but the manifest and its signature, by its name relative to the model's folder.
    """

    format: int = FORMAT
    package: str
    provenance: dict[str, Any]
    files: dict[str, File]


class Signature(Part):
    """What ``manifest.sig`` holds: the manifest's sha256 and, of a signed one, the signer's public key and the signature."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    public_key: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    signature: str | None = Field(None, pattern=r"^[0-9a-f]{128}$")


def seal(folder: Path, package: str, provenance: dict[str, Any], private_key: Path | None = None) -> str:
    """Write the manifest of a model's folder, and its signature; to be called when all else is written.

    Returns:
        The sha256 of the manifest.
    """
    files = {name: File(size=path.stat().st_size, sha256=sha256_of(path)) for name, path in _walk(folder)}
    manifest = Manifest(package=package, provenance=provenance, files=files)
    content = _text(manifest)
    digest = hashlib.sha256(content).hexdigest()
    signed = Signature(sha256=digest)
    if private_key is not None:
        from fuseline.package.signing import sign

        public, signature = sign(content, private_key)
        signed = Signature(sha256=digest, public_key=public, signature=signature)
    (folder / MANIFEST).write_bytes(content)
    (folder / SIGNATURE).write_bytes(_text(signed))
    return digest


def verify(folder: Path, public_keys: Sequence[Path] = (), expected: str | None = None) -> Manifest:
    """The manifest of a model's folder in which every file is as it was sealed, and there is nothing else.

    Args:
        public_keys: files of the keys that are trusted; with any, the manifest must be signed by one of them.
        expected: the sha256 of the manifest, where it is known from elsewhere.

    Raises:
        PackageError: says in one sentence what is wrong with the folder.
        UserError: a public key can't be read.
    """
    content = _read(folder, MANIFEST)
    signature = _signature(folder)
    digest = hashlib.sha256(content).hexdigest()
    if signature.sha256 != digest:
        _refuse(folder, f"{MANIFEST} has changed since it was sealed")
    if expected is not None and digest != expected:
        _refuse(folder, f"{MANIFEST} is not the one that was registered")
    _check_signer(folder, content, signature, public_keys)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        _refuse(folder, f"{MANIFEST}: {explain(error).rstrip('.')}")
    if manifest.format != FORMAT:
        _refuse(folder, f"format {manifest.format} of {MANIFEST} is not known here (this is {FORMAT})")
    _check_names(folder, manifest)
    _check_files(folder, manifest)
    _check_paths(folder, manifest)
    return manifest


def _text(part: Part) -> bytes:
    return json.dumps(part.model_dump(mode="json"), indent=1, sort_keys=True).encode()


def _refuse(folder: Path, why: str) -> NoReturn:
    raise PackageError(f"{folder}: the package is refused, and nothing of it was loaded: {why}.")


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        _refuse(folder, f"it has no {name}, so that nobody can tell whether it is what was packaged")
    if path.stat().st_size > LARGEST:
        _refuse(folder, f"{name} is larger than {LARGEST >> 20} MiB")
    return path.read_bytes()


def _signature(folder: Path) -> Signature:
    content = _read(folder, SIGNATURE)
    try:
        signature = Signature.model_validate_json(content)
    except ValidationError:
        _refuse(folder, f"{SIGNATURE} is damaged")
    if _text(signature) != content or (signature.public_key is None) != (signature.signature is None):
        _refuse(folder, f"{SIGNATURE} is damaged")
    return signature


def _check_signer(folder: Path, content: bytes, signed: Signature, public_keys: Sequence[Path]) -> None:
    if signed.public_key is None or signed.signature is None:
        if public_keys:
            _refuse(folder, "it is not signed, and mlflow.yml (signing.public_keys) asks for a signature")
        return
    from fuseline.package.signing import is_signed, trusted

    if not is_signed(content, signed.public_key, signed.signature):
        _refuse(folder, f"the signature in {SIGNATURE} is not one of {MANIFEST}")
    if public_keys and signed.public_key not in trusted(public_keys):
        _refuse(folder, "it is signed with a key that is not among signing.public_keys of mlflow.yml")


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in [manifest.package, *manifest.files]:
        if not _is_inside(name):
            _refuse(folder, f"{MANIFEST} names {name!r}, which is not a plain path inside the folder")


def _is_inside(name: str) -> bool:
    """Whether a name is a relative path that does not lead out of its folder.

    >>> [_is_inside(name) for name in ("code/a.py", "../a", "/a", "a/../../b", "a//b", "")]
    [True, False, False, False, False, False]
    """
    path = PurePosixPath(name)
    plain = "\\" not in name and "\0" not in name and str(path) == name and name != "."
    return plain and not path.is_absolute() and ".." not in path.parts


def _walk(folder: Path, under: str = "") -> Iterator[tuple[str, Path]]:
    """A folder's files by their names, but for the manifest and its signature, in order; links are refused unread."""
    for entry in sorted(os.scandir(folder / under), key=lambda entry: entry.name):
        name = f"{under}/{entry.name}" if under else entry.name
        if entry.is_symlink():
            _refuse(folder, f"{name} is a link")
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, name)
        elif not entry.is_file(follow_symlinks=False):
            _refuse(folder, f"{name} is no plain file")
        elif name not in (MANIFEST, SIGNATURE):
            yield name, Path(entry.path)


def _check_files(folder: Path, manifest: Manifest) -> None:
    there = dict(_walk(folder))
    for name in sorted(there.keys() - manifest.files.keys()):
        _refuse(folder, f"{name} does not belong there")
    for name in sorted(manifest.files.keys() - there.keys()):
        _refuse(folder, f"{name} is missing")
    for name, its in manifest.files.items():
        if there[name].stat().st_size != its.size or sha256_of(there[name]) != its.sha256:
            _refuse(folder, f"{name} has changed since it was sealed")
    if not any(name.startswith(f"{manifest.package}/") for name in manifest.files):
        _refuse(folder, f"there is no ensemble in {manifest.package}")


def _check_paths(folder: Path, manifest: Manifest) -> None:
    """What MLflow is told to read must lie inside: it would follow ``path: ../../..`` wherever that leads."""
    if MODEL not in manifest.files:
        _refuse(folder, f"{MODEL} is missing")
    try:
        flavors = parse((folder / MODEL).read_text(encoding="utf-8"))["flavors"]
        function = dict(flavors["python_function"])
        paths = [function["code"], function["model_code_path"], *(its["path"] for its in function["artifacts"].values())]
        paths += [its["uri"] for its in function["artifacts"].values()]
        loader, others = function["loader_module"], sorted(set(flavors) - {"python_function"})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        _refuse(folder, f"{MODEL} is not one of fuseline's ({type(error).__name__})")
    if loader != LOADER or others or {"python_model", "data"} & function.keys():
        _refuse(folder, f"{MODEL} asks for more than the model's code and its files")
    for path in paths:
        if not isinstance(path, str) or not _is_inside(path):
            _refuse(folder, f"{MODEL} names {path!r}, which is not a plain path inside the folder")


LOADER = "mlflow.pyfunc.loaders.code_model"
"""MLflow's own, which runs the model file and unpickles nothing."""
