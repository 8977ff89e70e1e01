"""Keys that sign packages: ed25519 (RFC 8032), each key a PEM file of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fuseline.errors import UserError

PRIVATE, PUBLIC = "fuseline.key", "fuseline.pub"


def make_pair(folder: Path) -> tuple[Path, Path]:
    """A new pair of keys in a folder: the private one, which its owner alone may read, and the public one.

    Raises:
        UserError: there is one already, or the folder can't be written to.
    """
    key = Ed25519PrivateKey.generate()
    private, public = folder / PRIVATE, folder / PUBLIC
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except FileExistsError:
        raise UserError(f"{private} is there already and is left as it is; name another folder.") from None
    except OSError as error:
        raise UserError(f"{folder}: the keys can't be written ({error.strerror}).") from None
    return private, public


def sign(content: bytes, private: Path) -> tuple[str, str]:
    """The public key and the signature of some bytes, both as hexadecimal digits.

    Raises:
        UserError: the key can't be read, is no ed25519 key, or others may read it.
    """
    key = _private(private)
    return key.public_key().public_bytes_raw().hex(), key.sign(content).hex()


def is_signed(content: bytes, public: str, signature: str) -> bool:
    """Whether the holder of the key whose public half is ``public`` has signed these bytes; both are hexadecimal digits."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def trusted(files: Sequence[Path]) -> set[str]:
    """The public keys in some files, as hexadecimal digits.

    Raises:
        UserError: names the file that can't be read or holds no ed25519 key.
    """
    keys = set()
    for file in files:
        try:
            key = load_pem_public_key(file.read_bytes())
        except OSError as error:
            raise _unusable(file, "public", error.strerror or "not readable") from None
        except ValueError:
            raise _unusable(file, "public", "it is not PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise _unusable(file, "public", "it is not of the kind ed25519")
        keys.add(key.public_bytes_raw().hex())
    return keys


def _private(file: Path) -> Ed25519PrivateKey:
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise UserError(f"{file}: others may read this private key; take that from them with `chmod 600`.")
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise _unusable(file, "private", error.strerror or "not readable") from None
    except (ValueError, TypeError):
        raise _unusable(file, "private", "it is not PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(file, "private", "it is not of the kind ed25519")
    return key


def _unusable(file: Path, which: str, why: str) -> UserError:
    return UserError(f"{file}: this {which} key can't be used ({why}); make a pair with `fuseline keygen`.")
