"""``fuseline evaluate``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.shell import AsJson, Overrides, app, messages, screen, user_errors

Model = Annotated[str, typer.Argument(help="NAME@ALIAS, as wine@champion, or NAME/VERSION.", show_default=False)]
NewRows = Annotated[Path, typer.Option("--data", help="New rows, with or without targets.", show_default=False)]


@app.command()
def evaluate(model: Model, data: NewRows, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Judge a registered version on new rows, against its own test rows: metrics, drift and disagreement."""
    with user_errors():
        from flows.server import prefect_server

        with prefect_server() as address:
            from flows.running import attended, without_collector
            from fuseline.apart import warm

            warm()
            with without_collector():
                from flows.evaluate import evaluate as flow
            report = attended(partial(flow, model, data, overrides), model, address, messages)
        if as_json:
            print(json.dumps(report, allow_nan=False))
            return
        from flows.evaluate_board import show_assessment

        show_assessment(report, screen)
