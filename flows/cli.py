"""The ``fuseline`` command. Thin: each command imports what it needs when it runs."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from typing import Annotated

import typer

from flows.shell import AsJson, Overrides, RecipePath, app, messages, screen, user_errors


def main() -> None:
    """The command. It leaves at once when all is done: taking torch, Prefect and MLflow down object by object takes seconds."""
    try:
        app()
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        threading._shutdown()  # type: ignore[attr-defined]  # as Python itself: idle threads of pools end, others are waited for
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train, fuse, judge and register the ensemble that a recipe describes."""
    with user_errors():
        from flows.server import prefect_server

        with prefect_server() as address:  # first of all: it takes longer to start than all that is loaded meanwhile
            from fuseline.recipe import load_recipe

            parsed = load_recipe(recipe, overrides or [])
            from flows.running import run_train

            summary = run_train(parsed, address, messages)
        if as_json:
            print(json.dumps(summary, allow_nan=False))
            return
        from flows.boards import show_summary

        show_summary(summary, screen)


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Validate a recipe and its data and print the plan, without training anything."""
    with user_errors():
        from flows.boards import show_plan
        from fuseline.disk import free
        from fuseline.footprint import estimate
        from fuseline.plan import make_plan, rough_seconds
        from fuseline.recipe import load_recipe
        from fuseline.store import Store, read_json

        plan, folder = make_plan(load_recipe(recipe, overrides or []), Store())
        statistics = read_json(folder / "statistics.json")
        statistics["rough_seconds"] = rough_seconds(plan)
        statistics["fingerprint"] = plan.dataset.fingerprint
        statistics["room"] = {"needed": estimate(plan, Store()).total, "free": free(Store().root)}
        if as_json:
            print(json.dumps(statistics, allow_nan=False))
        else:
            show_plan(plan.recipe, statistics, screen)


@app.command()
def components(
    family: Annotated[str | None, typer.Argument(help="One family alone, as fusions; without it, the families.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what a recipe may name: sources, partition rules, architectures, losses, fusion rules and all else."""
    with user_errors():
        from flows.boards import show_components
        from fuseline.catalogue import FAMILIES, entries

        found = {name: entries(name) for name in ([family] if family else FAMILIES)}
        if as_json:
            print(json.dumps({name: [entry._asdict() for entry in its] for name, its in found.items()}))
        else:
            show_components(found, screen)


@app.command()
def leaderboard(
    name: Annotated[str | None, typer.Argument(help="Runs of this recipe only.")] = None,
    most: Annotated[int, typer.Option(help="How many runs at the most.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List past runs, newest first."""
    with user_errors():
        from flows.boards import show_runs
        from fuseline.tracking.history import past_runs
        from fuseline.tracking.settings import load_settings

        runs = past_runs(load_settings(), name, most)
        if as_json:
            print(json.dumps(runs, allow_nan=False))
        else:
            show_runs(runs, screen)


@app.command()
def reconcile(as_json: AsJson = False) -> None:
    """Let records tell the truth about runs whose process died, and deliver to MLflow what still waits."""
    with user_errors():
        from flows.server import prefect_server

        with prefect_server() as address:
            from flows.boards import show_mended
            from flows.running import mend

            mended = mend(address)
        if as_json:
            print(json.dumps(mended))
        else:
            show_mended(mended, screen)


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what the store holds that no tracked run needs, or remove it."""
    with user_errors():
        from flows.boards import show_garbage
        from fuseline.garbage import collect
        from fuseline.store import Store
        from fuseline.tracking.named import named_entries
        from fuseline.tracking.settings import load_settings

        settings = load_settings()
        tallies = collect(Store(), lambda: named_entries(settings), delete=yes)
        if as_json:
            print(json.dumps([tally._asdict() for tally in tallies]))
        else:
            show_garbage(tallies, yes, screen)


@app.command()
def ui(port: Annotated[int | None, typer.Option(help="Another port than mlflow.yml's.", min=1, max=65535)] = None) -> None:
    """Open MLflow's pages on this machine."""
    with user_errors():
        from flows.ui import serve_ui
        from fuseline.tracking.settings import load_settings

        serve_ui(load_settings(), port)


from flows import evaluate_commands as _evaluate_commands  # noqa: E402, F401  (they add their commands)
from flows import promote_commands as _promote_commands  # noqa: E402, F401
from flows import service_commands as _service_commands  # noqa: E402, F401
from flows import sweep_commands as _sweep_commands  # noqa: E402, F401
from flows import use_commands as _use_commands  # noqa: E402, F401
