"""What tests of the whole command share. Nothing is written outside temporary folders.

The command is dear to start, so one real run in a process of its own (``first_run``) is inspected by many tests, and further
runs go through one process that stays up (``commands``) and talks to one Prefect server (``server``).
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
import torch
from xdist.scheduler import LoadFileScheduling

from tests.servers import PLANTED, Servers, missing, postgresql
from tests.servers import until as servers_until

ROOT = Path(tempfile.mkdtemp(prefix="fuseline-tests-"))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)
os.environ["PREFECT_HOME"] = str(ROOT / "prefect")  # read when prefect is imported, which a test file may do
os.environ["FUSELINE_HOME"] = str(ROOT / "home")
for _name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
    os.environ.pop(_name, None)

FUSELINE = Path(sys.executable).with_name("fuseline")

torch.set_num_threads(1)  # tests run side by side, and their tensors are small
threadpoolctl.threadpool_limits(1)

RUNS = tuple(f"tests/flows/test_{name}.py" for name in ("tracking", "run", "room", "package", "use", "evaluate", "promotion"))
RUNS += ("tests/security/test_package.py",)
SERVERS = ("tests/life/", "tests/browser/", "tests/security/test_servers.py", "tests/security/test_secrets.py")

WINE = """
name: wine
data:
  source: {sklearn: {name: wine}}
  split: {rule: stratified, fusion: 0.0, calibration: 0.15, test: 0.35}
targets:
  wine: {kind: classification, column: target}
partition: {kfold: {folds: 3}}
members:
  - name: linear
    architecture: {mlp: {hidden: []}}
    optimizer: {adamw: {lr: 0.05}}
    epochs: 6
    batch_size: 16
    early_stopping: null
  - name: mlp
    architecture: {mlp: {hidden: [16]}}
    optimizer: {adamw: {lr: 0.03}}
    epochs: 6
    batch_size: 16
    early_stopping: {holdout: 0.2, patience: 5}
fusion:
  rules: [mean, vote, weights, greedy, stacking]
evaluation: {resamples: 200}
registry:
  floors: {wine: {accuracy: 0.6}}
"""

MIXED = """
name: mixed
data:
  source: {parquet: {path: table.parquet}}
  id: name
  split: {rule: stratified, fusion: 0.25, calibration: 0.15, test: 0.2}
targets:
  kind: {kind: classification, fusion: [mean, features]}
  size: {kind: regression, fusion: [weights, stacking]}
partition: full
members:
  - name: mlp
    architecture: {mlp: {hidden: [12]}}
    optimizer: {adamw: {lr: 0.02}}
    epochs: 8
    batch_size: 16
    early_stopping: null
evaluation: {resamples: 200}
"""


BOOTSTRAP = """
name: bootstrap
data:
  source: {sklearn: {name: iris}}
targets:
  iris: {kind: classification, column: target}
partition: bootstrap
members:
  - {name: linear, count: 1, architecture: {mlp: {hidden: []}}, epochs: 2, early_stopping: null}
