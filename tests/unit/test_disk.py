"""Room on the disk: what is told, and what is taken for a lack of it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fuseline.disk import NO_ROOM, free, largest_file, no_room, ran_out, reserve


@pytest.fixture
def limited() -> Iterator[None]:
    """No file may be larger than 1 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_room_is_told_of_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert free(tmp_path / "deep" / "deeper") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert not (tmp_path / "deep").exists()


def test_the_sentence_says_where_how_much_and_what_to_do(tmp_path: Path) -> None:
    error = no_room(tmp_path, "bank abc")
    assert error.exit_code == 2
    sentence = str(error)
    assert sentence.startswith(f"There is no room for bank abc in {tmp_path}, where ")
    assert [word for word in ("are free;", "fuseline gc", "FUSELINE_HOME") if word not in sentence] == []
    assert "larger" not in sentence


@pytest.mark.usefixtures("limited")
def test_a_limit_of_files_is_said_too(tmp_path: Path) -> None:
    assert largest_file() == 1_000_000
    assert "no file may be larger than 1.0 MB" in str(no_room(tmp_path, "x"))


@pytest.mark.parametrize("number", sorted(NO_ROOM))
def test_errors_of_room_are_known_by_number_or_words(tmp_path: Path, number: int) -> None:
    assert ran_out(OSError(number, "whatever"), tmp_path)
    assert ran_out(Exception(f"Error while serializing: {os.strerror(number)} (os error {number})"), tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError("12 requested and 0 written"),
        RuntimeError("odd"),
        ValueError("odd"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_none_while_there_is_room(tmp_path: Path, error: BaseException) -> None:
    assert not ran_out(error, tmp_path)
    assert not ran_out(error, tmp_path / "gone")


@pytest.mark.usefixtures("limited")
def test_an_error_without_a_number_is_one_of_room_if_there_is_none(tmp_path: Path) -> None:
    odd = OSError("12 requested and 0 written")
    (tmp_path / "a").write_bytes(bytes(999_999))
    assert not ran_out(odd, tmp_path)
    (tmp_path / "a").write_bytes(bytes(1_000_000))
    assert ran_out(odd, tmp_path)
    assert not ran_out(ValueError("odd"), tmp_path)


def test_a_mapped_file_gets_its_room_at_once(tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (1000, 1000))
    array[0] = 1
    assert (tmp_path / "a.npy").stat().st_blocks * 512 < 4_000_000, "it is sparse"
    reserve(tmp_path / "a.npy")
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 4_000_000
    assert array.sum() == 1000


MAPPED = """
import os, sys
from pathlib import Path
import numpy as np
from fuseline.disk import ran_out, reserve

file = Path(sys.argv[1]) / "a.npy"
array = np.lib.format.open_memmap(file, "w+", np.float32, (1000, 1000))
if sys.argv[2] == "reserved":
    try:
        reserve(file)
    except OSError as error:
        print(ran_out(error, file.parent))
        sys.exit(3)
array[:] = 1
"""


@pytest.mark.parametrize(("way", "code", "said"), [("as it is", -signal.SIGBUS, ""), ("reserved", 3, "True\n")])
def test_room_that_is_not_there_is_an_error_and_no_signal(tmp_path: Path, way: str, code: int, said: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root alone")
    try:
        done = subprocess.run([sys.executable, "-c", MAPPED, tmp_path, way], capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
    assert (done.returncode, done.stdout) == (code, said)
