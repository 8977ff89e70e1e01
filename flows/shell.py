"""What all commands share: the application, the screen, common options, and how errors end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.signals import Interrupted, heeded
from fuseline.errors import FuselineError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The ``fuseline`` command.")
screen, messages = Console(), Console(stderr=True)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value, as members.0.epochs=5.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary alone, as JSON, on standard output.")]


@contextmanager
def user_errors() -> Iterator[None]:
    """One sentence for what fuseline itself says no to, or for the signal that ended it, and the exit code."""
    try:
        with heeded():
            yield
    except FuselineError as error:
        messages.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except Interrupted as end:
        messages.print(f"[red]{end}[/red]; what is finished is kept: the same command goes on from there", highlight=False)
        raise typer.Exit(end.exit_code) from None
