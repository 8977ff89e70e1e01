"""Ends told apart: exceptions by their type and words, processes by their exit code and the kernel's count."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuseline.disk import no_room
from fuseline.errors import NotFiniteError, TrainingError
from fuseline.training import ending
from fuseline.training.checkpoint import Stopped
from fuseline.training.ending import Failure, anonymous_bytes, died, oom_kills, raised, waits_for_a_lock


def caught(function: Callable[[], Any]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_what_fuseline_says_on_purpose_is_said_as_it_is_and_not_tried_again(tmp_path: Path) -> None:
    assert raised(TrainingError("rates: no such parameter"), "a", tmp_path) == Failure("raised", "rates: no such parameter")
    assert raised(NotFiniteError("not finite in epoch 3"), "a", tmp_path) == Failure("not finite", "not finite in epoch 3")
    assert raised(Stopped(), "a", tmp_path) == Failure("stopped", "the run was stopped")
    assert not list(tmp_path.iterdir())


def test_of_others_the_type_and_the_first_line_are_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "failures"
    failure = raised(caught(lambda: {}["here"]), "a", folder)
    (trace,) = folder.iterdir()
    assert failure == Failure("raised", f"KeyError: 'here' (see {trace})", again=True)
    kept = trace.read_text()
    assert kept.startswith("Traceback (most recent call last):")
    assert "in caught" in kept
    assert raised(KeyError(), "a", folder).reason.startswith(f"KeyError (see {folder}/a-")
    assert raised(RuntimeError("one.\ntwo"), "a", folder).reason.startswith(f"RuntimeError: one (see {folder}/a-")
    assert trace.read_text() == kept, "another error of a member of this name keeps its own"
    raised(KeyError(), "a", folder)
    assert len(list(folder.iterdir())) == 3


def test_words_that_no_file_can_hold_are_no_trouble(tmp_path: Path) -> None:
    failure = raised(ValueError("\udcff"), "a", tmp_path)
    (trace,) = tmp_path.iterdir()
    assert failure.reason == f"ValueError: \udcff (see {trace})"
    assert "\\udcff" in trace.read_text()


def test_where_nothing_can_be_written_the_reason_is_said_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert raised(ValueError("oh"), "a", tmp_path / "file") == Failure("raised", "ValueError: oh", again=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.empty(1 << 48),
        lambda: np.empty(1 << 48),
        lambda: (_ for _ in ()).throw(MemoryError),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        lambda: (_ for _ in ()).throw(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")),
        lambda: (_ for _ in ()).throw(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    ],
    ids=["torch", "numpy", "python", "gpu", "cublas", "system"],
)
def test_a_lack_of_memory_is_known_by_whoever_says_so(function: Callable[[], Any], tmp_path: Path) -> None:
    failure = raised(caught(function), "a", tmp_path)
    assert (failure.kind, failure.again) == ("out of memory", True)


def test_a_full_disk_is_known_by_whoever_says_so_and_is_not_tried_again(tmp_path: Path) -> None:
    said = no_room(tmp_path, "a checkpoint")
    assert raised(said, "a", tmp_path) == Failure("no room", str(said))
    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        failure = raised(OSError(number, os.strerror(number), "/tmp/compiled"), "a", tmp_path)
        assert (failure.kind, failure.again) == ("no room", False)
        assert "/tmp/compiled" in failure.reason
    assert not list(tmp_path.iterdir())


def test_a_device_for_which_half_a_batch_is_too_much_is_not_tried_again(tmp_path: Path) -> None:
    def train() -> None:
        raise TrainingError("out of memory on 'cuda:0'; make 'batch_size' smaller.") from torch.OutOfMemoryError("CUDA")

    assert raised(caught(train), "a", tmp_path) == Failure(
        "out of memory", "out of memory on 'cuda:0'; make 'batch_size' smaller."
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-signal.SIGKILL, "its process was killed by SIGKILL"),
        (-signal.SIGSEGV, "its process was killed by SIGSEGV"),
        (-(signal.SIGRTMIN + 3), f"its process was killed by signal {signal.SIGRTMIN + 3}"),
        (3, "its process ended without a word (code 3)"),
        (None, "its process ended without a word (code None)"),
    ],
)
def test_a_process_that_said_nothing_is_told_by_its_code(code: int | None, reason: str) -> None:
    assert died(code, oom_kills()) == Failure("killed", reason, again=True)


def test_a_kill_while_the_kernel_counts_one_for_want_of_memory_is_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "VMSTAT", tmp_path / "vmstat")
    assert oom_kills() == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 8\nswap_ra 0\n")
    assert died(-signal.SIGKILL, 7).kind == "out of memory"
    assert died(-signal.SIGKILL, 8).kind == "killed"
    assert died(-signal.SIGSEGV, 7).kind == "killed"


def test_the_memory_of_a_process_is_what_it_holds_beside_files() -> None:
    before = anonymous_bytes(os.getpid())
    held = np.ones(1 << 24)
    assert 0 < before < before + held.nbytes - 2**20 <= anonymous_bytes(os.getpid())
    assert anonymous_bytes(2**30) == 0


def test_who_waits_for_a_lock_is_seen(tmp_path: Path, until: Callable[..., Any]) -> None:
    script = "import fcntl, sys\nwith open(sys.argv[1], 'a') as file:\n    fcntl.flock(file, fcntl.LOCK_EX)\n    input()\n"
    with (tmp_path / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with subprocess.Popen([sys.executable, "-c", script, tmp_path / "lock"], stdin=subprocess.PIPE) as process:
            until(lambda: waits_for_a_lock(process.pid), "it waits")
            assert not waits_for_a_lock(os.getpid())
            fcntl.flock(file, fcntl.LOCK_UN)
            until(lambda: not waits_for_a_lock(process.pid), "it has the lock")
            process.communicate(b"\n")
