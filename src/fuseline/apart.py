"""Functions called in a process of their own, forked from a server that has loaded torch and all that computes.

So who asks need not load any of it, gets its memory back when the function is done, and outlives it whatever happens.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from fuseline.errors import ProcessDied

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["fuseline.stages", "fuseline.training.worker", "torch._dynamo", "flows.cli"]
"""What the server loads before it is asked for anything; torch._dynamo, because the first step of an optimizer imports it; the
command itself, because each new process looks into the main module of who started it."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Who started a process decides what becomes of it: Ctrl-C reaches the whole group, and a service's end all of its processes."""


def warm() -> None:
    """Start the server now, so that it loads what it needs while this process does something else."""
    with signals_held():
        CONTEXT.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()


@contextmanager
def signals_held() -> Iterator[None]:
    """Start processes that never see the signals that we decide about: who is started while a thread holds signals back does so
    too, from its first moment."""
    resource_tracker.ensure_running()  # multiprocessing's own, at whose start the signals would be let through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def apart(function: str, *args: Any) -> Any:
    """What a function gives that is named as ``module:function``.

    Raises:
        ProcessDied: its process ended without a word.
        Exception: what the function raised.
    """
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_call, args=(theirs, dict(os.environ), function, args), name=f"fuseline {function}")
    with signals_held():
        warm()
        process.start()
    theirs.close()
    try:
        done, result = ours.recv()
    except EOFError:
        process.join()
        hint = ", as the kernel does when memory runs out" if process.exitcode == -signal.SIGKILL else ""
        raise ProcessDied(f"{function.partition(':')[2]}: {ending(process.exitcode)}{hint}.") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if done:
        return result
    raise result


def call(function: str, *args: Any) -> Any:
    """Call a function that is named as ``module:function``, in this process.

    >>> call("math:gcd", 6, 4)
    2
    """
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*args)


def ending(code: int | None) -> str:
    """How a process ended that said nothing, by its exit code."""
    if code is not None and code < 0:
        name = next((its.name for its in signal.Signals if its == -code), f"signal {-code}")  # real-time ones have no names
        return f"its process was killed by {name}"
    return f"its process ended without a word (code {code})"


def end_with(connection: Connection) -> None:
    """End this process as soon as the other end of a connection is closed, which the kernel does when its holder dies."""

    def wait() -> None:
        try:
            connection.recv()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _call(connection: Connection, environment: dict[str, str], function: str, args: tuple[Any, ...]) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with(connection)
    os.environ.clear()
    os.environ.update(environment)  # the server's is as old as itself
    try:
        said = (True, call(function, *args))
    except Exception as error:
        said = (False, error)
    connection.send(said)
