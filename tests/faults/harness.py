"""A folder of its own for each test, with a recipe, a home, and the real command in process groups of their own."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fuseline.store import sha256_of

FUSELINE = Path(sys.executable).with_name("fuseline")
PLUGIN = Path(__file__).with_name("plugin")
ROOT = Path(__file__).parents[2]
MARK = "FUSELINE_FAULTS_SITE"
"""An environment variable that tells the processes of one folder from all others."""

PATIENCE = 300.0
ROWS, EPOCHS, BATCH = 240, 4, 16
MEMBERS = ("a", "b", "c")

EVERY_STEP = "--set", "training.checkpoint_minutes=0.00001"
"""Checkpoints of every step; epochs as short as these would have none."""


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for a condition and return what it gives; fail if it does not come true."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain: {what}")


def write_table(path: Path, rows: int = ROWS) -> None:
    """Three classes that overlap, by four numbers."""
    random = np.random.default_rng(11)
    kinds = np.arange(rows) % 3
    values = random.normal(size=(rows, 4)) + 1.5 * np.eye(4)[kinds]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["p", "q", "r", "s", "kind"])
        writer.writerows([*(f"{v:.4f}" for v in row), "xyz"[kind]] for row, kind in zip(values, kinds, strict=True))


def member(name: str, **rest: Any) -> dict[str, Any]:
    return {
        "name": name,
        "architecture": {"faulty": {"label": name}},
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "optimizer": {"adamw": {"lr": 0.02}},
        "early_stopping": {"holdout": 0.2, "patience": 50},
        **rest,
    }


def tree(name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    """A recipe whose run takes hardly longer than the command's start."""
    return {
        "name": name,
        "data": {
            "source": {"csv": {"path": "table.csv"}},
            "split": {"rule": "stratified", "fusion": 0.2, "calibration": 0.15, "test": 0.25},
        },
        "targets": {"kind": {"kind": "classification"}},
        "members": members,
        "training": {"device": "cpu", "processes": 2, "stack": "never", "tune": False},
        "fusion": {"rules": ["mean", "weights"]},
        "evaluation": {"resamples": 100},
    }


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str
    began: int
    """When it was started, in milliseconds since 1970."""

    @property
    def summary(self) -> Any:
        assert self.code == 0, f"code {self.code}: {self.err}"
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one sentence in which a command said why it failed."""
        assert "Traceback" not in self.err, self.err
        said = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, self.err
        return said[0]


class Command:
    """A ``fuseline`` command on its way."""

    def __init__(self, arguments: tuple[str | Path, ...], folder: Path, number: int, environment: Mapping[str, str]) -> None:
        self.outputs = folder / f"out-{number}.txt", folder / f"err-{number}.txt"
        self.began = time.time_ns() // 1_000_000
        with self.outputs[0].open("w") as out, self.outputs[1].open("w") as err:
            self.process = subprocess.Popen(
                [FUSELINE, *map(str, arguments)],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def screen(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.outputs[1].read_text())

    @property
    def going(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something that this command brings about."""

        def come() -> Any:
            return condition() or not self.going  # the order counts: it may come about and end in between

        until(come, what)
        found = condition()
        assert found, f"it ended (code {self.process.poll()}) before {what}: {self.screen}"
        return found

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM, as a scheduler sends it: to the process that it started."""
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL of everything: the command, its workers, and the server that they are forked from."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, patience: float = PATIENCE) -> Finished:
        self.process.wait(patience)
        return Finished(self.process.returncode, self.outputs[0].read_text(), self.screen, self.began)


class Site:
    """A folder with a recipe, its data and a home, and the commands that were started in it."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        ask: Callable[..., Any],
        find: Callable[..., Any],
        open_: Callable[..., Any],
    ) -> None:
        self.folder, self.home, self.meeting = folder, folder / "home", folder / "meeting"
        self.name = re.sub(r"\W+", "-", f"faults-{folder.name}")[:60].strip("-")
        self.store = self.home / "store"
        self._environment, self._ask, self._find, self._open = environment, ask, find, open_
        self.commands: list[Command] = []
        self.meeting.mkdir(parents=True)
        write_table(folder / "table.csv")
        self.write([member(name) for name in MEMBERS])

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def table(self) -> Path:
        return self.folder / "table.csv"

    def write(self, members: list[dict[str, Any]], **training: Any) -> None:
        """The recipe, in that part of YAML that is JSON."""
        made = tree(self.name, members)
        made["training"] |= training
        self.recipe.write_text(json.dumps(made, indent=1))

    def copy_store(self, other: Site, *kinds: str) -> None:
        """Begin with what another site has made, or with some kinds of it."""
        for kind in kinds or (place.name for place in other.store.iterdir()):
            shutil.copytree(other.store / kind, self.store / kind)

    # ------------------------------------------------------------------------------------------------ commands

    def start(self, *arguments: str | Path, faults: Mapping[str, Any] | None = None, **changes: str | None) -> Command:
        """Start a command; ``faults`` says which members misbehave, by :mod:`faulty`."""
        environment = self.environment(FAULTS=json.dumps(faults or {}), **changes)
        self.commands.append(Command(arguments, self.folder, len(self.commands), environment))
        return self.commands[-1]

    def environment(self, **changes: str | None) -> dict[str, str]:
        """That of a process which belongs here."""
        own = {
            MARK: str(self.folder),
            "FUSELINE_HOME": str(self.home),
            "FAULTS_FOLDER": str(self.meeting),
            "PYTHONPATH": os.pathsep.join(map(str, [PLUGIN, ROOT / "src", ROOT])),
            "COLUMNS": "500",
        }
        merged: dict[str, str | None] = {**self._environment, **own, **changes}
        return {name: value for name, value in merged.items() if value is not None}

    def train(self, *arguments: str, **rest: Any) -> Command:
        return self.start("run", self.recipe, "--json", *arguments, **rest)

    def reached(self, label: str) -> Path:
        """The file by which a member says that it has come to its deed."""
        return self.meeting / f"{label}.reached"

    def release(self, *labels: str) -> None:
        for label in labels:
            (self.meeting / f"{label}.go").touch()

    def processes(self) -> list[psutil.Process]:
        """All that live of what was ever started here, however far from their parents."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def close(self) -> None:
        """Nothing may be left of any command.

        Raises:
            AssertionError: lists what is.
        """
        for command in self.commands:
            if command.going:  # a test that failed
                command.kill()
        try:
            until(lambda: not self.processes(), "every process has ended", 30)
        except AssertionError:
            left = self.processes()
            lines = [f"{process.pid}: {' '.join(process.cmdline())[:150]}" for process in left]
            for process in left:
                process.kill()
            raise AssertionError(f"left over: {lines}") from None

    # -------------------------------------------------------------------------------------------------- the store

    def weights(self) -> dict[str, str]:
        """The sha256 of every replica's weights, by its key."""
        return {path.parent.name: sha256_of(path) for path in self.store.glob("replica/[!.]*/weights.safetensors")}

    def curves(self) -> dict[str, list[Any]]:
        """Every replica's learning curve, by its key."""
        places = self.store.glob("replica/[!.]*/training.json")
        return {path.parent.name: json.loads(path.read_text())["curve"] for path in places}

    def key_of(self, label: str) -> str:
        """The key of a member's one replica."""
        plan = json.loads(next(self.store.glob("plan/[!.]*/plan.json")).read_text())
        key: str = plan["members"][label][0]["key"]
        return key

    def curve_of(self, label: str) -> list[Any]:
        """The learning curve of a member's one replica."""
        return self.curves()[self.key_of(label)]

    def checkpoint_of(self, label: str) -> dict[str, str]:
        """The sha256 of each file of the checkpoint of a member."""
        files = (self.store / "checkpoints").glob(f"{self.key_of(label)}*")
        return {path.name: sha256_of(path) for path in files}

    def temporaries(self) -> list[str]:
        """What an unfinished write has left in the store."""
        hidden = (path for path in self.store.rglob(".*"))
        return sorted({str(path.relative_to(self.store)) for path in [*hidden, *self.store.rglob("*.tmp*")]})

    # ------------------------------------------------------------------------------------------------ the records

    def runs(self, kind: str | None = None, parent: str | None = None) -> list[Any]:
        """MLflow's runs, of one kind or under one parent."""
        found: list[Any] = self._find(self.home, kind, parent)
        return found

    def is_known(self) -> bool:
        """Whether MLflow's database has a training run: looked at from aside, for a client would make a database."""
        try:
            with closing(sqlite3.connect(f"file:{self.home / 'mlflow.db'}?mode=ro", uri=True)) as database:
                return bool(database.execute("select 1 from tags where key = 'fuseline.kind' and value = 'train'").fetchone())
        except sqlite3.OperationalError:
            return False

    def client(self) -> Any:
        """MLflow's client for this home."""
        return self._open(self.home)

    def run_of(self, name: str) -> Any:
        """MLflow's one run of a member."""
        (found,) = [run for run in self.runs("member") if run.info.run_name == name]
        return found

    def flow_runs(self) -> list[str]:
        """The states of Prefect's runs of this recipe, on the session's server, the oldest first."""
        found = self._ask("flow_runs/filter", flow_runs={"name": {"any_": [self.name]}}, sort="EXPECTED_START_TIME_ASC")
        return [run["state_type"] for run in found]

    def task_runs(self) -> set[str]:
        """The states of the tasks of those runs."""
        found = self._ask("task_runs/filter", flow_runs={"name": {"any_": [self.name]}})
        return {run["state_type"] for run in found}


def statuses(summary: Any) -> dict[str, str]:
    return {entry["name"]: entry["status"] for entry in summary["members"]}


def steps(client: Any, run_id: str) -> dict[str, list[int]]:
    """The steps of every metric of a run that has several."""
    names = client.get_run(run_id).data.metrics
    histories = {name: client.get_metric_history(run_id, name) for name in names}
    return {name: sorted(point.step for point in history) for name, history in histories.items()}
