"""What a run ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import distributions

import torch


def environment() -> str:
    """The machine, the interpreter and every installed distribution, one line each."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    head = [
        f"# python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"# cores {os.cpu_count()}, GPU {device}, torch threads {torch.get_num_threads()}",
    ]
    names = {f"{d.metadata['Name']}=={d.version}" for d in distributions()}
    return "\n".join([*head, *sorted(names, key=str.lower)]) + "\n"
