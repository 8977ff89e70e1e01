"""Hostile archives, made here: they don't leave their folder, don't swell, and leave nothing half unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.data import archives
from fuseline.data.archives import OPENERS, SWELL, refuse_swelling, unpack_tar, unpack_zip
from fuseline.data.files import from_npz, from_parquet
from fuseline.errors import DataError

MB = 2**20


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member, b""


def file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder to unpack into, and files beside it that must stay as they are."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "inside"


# ------------------------------------------------------------------------------------------------------------- unpacking


@pytest.mark.parametrize("compression", [None, ".gz", ".bz2", ".xz"])
def test_a_sound_tar_is_unpacked(tmp_path: Path, inside: Path, compression: str | None) -> None:
    mode = f"w:{compression[1:]}" if compression else "w"
    packed = tar(tmp_path / "a.tar", file("set/b", b"1"), file("set/deep/c", b"2"), link("set/d", "deep/c"), mode=mode)
    unpack_tar(packed, inside)
    assert files(inside) == {"set/b": b"1", "set/deep/c": b"2", "set/d": b"2"}


def test_a_sound_zip_is_unpacked_beside_what_is_there(tmp_path: Path, inside: Path) -> None:
    (inside / "set").mkdir()
    (inside / "set" / "old").write_bytes(b"0")
    (inside / "set" / "b").write_bytes(b"0")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/b", b"1")
        archive.writestr("set/deep/c", b"2")
    unpack_zip(tmp_path / "a.zip", inside)
    assert files(inside) == {"set/old": b"0", "set/b": b"1", "set/deep/c": b"2"}


ESCAPES = {
    "up": [file("../escaped")],
    "up later": [file("set/../../escaped")],
    "absolute": [file("/escaped")],
    "link to a file": [link("a", "../secret")],
    "link to a folder, and through it": [link("a", ".."), file("a/escaped")],
    "absolute link": [link("a", "/etc/hostname")],
    "hard link": [link("a", "../secret", tarfile.LNKTYPE)],
    "links in a row": [link("a", "set"), link("set", ".."), file("a/escaped")],
    "a device": [(lambda member: (setattr(member, "type", tarfile.CHRTYPE), (member, b""))[1])(tarfile.TarInfo("null"))],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_no_member_of_a_tar_leaves_the_folder(tmp_path: Path, inside: Path, name: str) -> None:
    packed = tar(tmp_path / "a.tar", file("harmless"), *ESCAPES[name])
    with pytest.raises((DataError, tarfile.FilterError)):
        unpack_tar(packed, inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "inside", "secret"]
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize("name", ["../escaped", "set/../../escaped", "/escaped", "..\\escaped"])
def test_no_member_of_a_zip_leaves_the_folder(tmp_path: Path, inside: Path, refusal: Callable[..., str], name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("harmless", b"1")
        archive.writestr(zipfile.ZipInfo(name), b"2")
    sentence = refusal(DataError, unpack_zip, tmp_path / "a.zip", inside)
    assert "a.zip" in sentence
    assert list(inside.iterdir()) == []


def test_a_link_in_a_zip_leads_nowhere(tmp_path: Path, inside: Path) -> None:
    member = zipfile.ZipInfo("a")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "../secret")
    unpack_zip(tmp_path / "a.zip", inside)
    assert not (inside / "a").is_symlink()
    assert files(inside) == {"a": b"../secret"}


def test_a_small_zip_that_would_be_large_is_not_unpacked(tmp_path: Path, inside: Path, refusal: Callable[..., str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}", bytes(10 * MB))
    assert (tmp_path / "a.zip").stat().st_size < 60_000
    assert f"more than {SWELL} times" in refusal(DataError, unpack_zip, tmp_path / "a.zip", inside)
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_small_tar_that_would_be_large_is_not_unpacked(
    tmp_path: Path, inside: Path, refusal: Callable[..., str], compression: str
) -> None:
    packed = tar(tmp_path / "a.tar", *(file(f"{n}", bytes(10 * MB)) for n in range(3)), mode=f"w:{compression}")
    assert f"more than {SWELL} times" in refusal(DataError, unpack_tar, packed, inside)
    assert list(inside.iterdir()) == []


def test_what_the_disk_has_no_room_for_is_not_unpacked(
    tmp_path: Path, inside: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "free", lambda place: 1000)
    packed = tar(tmp_path / "a.tar", file("a", os.urandom(900)), file("b", os.urandom(900)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", os.urandom(2000))
    assert "1.0 kB are free" in refusal(DataError, unpack_tar, packed, inside)
    assert "1.0 kB are free" in refusal(DataError, unpack_zip, tmp_path / "a.zip", inside)
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("first", [True, False])
def test_a_header_that_claims_to_be_large_is_not_read(
    tmp_path: Path, inside: Path, refusal: Callable[..., str], kind: bytes, first: bool
) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 4 * archives.HEADER
    sound, content = file("a")
    sound.size = len(content)
    parts = [b"" if first else sound.tobuf(), b"" if first else content.ljust(512, b"\0"), header.tobuf()]
    packed = tmp_path / "packed.tar.gz"
    with gzip.open(packed, "wb") as out:
        out.write(b"".join([*parts, bytes(header.size)]))
    said = refusal(DataError, unpack_tar, packed, inside)
    assert "packed.tar.gz: a header claims 4,194,304 bytes" in said
    assert files(inside) == {}


def test_a_long_name_is_read(tmp_path: Path, inside: Path) -> None:
    name = "/".join(["long" * 20] * 5)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "packed.tar", "w", format=form) as archive:
            archive.addfile(*_sized(name, b"there"))
        unpack_tar(tmp_path / "packed.tar", inside)
        assert files(inside) == {name: b"there"}


def _sized(name: str, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, io.BytesIO(content)


@pytest.mark.parametrize("form", ["old", "new"])
def test_files_with_holes_are_not_unpacked(tmp_path: Path, inside: Path, refusal: Callable[..., str], form: str) -> None:
    member = tarfile.TarInfo("holes")
    with tarfile.open(tmp_path / "packed.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        if form == "old":
            member.type = tarfile.GNUTYPE_SPARSE
        else:
            member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        archive.addfile(member)
    assert "packed.tar: it has files with holes" in refusal(DataError, unpack_tar, tmp_path / "packed.tar", inside)


def test_too_many_files_are_not_unpacked(
    tmp_path: Path, inside: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    packed = tar(tmp_path / "a.tar", file("a"), file("b"), file("c"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in "abc":
            archive.writestr(name, b"x")
    assert "more than 2 files" in refusal(DataError, unpack_tar, packed, inside)
    assert "more than 2 files" in refusal(DataError, unpack_zip, tmp_path / "a.zip", inside)
    assert list(inside.iterdir()) == []


def test_who_is_killed_while_unpacking_leaves_nothing_that_looks_whole(tmp_path: Path, inside: Path) -> None:
    packed = tar(tmp_path / "a.tar", file("set/a", b"1"), file("set/b", b"2"))
    script = f"""
