"""What all commands share: the application, the screen, common options, and how errors end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from flows.signals import Interrupted, heeded
from fuseline.errors import FuselineError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The ``fuseline`` command.")
screen, messages = Console(), Console(stderr=True)

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value, as members.0.epochs=5.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary alone, as JSON, on standard output.")]


OURS = ("flows", "tasks", "fuseline")


class _Shown(logging.Handler):
    """Shows warnings between the bars of a screen."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = Text(f"warning: {record.getMessage()}", style="yellow")
            self.console.print(said, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextmanager
def warnings_shown(console: Console) -> Iterator[None]:
    """Show our own warnings on a screen, and nowhere else: Prefect's logging would put them in a form of its own, or nowhere."""
    shown, loggers = _Shown(console), [logging.getLogger(name) for name in OURS]
    for logger in loggers:
        logger.addHandler(shown)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(shown)
            logger.propagate = True


@contextmanager
def user_errors() -> Iterator[None]:
    """One sentence for what fuseline itself says no to, or for the signal that ended it, and the exit code."""
    try:
        with heeded(), warnings_shown(messages):
            yield
    except FuselineError as error:
        messages.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except Interrupted as end:
        messages.print(f"[red]{end}[/red]; what is finished is kept: the same command goes on from there", highlight=False)
        raise typer.Exit(end.exit_code) from None
