"""The commands about champions: who becomes one, who was, and back again."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flows.shell import AsJson, app, messages, screen, user_errors

ModelName = Annotated[str, typer.Argument(help="The registered model, as the recipe names it.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Why; it is recorded in the history.", show_default=False)]


@app.command()
def promote(
    name: ModelName,
    version: Annotated[int, typer.Argument(help="The version that is to become the champion.", min=1, show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Whatever the gate says; takes a --reason.")] = False,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Judge a version against the champion on its test rows, and let it take the champion's place if it is better."""
    with user_errors():
        from flows.server import prefect_server

        with prefect_server() as address:
            from flows.promoting import run_promote

            outcome = run_promote(name, version, force, reason, address)
        if as_json:
            print(json.dumps(outcome.tree, allow_nan=False))
        else:
            screen.print(outcome.text(), highlight=False, soft_wrap=True, markup=False)
    if outcome.champion != version:
        raise typer.Exit(1)


@app.command()
def rollback(name: ModelName, reason: Reason = None, as_json: AsJson = False) -> None:
    """Let the previous champion be the champion again."""
    with user_errors():
        from fuseline.tracking.promote import roll_back
        from fuseline.tracking.settings import load_settings

        event = roll_back(load_settings(), name, reason or "rolled back by hand")
        if as_json:
            print(json.dumps(event.tree()))
        else:
            messages.print(f"{name}: the champion was version {event.before}, and is version {event.after}", highlight=False)


@app.command()
def history(name: ModelName, as_json: AsJson = False) -> None:
    """List what happened to a model's champions, and what was judged, newest first."""
    with user_errors():
        from flows.boards import show_history
        from fuseline.tracking.promote import history as history_of
        from fuseline.tracking.settings import load_settings

        events = [event.tree() for event in history_of(load_settings(), name)]
        if as_json:
            print(json.dumps(events))
        else:
            show_history(events, screen)
