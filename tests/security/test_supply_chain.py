"""The lock names every file of the tested set by its sha256."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"^([a-z0-9.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$")
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]


def named(file: str) -> dict[str, str]:
    """Versions by the names of packages, all written one way."""
    pairs = [line.partition("==") for line in (ROOT / file).read_text().splitlines() if "==" in line and line[0] != "#"]
    return {re.sub(r"[-_.]+", "-", name).lower(): version.split()[0] for name, _, version in pairs}


def test_every_file_has_a_hash() -> None:
    assert len(LINES) > 100
    assert [line for line in LINES if LINE.match(line) is None] == []


def test_the_lock_is_the_set_that_was_tested() -> None:
    """pip itself brings setuptools into every environment; no version of it was tested."""
    locked, tested = named("requirements.lock"), named("constraints.txt")
    assert {name: version for name, version in locked.items() if tested.get(name) != version}.keys() <= {"setuptools"}
