"""Small plans to train, and networks that misbehave in a worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fuseline.family import _version, installed
from fuseline.plan import Plan, make_plan
from fuseline.recipe import Recipe
from fuseline.store import Store
from fuseline.training.queue import DeviceQueue
from fuseline.training.supervise import Workers

ODD = '''
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from fuseline.errors import TrainingError


class Odd(nn.Module):
    def __init__(self, schema, deed, place):
        from fuseline.models.architectures import mlp

        super().__init__()
        self.inner, self.deed, self.place = mlp(schema, hidden=(4,)), DEEDS[deed], Path(place)
        self.features = self.inner.features

    def forward(self, batch):
        out = self.inner(batch)
        learns = self.training and torch.is_grad_enabled() and multiprocessing.parent_process() is not None
        return self.deed(out, self.place) if learns else out


def odd(schema, *, deed: str, place: str = "."):
    """A network whose deed is done at each of its steps in a worker."""
    return Odd(schema, deed, place)


def fail(out, place):
    raise RuntimeError("no luck.\\nAt all.")


def fail_twice(out, place):
    tries = len(list(place.iterdir()))
    if tries < 2:
        (place / str(tries)).touch()
        raise OSError(f"try {tries}")
    return out


def refuse(out, place):
    raise TrainingError("it is not meant to be")


def leave(out, place):
    sys.exit(7)


def drop(out, place):
    os._exit(3)


def die(out, place):
    os.kill(os.getpid(), signal.SIGKILL)


def crash(out, place):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def starve(out, place):
    """The kernel kills for want of memory, and counts it."""
    place.write_text("pgfault 12\\noom_kill 8\\n")
    os.kill(os.getpid(), signal.SIGKILL)


def ask_too_much(out, place):
    return out + torch.empty(1 << 48)


def lack_memory(out, place):
    raise MemoryError


def eat(out, place):
    """Up to 1.5 GiB, one after the other, until somebody minds."""
    eaten = []
    while len(eaten) < 48:
        eaten.append(torch.ones(1 << 23))
        time.sleep(0.02)
    raise RuntimeError("nobody minded")


def hang(out, place):
    place.write_text(str(os.getpid()))
    while True:
        time.sleep(3600)


def hold(out, place):
    """Python's lock, for ever."""
    place.write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(3600)


def lose(out, place):
    return out * float("nan")


def linger(out, place):
    """Until a file is there."""
    if not place.exists():
        time.sleep(0.1)
    return out


DEEDS = {
    deed.__name__: deed
    for deed in (
        fail, fail_twice, refuse, leave, drop, die, crash, starve, ask_too_much, lack_memory, eat, hang, hold, lose, linger
    )
}
'''


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution with the architecture ``odd``; its place, for other processes. Workers look where we do."""
    place = tmp_path / "packages"
    facts = place / "odd_nets-1.0.dist-info"
    facts.mkdir(parents=True)
    (place / "odd_nets.py").write_text(ODD)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-nets\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[fuseline.architectures]\nodd = odd_nets:odd\n")
    monkeypatch.syspath_prepend(place)
    _forget()
    yield place
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    installed.cache_clear()
    _version.cache_clear()
    sys.modules.pop("odd_nets", None)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[Plan, Store]]:
    """A plan of one member, or of ``count`` members, with two replicas each; ``also`` is a second entry."""

    def make(stack: str = "never", also: dict[str, Any] | None = None, **changes: Any) -> tuple[Plan, Store]:
        member = {"name": "mlp", "architecture": {"mlp": {"hidden": [4]}}, "epochs": 2, "early_stopping": None}
        tree = {
            "name": "iris",
            "data": {"source": {"sklearn": {"name": "iris"}}},
            "targets": {"iris": {"kind": "classification", "column": "target"}},
            "partition": {"kfold": {"folds": 2}},
            "members": [{**member, **changes}, *([] if also is None else [{**member, **also}])],
            "training": {"device": "cpu", "processes": 1, "stack": stack, "tune": False},
        }
        store = Store(tmp_path / "store")
        return make_plan(Recipe.model_validate(tree), store)[0], store

    return make


@pytest.fixture
def planned_odd(odd: Path, planned: Callable[..., tuple[Plan, Store]]) -> Callable[..., tuple[Plan, Store]]:
    """A plan of a member of the architecture ``odd`` that is called by its deed."""

    def make(deed: str, place: Path | str = ".", **changes: Any) -> tuple[Plan, Store]:
        architecture = {"odd": {"deed": deed, "place": str(place)}}
        return planned(name=deed.replace("_", "-"), architecture=architecture, **changes)

    return make


class Crew(Workers):
    """Two workers at a time, and what they warn of."""

    def __init__(self, slots: int = 2) -> None:
        self.warnings: list[str] = []
        super().__init__(DeviceQueue(["cpu"], slots), self.warnings.append)


@pytest.fixture
def crew(until: Callable[..., Any]) -> Iterator[Crew]:
    """Workers. Afterwards there is none, not even a dead one that nobody has asked about."""
    made = Crew()
    yield made
    made.kill()
    until(lambda: not left(), "no worker is left")


def left() -> list[psutil.Process]:
    """The processes that were forked for us."""
    servers = [child for child in psutil.Process().children() if any("forkserver" in word for word in child.cmdline())]
    return [worker for server in servers for worker in server.children()]
