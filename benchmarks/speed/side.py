"""Run one side of a comparison in this process: `side.py MODULE:FUNCTION SETTINGS`, the settings as JSON.

What the function finds is the last line of standard output, as JSON; it times itself, so that imports and data don't count.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not this folder: `speed` is found there

if __name__ == "__main__":
    module, function = sys.argv[1].split(":")
    work, settings = getattr(import_module(module), function), json.loads(sys.argv[2])
    if "round" not in signature(work).parameters:  # where chance has no part
        settings.pop("round", None)
    found = work(**settings)
    print(flush=True)
    print(json.dumps(found), flush=True)
