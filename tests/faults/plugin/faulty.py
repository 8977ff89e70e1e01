"""A network that misbehaves when it is told to: what it does, and at which of its steps, stands in the environment.

``FAULTS`` holds, as JSON, a deed per label: ``{"a": ["block", 9]}``. Steps are counted in the worker's process; nothing but the
deed depends on them, so that a network that misbehaves has the same content key and learns the same as one that does not.
``FAULTS_FOLDER`` is where test and network meet: the network touches ``a.reached``, the test ``a.go``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def _slow_disk(seconds: float) -> None:
    """From now on whatever this process writes for good takes its time."""
    at_once = os.fsync

    def sync(descriptor: int) -> None:
        time.sleep(seconds)
        at_once(descriptor)

    os.fsync = sync


if "FAULTS_SLOW_DISK" in os.environ:
    _slow_disk(float(os.environ["FAULTS_SLOW_DISK"]))

MOST = 24
"""Chunks of 64 MiB that are eaten at the most, for the machine's sake."""

_steps: dict[str, int] = {}


class Faulty(nn.Module):
    """Two layers with batch norm and dropout between them, so that buffers and the generator are part of what is resumed."""

    def __init__(self, in_features: int, label: str, width: int = 8) -> None:
        super().__init__()
        self.label = label
        self.layers = nn.Sequential(
            nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        in_worker = multiprocessing.parent_process() is not None
        if in_worker and self.training and torch.is_grad_enabled():
            _steps[self.label] = _steps.get(self.label, 0) + 1
            if (deed := json.loads(os.environ.get("FAULTS", "{}")).get(self.label)) is not None:
                what, at, *more = deed
                out = DEEDS[what](out, self.label, _steps[self.label] - at, *more)
        return out


def _place(name: str) -> Path:
    return Path(os.environ["FAULTS_FOLDER"]) / name


def _reach(label: str) -> None:
    """Say that the step is reached, and by which process."""
    _place(f".{label}").write_text(str(os.getpid()))
    _place(f".{label}").replace(_place(f"{label}.reached"))


def _touched(name: str) -> bool:
    """Whether a file was there; it is afterwards."""
    there = _place(name).exists()
    _place(name).touch()
    return there


def block(out: Tensor, label: str, since: int) -> Tensor:
    """Say that the step is reached, and wait for the test."""
    if since == 0:
        _reach(label)
        while not _place(f"{label}.go").exists():
            time.sleep(0.01)
    return out


def slow(out: Tensor, label: str, since: int, seconds: float) -> Tensor:
    """Say that the step is reached, and take some time for this one and each that follows."""
    if since >= 0:
        _reach(label)
        time.sleep(seconds)
    return out


def fail(out: Tensor, label: str, since: int) -> Tensor:
    if since == 0:
        raise RuntimeError("a mistake of its own")
    return out


def kill(out: Tensor, label: str, since: int) -> Tensor:
    if since == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return out


def kill_once(out: Tensor, label: str, since: int) -> Tensor:
    return out if since != 0 or _touched(f"{label}.killed") else kill(out, label, since)


def eat(out: Tensor, label: str, since: int) -> Tensor:
    """Eat memory, and hold it until somebody minds."""
    if since == 0:
        eaten = [b"x" * (64 << 20) for _ in range(MOST)]
        while eaten:
            time.sleep(0.05)
    return out


def hang(out: Tensor, label: str, since: int) -> Tensor:
    """Say nothing any more."""
    while since == 0:
        time.sleep(0.05)
    return out


def not_finite(out: Tensor, label: str, since: int, value: str) -> Tensor:
    return out * float(value) if since == 0 else out


def torn_once(out: Tensor, label: str, since: int, size: int) -> Tensor:
    """Once: be killed by the kernel in the middle of the next file that grows beyond ``size`` bytes."""
    if since == 0 and not _touched(f"{label}.torn"):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return out


def die_once(out: Tensor, label: str, since: int, event: str, *words: str) -> Tensor:
    """Once: die by SIGKILL at the next event of Python's audit whose arguments hold the words, as ``os.rename`` and a path."""
    if since == 0 and not _touched(f"{label}.died"):

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            if name == event and all(any(word in str(a) for a in arguments) for word in words):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
    return out


DEEDS: dict[str, Callable[..., Tensor]] = {
    "block": block,
    "slow": slow,
    "fail": fail,
    "kill": kill,
    "kill once": kill_once,
    "eat": eat,
    "hang": hang,
    "not finite": not_finite,
    "torn once": torn_once,
    "die once": die_once,
}
