"""Every point in docs/security.md names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("## Points")[2].partition("\n## ")[0].splitlines()
POINTS = [line for line in LINES if line.startswith("| ")][1:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {part.name for part in tree.body if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")}


@pytest.mark.parametrize("point", POINTS, ids=[line.split("|")[1].strip() for line in POINTS])
def test_a_point_is_held_by_tests_that_exist(point: str) -> None:
    named = NAMED.findall(point)
    assert named
    assert [f"{file}::{name}" for file, name in named if not (ROOT / file).is_file() or name not in defined_in(file)] == []


def test_every_test_of_security_is_named() -> None:
    named = {(file, name) for point in POINTS for file, name in NAMED.findall(point)}
    here = {
        (f"tests/security/{file.name}", name)
        for file in sorted((ROOT / "tests" / "security").glob("test_*.py"))
        if file != Path(__file__)
        for name in defined_in(f"tests/security/{file.name}")
    }
    assert sorted(here - named) == []
