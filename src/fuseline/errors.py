"""The exception tree.

FuselineError            anything that fuseline itself says no to
├── UserError            a mistake in a recipe, a file or an argument: one sentence, exit code 2
│   ├── RecipeError      the recipe: names the field
│   ├── DataError        the data: names the file, the row or the column
│   └── NoRoomError      the disk: names the folder (disk.py)
├── TrainingError        a member could not be trained: names the member and why
│   ├── NotFiniteError   its loss is no longer finite
│   └── MemberFailed     how a member's training ended in a run, after all attempts
└── PackageError         a package can't be trusted or read
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Ending = Literal["out of memory", "killed", "raised", "hung", "timed out", "not finite", "no room", "stopped"]
"""The kinds of ends that training can come to before its time. ``killed`` is any process that ended without a word;
``no room``, a full disk, ends the whole run."""


class FuselineError(Exception):
    """Base of every error that fuseline raises on purpose."""

    exit_code = 1


class UserError(FuselineError):
    """A mistake that the user can mend; the message says where it is and what to do."""

    exit_code = 2


class RecipeError(UserError):
    """The recipe is wrong; the message names the field by its path."""


class DataError(UserError):
    """The data are wrong; the message names the file, the row or the column."""


class TrainingError(FuselineError):
    """A member could not be trained."""


class NotFiniteError(TrainingError):
    """A member's loss is no longer finite; the message names the epoch."""


class MemberFailed(TrainingError):  # noqa: N818 (it says what has happened)
    """A member could not be trained in as many attempts as the recipe allows."""

    def __init__(self, member: str, reason: str, kind: Ending = "raised", attempts: int = 1) -> None:
        super().__init__(member, reason, kind, attempts)  # so that it can be pickled
        self.member, self.reason, self.kind, self.attempts = member, reason, kind, attempts
        self.curves: Sequence[Sequence[Mapping[str, Any]]] = ()
        """The epochs of each replica that came to an end, where somebody listened."""

    def __str__(self) -> str:
        return f"member {self.member!r}: {self.reason}"


class PackageError(FuselineError):
    """A packaged ensemble can't be trusted or read."""


def first_line(error: BaseException) -> str:
    """What an error says, short enough for the middle of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
