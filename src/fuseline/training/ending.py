"""Why training ended before its time: the kinds of ends told apart, and what is said of each."""

from __future__ import annotations

import errno
import hashlib
import signal
import traceback
from pathlib import Path
from typing import NamedTuple

from fuseline.apart import ending
from fuseline.disk import NO_ROOM, NoRoomError
from fuseline.errors import Ending, FuselineError, NotFiniteError, first_line

VMSTAT = Path("/proc/vmstat")
LOCKS = Path("/proc/locks")


class Failure(NamedTuple):
    """Why something was not trained.

    Attributes:
        again: whether another attempt may end otherwise.
    """

    kind: Ending
    reason: str
    again: bool = False


STOPPED = Failure("stopped", "the run was stopped")


def raised(error: BaseException, member: str, traces: Path) -> Failure:
    """A member's end by an exception. Of one that fuseline does not raise on purpose the traceback is kept in the folder
    ``traces``."""
    from fuseline.training.checkpoint import Stopped  # which takes torch: a worker has it, who watches over it has not

    if isinstance(error, Stopped):
        return STOPPED
    if isinstance(error, NotFiniteError):
        return Failure("not finite", str(error))
    if isinstance(error, NoRoomError):
        return Failure("no room", str(error))
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return Failure("no room", f"There is no room on the disk ({first_line(error)}); make room.")
    kind: Ending = "out of memory" if _is_out_of_memory(error) or _is_out_of_memory(error.__cause__) else "raised"
    if isinstance(error, FuselineError):
        return Failure(kind, str(error))
    name, said = type(error).__name__, first_line(error)
    reason = name if said == name else f"{name}: {said}"
    if (trace := _kept(error, member, traces)) is not None:
        reason += f" (see {trace})"
    return Failure(kind, reason, again=True)


def died(code: int | None, oom_kills_before: int) -> Failure:
    """The end of a process that said nothing, by its exit code; the kernel counts how often it kills for want of memory."""
    if code == -signal.SIGKILL and oom_kills() > oom_kills_before:
        return Failure("out of memory", "the machine ran out of memory, and the kernel killed its process", again=True)
    return Failure("killed", ending(code), again=True)


def oom_kills() -> int:
    """How many processes the kernel has killed since the machine was started because memory ran out; 0 where it does not tell."""
    return _field(VMSTAT, "oom_kill")


def anonymous_bytes(pid: int) -> int:
    """The memory that a process holds in RAM and that is no file's; 0 where the kernel does not tell."""
    return 1024 * _field(Path(f"/proc/{pid}/status"), "RssAnon:")


def waits_for_a_lock(pid: int) -> bool:
    """Whether a process waits for a file lock that another one holds, as where two runs train the same member."""
    return any(words[1:2] == ["->"] and words[5:6] == [str(pid)] for words in _lines(LOCKS))


def _field(path: Path, name: str) -> int:
    return next((int(words[1]) for words in _lines(path) if words[:1] == [name]), 0)


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return []


def _is_out_of_memory(error: BaseException | None) -> bool:
    """torch raises a plain RuntimeError where a CPU has no memory, or a GPU's libraries have none."""
    from torch import OutOfMemoryError

    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return told or isinstance(error, MemoryError | OutOfMemoryError)


def _kept(error: BaseException, member: str, folder: Path) -> Path | None:
    """The file that keeps an error's traceback, named by what it holds too: members of other recipes have the same names."""
    content = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    path = folder / f"{member}-{hashlib.sha256(content).hexdigest()[:8]}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError:  # a full disk must not hide what happened
        return None
    return path