import os, signal, tarfile
from pathlib import Path
from fuseline.data import archives

whole = tarfile.data_filter

def filter(member, path):
    if member.name == "set/b":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(member, path)

tarfile.data_filter = filter
archives.unpack_tar(Path({str(packed)!r}), Path({str(inside)!r}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert len(list(inside.iterdir())) == 1
    assert not (inside / "set").exists()
    unpack_tar(packed, inside)
    assert files(inside) == {"set/a": b"1", "set/b": b"2"}


# --------------------------------------------------------------------------------------------------------- single files


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_small_file_that_would_be_large_is_not_read(
    tmp_path: Path, refusal: Callable[..., str], suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    assert suffix in OPENERS
    (tmp_path / f"a{suffix}").write_bytes(pack(bytes(30 * MB)))
    assert f"a{suffix}: unpacked" in refusal(DataError, refuse_swelling, tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").write_bytes(pack(os.urandom(MB)))
    refuse_swelling(tmp_path / f"a{suffix}")


# ------------------------------------------------------------------------------------------------------------------ npz


def npz(path: Path, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(path)


def array(shape: str, data: bytes, dtype: str = "<f8", version: bytes = b"\x01\x00") -> bytes:
    """An array in NumPy's format, with any shape in its header (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def test_a_sound_header_of_ours_is_read(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x=array("(2,)", bytes(16)), y=array("(2,)", bytes(16), version=b"\x02\x00"))
    assert from_npz(path=path).frame.to_dict("list") == {"x": [0, 0], "y": [0, 0]}


@pytest.mark.parametrize(
    "shape",
    ["(1000000000000,)", "(3,)", "(1,)", "(-2,)", "(2, 1000000, 1000000)", "(99999999999999999999999,)", "(True,)", "2", "'ab'"],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00"])
def test_an_array_that_claims_another_size_than_it_has_is_refused(
    tmp_path: Path, refusal: Callable[..., str], shape: str, version: bytes
) -> None:
    path = npz(tmp_path / "a.npz", x=array(shape, bytes(16), version=version))
    assert "a.npz" in refusal(DataError, from_npz, path=path)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00", b"words", array("(2,)", b"", "|O")]
)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, refusal: Callable[..., str], content: bytes) -> None:
    assert "a.npz" in refusal(DataError, from_npz, path=npz(tmp_path / "a.npz", x=content))


def test_a_header_that_does_not_end_is_not_read(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = npz(tmp_path / "a.npz", x=array("(2,)" + " " * 50_000, bytes(16), version=b"\x02\x00"))
    assert "a.npz" in refusal(DataError, from_npz, path=path)


def test_a_claim_in_the_archives_own_list_is_refused_too(tmp_path: Path, refusal: Callable[..., str]) -> None:
    """The member is said to have a petabyte (in the 64-bit field of the format, https://pkware.com/appnote)."""
    data = array(f"({2**50 // 8},)", bytes(16))
    member = zipfile.ZipInfo("x.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(member, data)
        member.file_size = 2**50  # what is written into the list at the end
    sentence = refusal(DataError, from_npz, path=str(tmp_path / "a.npz"))
    assert "unpacked, its arrays take 1126" in sentence


Memory = namedtuple("Memory", "available")


def test_arrays_that_memory_does_not_hold_are_not_unpacked(
    tmp_path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(50 * MB, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 60_000
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(40 * MB))
    sentence = refusal(DataError, from_npz, path=str(tmp_path / "a.npz"))
    assert "its arrays take 52 MB, and 42 MB of memory are free" in sentence


def test_a_packing_that_numpy_does_not_use_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", array("(2,)", bytes(16)))
    assert "x.npy is packed" in refusal(DataError, from_npz, path=str(tmp_path / "a.npz"))


# -------------------------------------------------------------------------------------------------------------- parquet


def test_a_small_table_that_would_be_large_is_not_read(tmp_path: Path, refusal: Callable[..., str], monkeypatch: Any) -> None:
    import pandas as pd

    pd.DataFrame({"x": np.zeros(20 * MB, np.int8)}).to_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < MB
    assert len(from_parquet(path=str(tmp_path / "a.parquet")).frame) == 20 * MB
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(10 * MB))
    assert "its 20,971,520 values" in refusal(DataError, from_parquet, path=str(tmp_path / "a.parquet"))
