"""What MLflow refuses for good: ``spool/refused.jsonl`` keeps it, step by step, and why; nobody sends it again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fuseline.tracking.records import Record

REFUSED = "refused.jsonl"


def put_aside(folder: Path, record: Record | None, step: str, reason: str) -> Path:
    """Keep a step of a record of the spool in a folder; the file that keeps it."""
    kept = folder.parent / REFUSED
    tree = None if record is None else record.model_dump(mode="json", exclude_defaults=True)
    line = json.dumps({"spool": folder.name, "step": step, "error": reason, "record": tree})
    with kept.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    return kept


def refused(root: Path, run: str | None = None) -> int:
    """How many steps are kept: of all runs, or of the one whose spool has that name."""
    try:
        lines = (root / REFUSED).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    return sum(run is None or line.startswith(f'{{"spool": "{run}"') for line in lines)
