"""What a run ran on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import distributions


def environment() -> str:
    """The machine, the interpreter and every installed distribution, one line each."""
    head = [
        f"# python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"# cores {os.cpu_count()}, {_devices()}",
    ]
    names = {f"{d.metadata['Name']}=={d.version}" for d in distributions()}
    return "\n".join([*head, *sorted(names, key=str.lower)]) + "\n"


def _devices() -> str:
    """What torch computes with, where it is loaded; a run in which everything is reused does without."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "everything reused: nothing computed"
    from fuseline.devices import machine

    return f"GPU {', '.join(machine()['gpus']) or 'none'}, torch threads {torch.get_num_threads()}"
