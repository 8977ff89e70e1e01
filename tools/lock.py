"""Write ``requirements.lock``: every package that fuseline and its tests need, with its version and the sha256 of its file.

It holds for the kind of machine that it was made on (CPython 3.11 on x86-64 Linux). Versions are those of ``constraints.txt``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"


def report() -> Any:
    """What pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--disable-pip-version-check", "--constraint", "constraints.txt", ".[dev]"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)  # noqa: S603


def lines(tree: Any) -> list[str]:
    """One line for each package but our own.

    >>> info = {"hashes": {"sha256": "ab"}}
    >>> lines({"install": [{"metadata": {"name": "A_b", "version": "1.0"}, "download_info": {"archive_info": info}}]})
    ['a-b==1.0 --hash=sha256:ab']
    """
    found = []
    for part in tree["install"]:
        name = part["metadata"]["name"].lower().replace("_", "-")
        if name != "fuseline":
            digest = part["download_info"]["archive_info"]["hashes"]["sha256"]
            found.append(f"{name}=={part['metadata']['version']} --hash=sha256:{digest}")
    return sorted(found)


if __name__ == "__main__":
    LOCK.write_text("\n".join(["# Made by make lock, for CPython 3.11 on x86-64 Linux.", *lines(report()), ""]))
