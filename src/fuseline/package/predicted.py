"""What came of a source of rows, for who need not load torch to be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Predicted:
    """How many rows were answered and how many rejected, in how many parts, and how many of these were there already."""

    rows: int
    rejected: int
    parts: int
    reused: int
