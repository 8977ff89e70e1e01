"""Processes that each want their version to be the champion, in rounds: of two the better one, which is the later, should stay.

As a script, ``race.py PROCESSES ROUNDS``: prints the champion after each round. All processes are forked from this one, which has
loaded MLflow, but holds no connection to its database.
"""

from __future__ import annotations

import sys
from multiprocessing import get_context
from typing import Any

from fuseline.tracking.champions import Champions, Moved
from fuseline.tracking.events import Said
from fuseline.tracking.settings import load_settings

NAME = "raced"


def run(number: int, processes: int, rounds: int, barrier: Any, queue: Any) -> None:
    champions = Champions(load_settings(), NAME)
    order = [(number * 5 + 3) % processes for number in range(processes)]  # who is better is not who is first
    for turn in range(rounds):
        version = turn * processes + order[number] + 1
        barrier.wait()
        claim(champions, version)
        barrier.wait()
        if number == 0:
            queue.put(champions.aliases()["champion"])


def claim(champions: Champions, version: int) -> None:
    """Become the champion, unless a better one is."""
    while True:
        standing = champions.standing()
        if standing.champion is not None and standing.champion > version:
            return
        try:
            champions.promote(standing, Said(version, f"{version} is better"))
        except Moved:
            continue
        return


def main(processes: int, rounds: int) -> None:
    client = Champions(load_settings(), NAME)._client
    client.create_registered_model(NAME)
    for _ in range(processes * rounds):
        client.create_model_version(NAME, "file:///nowhere")
    for its in (client._tracking_client, client._get_registry_client()):
        its.store.engine.dispose()
    context = get_context("fork")
    barrier, queue = context.Barrier(processes), context.SimpleQueue()
    started = [context.Process(target=run, args=(n, processes, rounds, barrier, queue)) for n in range(processes)]
    for process in started:
        process.start()
    for _ in range(rounds):
        print(queue.get())
    for process in started:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in started))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
