"""A whole run on the GPUs of this machine, one member after the other and several on one device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch




@pytest.mark.parametrize("processes", [1, 3], ids=["one at a time", "several side by side"])
def test_an_ensemble_is_trained_and_packaged(
    tmp_path: Path, recipe_file: Callable[..., Path], wine_recipe: str, command: Callable[..., Any], processes: int
) -> None:
    text = wine_recipe + f"training: {{device: cpu, processes: {processes}}}\n"
    summary = command("run", recipe_file(tmp_path, text), "--json", home=tmp_path / "home").summary
    chosen = next(c for c in summary["candidates"] if c["rule"] == summary["best"]["wine"])
    assert chosen["metrics"]["wine"]["accuracy"]["value"] > 0.8
