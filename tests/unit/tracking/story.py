"""A run that tells all that can be told, for a process that may die at any step of telling it or of delivering it.

As a script, ``story.py tell`` or ``story.py deliver``, it dies by SIGKILL again and again until it has come to its end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuseline.data.schema import Schema, TargetSchema
from fuseline.store import home
from fuseline.tracking import tags
from fuseline.tracking.records import Data, Start, Version
from fuseline.tracking.spool import Spool, spools, start_run

SCHEMA = Schema(numeric=["x"], targets={"kind": TargetSchema(kind="regression")})
CURVE = [("loss", 1 / step, 1000 + step, step) for step in range(1, 5)]


def tell(package: Path) -> Spool:
    """A parent with its data, files and version, a child that failed and then finished, and one that has an origin."""
    spool = start_run("key", "recipe", {"color": "red"})
    run = spool.run
    spool.tell(run, label="recipe", params={"a": 1}, data=Data(name="d", digest="d1", origin="here", schema_=SCHEMA))
    spool.tell(run, label="plan", files=[spool.keep("plan", {"a.txt": "a"}, "plan")])
    child = spool.child("member", "m")
    begun = Start(name="m", kind="member", key="m", parent=run, at=1000)
    spool.tell(child, label="failed", at=1001, start=begun, tags={tags.REASON: "why"}, end="FAILED")
    spool.tell(child, label="done", at=2000, start=begun, params={"b": 2}, points=CURVE, origin="m", end="FINISHED")
    version = Version(name="model", package=str(package), plan="plan", tags={"recipe": "recipe"})
    spool.tell(run, label="register", version=version)
    spool.tell(child, label="scores", metrics={"score": 0.5})
    spool.tell(run, metrics={"seconds": 1.0}, files=[spool.keep("end", {"b.txt": "b"})], summary={"x": 1}, end="FINISHED")
    return spool


def save(function: str, package: Path, plan: Path, place: Path) -> None:
    """Stands in for the process that writes the model."""
    place.mkdir()
    (place / "MLmodel").write_text(package.name)


def seal(place: Path, package: Path, plan: Path, private_key: str | None) -> str:
    """Stands in for what seals it."""
    return f"manifest of {package.name}"


class Fate:
    """Lets so many calls be made, and kills this process after the next one."""

    def __init__(self, granted: int) -> None:
        self.granted = granted

    def after(self, its: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            result = its(*args, **settings)
            self.granted -= 1
            if self.granted < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def telling(life: int) -> None:
    """Tell the story, and die after one record more than in the life before."""
    Spool.tell = Fate(life).after(Spool.tell)  # type: ignore[method-assign]
    tell(home() / "package")


SENDS = ("create_run", "update_run", "delete_tag", "log_batch", "log_inputs", "log_artifacts", "log_dict", "set_terminated")


def delivering(life: int) -> None:
    """Deliver what was told, and die when something was sent and is not noted, or, in every other life, when it is noted."""
    from fuseline.tracking import registry
    from fuseline.tracking.deliver import Deliverer
    from fuseline.tracking.delivery import State
    from fuseline.tracking.runs import MlflowClient
    from fuseline.tracking.settings import load_settings

    fate = Fate(life % 2)
    registry.apart = save  # type: ignore[assignment]
    registry.seal_model = seal
    for name in SENDS:
        setattr(MlflowClient, name, fate.after(getattr(MlflowClient, name)))
    State.write = fate.after(State.write)  # type: ignore[method-assign]
    deliverer, folders = Deliverer(home(), load_settings()), spools()
    if deliverer.wait(folders, patience=60):
        raise SystemExit("not all was delivered")


def main() -> None:
    """Live again and again until a life ends by itself; the number of deaths, and how the last life ended.

    All lives are forked from this process, which has loaded MLflow and made its database, but holds no connection to it.
    """
    live = {"tell": telling, "deliver": delivering}[sys.argv[1]]
    if live is delivering:
        import fuseline.tracking.steps  # noqa: F401
        from fuseline.tracking.runs import MlflowClient
        from fuseline.tracking.settings import load_settings

        client = MlflowClient(load_settings().server.mlflow_tracking_uri)
        for its in (client._tracking_client, client._get_registry_client()):
            its.store.engine.dispose()
    life = 0
    while True:
        child = os.fork()
        if not child:
            live(life)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(life, os.waitstatus_to_exitcode(status), flush=True)
            return
        life += 1


if __name__ == "__main__":
    main()
