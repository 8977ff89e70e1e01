"""What a run ran on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def environment() -> str:
    """The machine, the interpreter and every installed distribution, one line each."""
    head = [
        f"# python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"# cores {os.cpu_count()}, {_devices()}",
    ]
    return "\n".join([*head, *sorted(_installed(), key=str.lower)]) + "\n"


def _installed() -> set[str]:
    """Every distribution by its folder, ``NAME-VERSION.dist-info``: to read the metadata of each takes half a second."""
    stems = [folder.stem for place in sys.path for folder in Path(place or ".").glob("*.dist-info")]
    return {f"{name.replace('_', '-')}=={version}" for name, _, version in (stem.partition("-") for stem in stems)}


def _devices() -> str:
    """What torch computes with, where it is loaded; a run in which everything is reused does without."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "everything reused: nothing computed"
    from fuseline.devices import machine

    return f"GPU {', '.join(machine()['gpus']) or 'none'}, torch threads {torch.get_num_threads()}"
