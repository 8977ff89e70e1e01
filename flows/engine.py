"""Prefect's engine as a worker starts it for each flow run of a deployment.

The process is told to end when its worker dies, however it dies: so no training goes on that nobody watches, and what is
finished is kept. Processes that are started from here look into the main module, which is this one and not the engine: it is
imported in no time.
"""

from __future__ import annotations

import runpy

from flows.parent import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    runpy.run_module("prefect.engine", run_name="__main__")
