"""Prefect's server as uvicorn starts it: see :mod:`flows.server`."""

from __future__ import annotations

import gc
from typing import Any


def create_app() -> Any:
    """The app of Prefect's server with its pages, made without the garbage collector: it would look through all that is being
    imported again and again, and find nothing."""
    gc.disable()
    from prefect.server.api.server import create_app as prefect_app

    app = prefect_app()
    gc.freeze()
    gc.enable()
    return app
