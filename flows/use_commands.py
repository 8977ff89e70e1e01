"""Commands for a registered ensemble: predict, serve, and the keys that say whom to trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.shell import AsJson, app, messages, screen, user_errors
from flows.signals import Interrupted

Model = Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION, as wine@champion.", show_default=False)]


@app.command()
def predict(
    model: Model,
    data: Annotated[Path, typer.Option(help="A Parquet, CSV or npz file, or a folder of pictures.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The Parquet file of the answers.", show_default=False)],
    rejects: Annotated[Path | None, typer.Option(help="Where rows that can't be answered go: .parquet or .csv.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer rows with a registered ensemble: classes or values, probabilities, uncertainty, conformal sets or intervals."""
    with user_errors():
        from flows.server import prefect_server, wait_until_up

        with prefect_server() as address:
            from flows.running import drain, without_collector
            from fuseline.apart import warm

            warm()
            with without_collector():
                from flows.predict import predict as flow
            wait_until_up(address)
            try:
                done = flow(model, str(data), str(out), "" if rejects is None else str(rejects))
            finally:
                drain()
        if as_json:
            print(json.dumps(done))
            return
        screen.print(f"{done['rows']:,} rows answered by {done['model']}/{done['version']}: {out}", highlight=False)
        if done["rejected"]:
            messages.print(f"[yellow]{done['rejected']:,} rows rejected[/yellow]: {done['rejects']}", highlight=False)


@app.command()
def serve(
    model: Model, port: Annotated[int, typer.Option(help="Of the server, on this machine alone.", min=1, max=65535)] = 5001
) -> None:
    """Serve a registered ensemble over HTTP, from a private copy that was verified, until Ctrl-C."""
    with user_errors():
        from flows.serving import serve as serve_model

        try:
            serve_model(model, port, messages)
        except Interrupted as end:  # that is how it ends
            messages.print(f"{end}")
            raise typer.Exit(end.exit_code) from None


@app.command()
def keygen(folder: Annotated[Path, typer.Argument(help="Where the two files go.", show_default=False)]) -> None:
    """Make a pair of keys: one that signs packages, and one by which they are trusted."""
    with user_errors():
        from fuseline.package.signing import make_pair

        private, public = make_pair(folder)
        screen.print("In mlflow.yml, where packages are made and where they are used:", highlight=False)
        screen.print(
            f"signing:\n  private_key: {private}\n  public_keys: [{public}]", markup=False, highlight=False, soft_wrap=True
        )
