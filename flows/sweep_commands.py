"""``fuseline sweep``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.shell import AsJson, Overrides, app, messages, screen, user_errors

Recipes = Annotated[list[Path], typer.Argument(help="Recipes, YAML files.", show_default=False)]
Grid = Annotated[
    list[str] | None, typer.Option("--grid", metavar="PATH=VALUE,VALUE", help="Values to be tried, as members.0.epochs=10,30.")
]
Register = Annotated[bool, typer.Option("--register/--no-register", help="Whether the chosen one becomes a version.")]


@app.command()
def sweep(
    recipes: Recipes, grid: Grid = None, overrides: Overrides = None, register: Register = True, as_json: AsJson = False
) -> None:
    """Train many recipes, or a grid over one, and compare them on one leaderboard."""
    with user_errors():
        from flows.server import prefect_server

        with prefect_server() as address:
            from fuseline.grid import candidates, parse_grid
            from fuseline.recipe import load_recipe

            parsed, values = [load_recipe(path, overrides or []) for path in recipes], parse_grid(grid or [])
            candidates(parsed, values)  # a mistake in them is told before anything is loaded
            from flows.running import attended, without_collector
            from fuseline.apart import warm

            warm()
            with without_collector():
                from flows.sweep import sweep as flow
                from tasks.tracking import open_tracker
            open_tracker(parsed[0].name)
            board = attended(partial(flow, parsed, values, register), parsed[0].name, address, messages)
        if as_json:
            print(json.dumps(board, allow_nan=False))
            return
        from flows.sweep_board import show_sweep

        show_sweep(board, screen)