fusion: {rules: [mean]}
evaluation: {resamples: 100}
"""


class TogetherByRuns(LoadFileScheduling):
    """A file's tests run in one process; so do all those that look at the same few runs or servers, which are dear to make."""

    def _split_scope(self, nodeid: str) -> str:
        together = next((places for places in (RUNS, SERVERS) if nodeid.startswith(places)), None)
        return together[0] if together else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TogetherByRuns:
    return TogetherByRuns(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left alone with it at the end; of the tests that look at the same
    runs, those that add to a home come last."""
    order = [*RUNS, *SERVERS, "tests/flows/", "tests/faults/"]
    items.sort(key=lambda item: next((i for i, place in enumerate(order) if item.nodeid.startswith(place)), len(order)))


SPY = """
import atexit, json, os, pathlib, sys
if getattr(sys, "orig_argv", [""] * 2)[1].endswith("fuseline"):
    atexit.register(lambda: pathlib.Path(os.environ["MODULES"]).write_text(json.dumps(list(sys.modules))))
"""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class Ran:
    """A run, the folder that holds its recipe and the home that it worked in."""

    folder: Path
    recipe: Path
    home: Path
    finished: Finished
    plan: Path
    sizes: Mapping[str, int]
    """The plan's folder, and the files in the home when it had ended: later runs may add to it."""
    modules: frozenset[str] = frozenset()
    """What its process had loaded in the end, where somebody looked."""

    @property
    def summary(self) -> Any:
        return self.finished.summary

    @property
    def store(self) -> Path:
        return self.home / "store"

    def reports(self) -> list[Path]:
        """The folders of all reports, the oldest first."""
        return sorted((self.store / "report").glob("[!.]*"), key=lambda place: place.stat().st_mtime_ns)


def ran(folder: Path, recipe: Path, run: Callable[..., Finished]) -> Ran:
    home = folder / "home"
    finished = run("run", recipe, "--json", home=home)
    (plan,) = (home / "store" / "plan").glob("[!.]*")
    sizes = {str(file.relative_to(home)): file.stat().st_size for file in home.rglob("*") if file.is_file()}
    return Ran(folder, recipe, home, finished, plan, sizes)


def mixed_table() -> pd.DataFrame:
    """Rows with numbers, words and gaps in both, a class and a value to predict, and a name."""
    random = np.random.default_rng(5)
    n = 160
    color = random.choice(["red", "green", "blue"], n)
    x, y = random.normal(size=n), random.normal(size=n)
    size = 10 * x + 3 * (color == "red") + random.normal(size=n)
    return pd.DataFrame(
        {
            "name": [f"row {i}" for i in range(n)],
            "x": np.where(random.random(n) < 0.1, np.nan, x),
            "y": y,
            "color": pd.Series(color, dtype=object).where(random.random(n) > 0.1, None),
            "kind": np.where(y + 0.3 * random.normal(size=n) > 0, "up", "down"),
            "size": size,
        }
    )


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Wait for a condition and return what it gives; fail if it does not come true."""

    def wait(condition: Callable[[], Any], what: str, patience: float = 120.0) -> Any:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError(f"waited in vain: {what}")

    return wait


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, and a working folder where no ``mlflow.yml`` stands."""
    monkeypatch.setenv("FUSELINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def recipe_file() -> Callable[..., Path]:
    """Write a recipe into a folder."""

    def write(folder: Path, text: str = WINE, name: str = "recipe.yaml") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        if "table.parquet" in text:
            mixed_table().to_parquet(folder / "table.parquet")
        return folder / name

    return write


@pytest.fixture(scope="session")
def wine_recipe() -> str:
    return WINE


@pytest.fixture(scope="session")
def mixed_recipe() -> str:
    return MIXED


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    """An environment for a process, with its own home; what is None is taken out."""

    def make(home: Path, **changes: str | None) -> dict[str, str]:
        merged: dict[str, str | None] = {**os.environ, "FUSELINE_HOME": str(home), **changes}
        return {name: value for name, value in merged.items() if value is not None}

    return make


@pytest.fixture(scope="session")
def command(environment: Callable[..., dict[str, str]]) -> Callable[..., Finished]:
    """Run the real ``fuseline`` command in a process of its own, in the folder where its home is."""

    def call(*arguments: str | Path, home: Path, **changes: str | None) -> Finished:
        home.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [FUSELINE, *map(str, arguments)],
            env=environment(home, **changes),
            cwd=home.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def first_run(
    tmp_path_factory: pytest.TempPathFactory, recipe_file: Callable[..., Path], command: Callable[..., Finished]
) -> Ran:
    """One real run, with a Prefect server of its own. In the end its process writes down which modules it has loaded."""
    folder, spy = tmp_path_factory.mktemp("wine"), tmp_path_factory.mktemp("spy")
    (spy / "sitecustomize.py").write_text(SPY)
    path = os.pathsep.join(filter(None, [str(spy), os.environ.get("PYTHONPATH")]))
    watched = partial(command, PYTHONPATH=path, MODULES=str(spy / "modules.json"))
    done = ran(folder, recipe_file(folder), watched)
    return replace(done, modules=frozenset(json.loads((spy / "modules.json").read_text())))


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of one Prefect server for the session, started as the command starts its own."""
    from flows.server import prefect_server, wait_until_up

    with prefect_server() as address:
        del os.environ["PREFECT_API_URL"]  # only those who are told of it shall use it
        try:
            wait_until_up(address)
            yield address
        finally:
            os.environ["PREFECT_API_URL"] = address


@pytest.fixture(scope="session")
def ask(server: str) -> Callable[..., Any]:
    """Ask the session's Prefect server."""

    def post(path: str, **body: Any) -> Any:
        question = urllib.request.Request(
            f"{server}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(question, timeout=60) as answer:
            return json.load(answer)

    return post


HOST = """
import json, os, sys, traceback
answers, sys.stdout = sys.stdout, sys.stderr
from typer.testing import CliRunner
from flows.cli import app
for line in sys.stdin:
    arguments, home = json.loads(line)
    os.environ["FUSELINE_HOME"] = home
    os.chdir(os.path.dirname(home))
    result = CliRunner().invoke(app, arguments)
    error = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        error += "".join(traceback.format_exception(result.exception))
    print(json.dumps([result.exit_code, result.stdout, error]), file=answers, flush=True)
"""


@pytest.fixture(scope="session")
def commands(
    server: str, environment: Callable[..., dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Finished]]:
    """Run commands one after the other in one process that uses the session's Prefect server."""
    folder = tmp_path_factory.mktemp("commands")
    with (folder / "messages.txt").open("w") as messages:
        process = subprocess.Popen(
            [sys.executable, "-c", HOST],
            env=environment(folder / "home", PREFECT_API_URL=server, PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def call(*arguments: str | Path, home: Path) -> Finished:
            home.parent.mkdir(parents=True, exist_ok=True)
            print(json.dumps([[str(a) for a in arguments], str(home)]), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, (folder / "messages.txt").read_text()
            return Finished(*json.loads(answer))

        yield call
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="session")
def mixed_run(
    tmp_path_factory: pytest.TempPathFactory, recipe_file: Callable[..., Path], commands: Callable[..., Finished]
) -> Ran:
    """A run on a table with words, gaps, a class and a value to predict."""
    folder = tmp_path_factory.mktemp("mixed")
    recipe = recipe_file(folder, MIXED)
    return ran(folder, recipe, commands)


@pytest.fixture(scope="session")
def tracked() -> Callable[[Path], Any]:
    """MLflow's client for a home."""

    def open_(home: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow's own tables make SQLAlchemy warn while they are imported
            from mlflow import MlflowClient

            import fuseline.tracking  # noqa: F401  (it keeps mlflow's telemetry off)

            return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")

    return open_


@pytest.fixture(scope="session")
def runs_of(tracked: Callable[[Path], Any]) -> Callable[..., list[Any]]:
    """All runs of a home, of one kind or under one parent."""

    def find(home: Path, kind: str | None = None, parent: str | None = None) -> list[Any]:
        client = tracked(home)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return [
            run
            for run in runs
            if kind in (None, run.data.tags.get("fuseline.kind")) and parent in (None, run.data.tags.get("mlflow.parentRunId"))
        ]

    return find


@pytest.fixture(scope="session")
def plain() -> Callable[[str], str]:
    """Text without the colours of a terminal."""
    return lambda text: re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="session")
def fuseline_command() -> Path:
    return FUSELINE


@pytest.fixture(scope="session")
def bootstrap_run(
    tmp_path_factory: pytest.TempPathFactory, recipe_file: Callable[..., Path], commands: Callable[..., Finished]
) -> Ran:
    """The smallest run there is, by bootstrap."""
    folder = tmp_path_factory.mktemp("bootstrap")
    recipe = recipe_file(folder, BOOTSTRAP)
    return ran(folder, recipe, commands)


@pytest.fixture(scope="session")
def replicas() -> Callable[[Path], dict[str, int]]:
    """The replicas in a home's store, with the time when each was made."""
    return lambda home: {place.name: place.stat().st_mtime_ns for place in (home / "store" / "replica").glob("[!.]*")}


@pytest.fixture(scope="session")
def second_run(
    first_run: Ran, commands: Callable[..., Finished], replicas: Callable[[Path], dict[str, int]]
) -> tuple[Finished, dict[str, int], dict[str, int]]:
    """The first run's recipe once more, with the replicas before and after."""
    before = replicas(first_run.home)
    return commands("run", first_run.recipe, "--json", home=first_run.home), before, replicas(first_run.home)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL, MLflow with names and passwords, Prefect likewise, and a worker; one set for all tests that ask for it."""
    if not os.environ.get("FUSELINE_REQUIRE_SERVICES"):
        pytest.skip("real servers take minutes: set FUSELINE_REQUIRE_SERVICES=1")
    if lacking := missing():
        pytest.fail(f"not installed: {', '.join(lacking)} (apt-get install postgresql chromium)")
    users = {"mlflow": PLANTED["MLFLOW_DB_PASSWORD"], "prefect": PLANTED["PREFECT_DB_PASSWORD"]}
    with postgresql(users) as port:
        made = Servers(tmp_path_factory.mktemp("servers"), port)
        try:
            made.start()
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.stop()
            assert made.left() == []


NIGHT = """
name: night
data:
  source: {csv: {path: table.csv}}
  split: {rule: stratified, fusion: 0.15, calibration: 0.15, test: 0.4}
targets:
  kind: {kind: classification}
members:
  - {name: north, architecture: {mlp: {hidden: [8]}}, epochs: EPOCHS, batch_size: 32, early_stopping: null}
  - {name: south, architecture: {mlp: {hidden: [4]}}, epochs: EPOCHS, batch_size: 32, early_stopping: null}
fusion: {rules: [mean]}
evaluation: {resamples: 100}
"""


@pytest.fixture(scope="session")
def night_recipe(servers: Servers) -> Callable[..., Path]:
    """Write the recipe of the nights; with one epoch the ensemble is little better than chance."""

    def write(name: str, epochs: int = 1, seed: int = 0) -> Path:
        rate = 0.0001 if epochs == 1 else 0.03
        text = NIGHT.replace("EPOCHS", f"{epochs}, optimizer: {{adamw: {{lr: {rate}}}}}") + f"seed: {seed}\n"
        (servers.folder / name).write_text(text)
        return servers.folder / name

    return write


@pytest.fixture(scope="session")
def night(servers: Servers, night_recipe: Callable[..., Path]) -> Any:
    """The first night, which came by its schedule: Prefect's record of its run."""
    random = np.random.default_rng(3)
    kinds = np.arange(780) % 3
    values = random.normal(size=(780, 4)) + 2.5 * np.eye(4)[kinds]
    table = pd.DataFrame(values, columns=list("pqrs")).assign(kind=np.array(list("xyz"))[kinds])
    table[:720].to_csv(servers.folder / "table.csv", index=False)
    table[720:].to_csv(servers.folder / "labelled.csv", index=False)
    table[720:].drop(columns="kind").to_csv(servers.folder / "new.csv", index=False)
    table[:360].assign(p=table.p + 9).to_csv(servers.folder / "moved.csv", index=False)
    recipe = night_recipe("night.yaml")
    servers.told("deploy", recipe, "--cron", "* * * * *", "--retrain-on-drift")
    run = servers_until(
        lambda: next((r for r in servers.flow_runs("train/night") if r.state.is_running() or r.state.is_final()), None),
        "the schedule has started a run",
    )
    servers.told("deploy", recipe, "--retrain-on-drift")  # without a schedule: one night is enough
    with servers.prefect_client() as client:
        servers_until(lambda: client.read_flow_run(run.id).state.is_final(), "the night is over")
        return client.read_flow_run(run.id)
