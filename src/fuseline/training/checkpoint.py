"""Checkpoints: what a training had come to, kept in a file from which it goes on as if nothing had happened.

A checkpoint holds plain numbers, strings, lists, dicts and tensors alone, and is read so that nothing else could be in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from fuseline.disk import no_room, ran_out
from fuseline.errors import first_line
from fuseline.store import sync

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
"""In a store's root."""

SHARE = 20
"""At the ends of epochs a checkpoint is saved where that takes less than one part in so many of the time since the last one."""

FIRST = 0.05
"""So many seconds the first one is taken to take, so that trainings of a second aren't held up."""

Tree = dict[str, Any]

KEPT = {"seconds": float, "about": dict, "state": dict}
"""What a keeper puts into a checkpoint."""


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Training was asked to stop; what it had done is in its checkpoint."""

    def __init__(self) -> None:
        super().__init__("training was stopped; it goes on from its checkpoint")


def never() -> bool:
    """Nobody asks to stop."""
    return False


@dataclass(frozen=True)
class Care:
    """How a training is watched over from outside.

    Attributes:
        seconds: between two checkpoints inside an epoch, at the most.
        pulse: called after every step, so it should take microseconds: progress is made. If it says true, a checkpoint is saved
            and the training stops.
    """

    seconds: float = 300.0
    pulse: Callable[[], bool] = never


class Checkpoint:
    """The last state of one training, in ``<folder>/<key>-<sha256>.pt``; one process at a time may hold it.

    It is written beside its place, synced and renamed, and the ones before it go after that: however that ends, one that is whole
    is there.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def load(self) -> Tree | None:
        """The last one that is whole; None, with a warning for each that is not, if there is none."""
        self._sweep()
        for path in sorted(self._files(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                return _read(path)
            except Exception as error:  # whatever can be wrong with a file
                logger.warning("the checkpoint %s is passed over (%s)", path.name, first_line(error))
        return None

    def save(self, tree: Mapping[str, Any]) -> None:
        """Keep a state instead of the one before it.

        Raises:
            NoRoomError: the disk is full; the one before it is still there.
            OSError: it can't be written for another reason; so is it then.
        """
        temporary = self.folder / f".{self.key}-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = _write(temporary, dict(tree))
            place = self.folder / f"{self.key}-{digest}.pt"
            temporary.replace(place)
            sync(self.folder)
        except OSError as error:
            if ran_out(error, self.folder):
                raise no_room(self.folder, "a checkpoint (the last one is kept)") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        for path in self._files():
            if path != place:
                path.unlink(missing_ok=True)

    def drop(self) -> None:
        """It is not needed any more."""
        self._sweep()
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return list(self.folder.glob(f"{self.key}-*.pt"))

    def _sweep(self) -> None:
        for stale in self.folder.glob(f".{self.key}-*"):  # whoever wrote it is dead
            stale.unlink(missing_ok=True)


class Keeper:
    """Says when a training's state is to be saved, and counts the seconds of all its attempts.

    Attributes:
        about: what is kept beside the state: as it was found, and as the maker of the training fills it in.
    """

    def __init__(self, checkpoint: Checkpoint, care: Care = Care()) -> None:
        self.care, self._checkpoint = care, checkpoint
        self._before = 0.0
        self.about: Tree = {}
        self._state: Tree | None = None
        found = checkpoint.load() or {}
        if {name: type(part) for name, part in found.items()} == KEPT:
            self._before, self.about, self._state = found["seconds"], found["about"], found["state"]
        elif found:
            self.misfit("it is no state of a training")
        self._began = self._saved = time.perf_counter()
        self._took = FIRST
        self._stops = False

    @property
    def seconds(self) -> float:
        """Of all attempts, as far as checkpoints tell."""
        return self._before + time.perf_counter() - self._began

    def take(self) -> Tree | None:
        """The state to go on from; it is given once, so that its memory is not held."""
        state, self._state = self._state, None
        return state

    def misfit(self, error: Exception | str) -> None:
        """What was found belongs to something else: it counts as missing."""
        said = error if isinstance(error, str) else first_line(error)
        logger.warning("the checkpoint %s does not fit (%s); it is passed over", self._checkpoint.key, said)
        self._before, self._state = 0.0, None

    def beat(self) -> None:
        """Progress is made, but nothing can be saved here; who is asked to stop does so where something can."""
        self._stops = self.care.pulse() or self._stops

    def is_due_after_step(self) -> bool:
        self._stops = self.care.pulse() or self._stops
        return self._stops or time.perf_counter() - self._saved >= self.care.seconds

    def is_due_after_epoch(self) -> bool:
        return self._stops or time.perf_counter() - self._saved >= SHARE * self._took

    def save(self, state: Tree) -> None:
        """Keep a state.

        Raises:
            Stopped: that was the last thing to do.
            NoRoomError, OSError: as for :meth:`Checkpoint.save`.
        """
        begun = time.perf_counter()
        self._checkpoint.save({"seconds": self.seconds, "about": self.about, "state": state})
        self._saved = time.perf_counter()
        self._took = self._saved - begun
        if self._stops:
            raise Stopped

    def drop(self) -> None:
        """Nothing is left to go on from."""
        self._checkpoint.drop()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those too that a state dict leaves out."""
    return {name: tensor.detach() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}


@torch.no_grad()
def put(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Give a module's parameters and buffers the values that they had.

    Raises:
        ValueError: they are others.
    """
    own = tensors(module)
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in saved.items()}:
        raise ValueError("its tensors are those of another network")
    for name, tensor in own.items():
        tensor.copy_(saved[name])


class _Sink:
    """A file that knows the sha256 of what is written, and what went wrong: torch raises errors of its own instead."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _write(path: Path, tree: Tree) -> str:
    with path.open("wb") as file:
        sink = _Sink(file)
        try:
            torch.save(tree, sink)  # type: ignore[arg-type]
        except Exception:
            if sink.error is not None:
                raise sink.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
    return sink.digest.hexdigest()


def _read(path: Path) -> Tree:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != path.stem.rpartition("-")[2]:
            raise ValueError("it is damaged")
    tree = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tree, dict):
        raise ValueError("it is no state of a training")
    return tree
