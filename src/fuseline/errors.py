"""The exception tree.

FuselineError            anything that fuseline itself says no to
├── UserError            a mistake in a recipe, a file or an argument: one sentence, exit code 2
│   ├── RecipeError      the recipe: names the field
│   └── DataError        the data: names the file, the row or the column
├── TrainingError        a member could not be trained: names the member and why
└── PackageError         a package can't be trusted or read
"""


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


class PackageError(FuselineError):
    """A packaged ensemble can't be trusted or read."""


def first_line(error: BaseException) -> str:
    """What an error says, short enough for the middle of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
