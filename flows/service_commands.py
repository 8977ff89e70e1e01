"""Commands for servers and schedules: ``up`` and ``deploy``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.shell import AsJson, app, messages, screen, user_errors


@app.command()
def up(
    processes: Annotated[list[str] | None, typer.Argument(help="mlflow, prefect, worker; without any, all three.")] = None,
    auth: Annotated[bool, typer.Option("--auth", help="Ask for name and password.")] = False,
) -> None:
    """Run MLflow's server, Prefect's server and a worker on this machine, until Ctrl-C."""
    with user_errors():
        from flows.services import run_services
        from fuseline.tracking.settings import load_settings

        def ready(places: dict[str, str]) -> None:
            for name, address in places.items():
                if name != "clients":
                    messages.print(
                        f"[bold]{name}[/bold] is ready: {address.removesuffix('/api')}", highlight=False, soft_wrap=True
                    )
            messages.print(f"in another shell: set -a; . {places['clients']}; set +a", highlight=False, soft_wrap=True)

        code = run_services(load_settings(), processes or [], auth, ready)
    raise typer.Exit(code)


@app.command()
def deploy(
    recipes: Annotated[list[Path] | None, typer.Argument(help="Recipes that get a deployment of their own for training.")] = None,
    cron: Annotated[str | None, typer.Option(help='When they are trained, as "0 2 * * *".')] = None,
    timezone: Annotated[str, typer.Option(help="Of the schedule.")] = "UTC",
    retrain: Annotated[
        bool, typer.Option("--retrain-on-drift", help="Train when an evaluation found drift or regression.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put the deployments of prefect.yaml, and one for each recipe, up on the Prefect server at PREFECT_API_URL."""
    with user_errors():
        from flows.deployments import deploy_all
        from fuseline.errors import UserError
        from fuseline.recipe import load_recipe

        parsed = [load_recipe(recipe) for recipe in recipes or []]
        if not parsed and (cron or retrain):
            raise UserError("--cron and --retrain-on-drift are about recipes; name one.")
        done = deploy_all(parsed, cron, timezone, retrain)
    if as_json:
        print(json.dumps(done))
        return
    for name, page in done.items():
        screen.print(f"{name}  [dim]{page}[/dim]", highlight=False, soft_wrap=True)
