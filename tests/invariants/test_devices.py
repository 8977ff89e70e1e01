"""All that is particular to CUDA stands in one file."""

from __future__ import annotations

from pathlib import Path

import fuseline

ROOT = Path(fuseline.__file__).parents[2]


def test_only_devices_speaks_to_cuda() -> None:
    files = [file for folder in ("src", "tasks", "flows") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    speaking = {file.relative_to(ROOT).as_posix() for file in files if "torch.cuda" in file.read_text(encoding="utf-8")}
    assert speaking == {"src/fuseline/devices.py"}
