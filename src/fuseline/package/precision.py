"""In which numbers an ensemble computes: bfloat16 where the processor has units for it and a timing says that it pays.

Convolutions alone are tried. A table's networks have small matrices, and stay what the bank was made with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

from fuseline.component import Part
from fuseline.models.preprocessing import Batch
from fuseline.package.ensemble import Answer, Ensemble

Numbers = Literal["float32", "bfloat16"]

WORTH = 1.2
"""So many times faster it must be: what it costs is accuracy."""


class Precision(Part):
    """What was decided, and by which measurement.

    Attributes:
        used: the numbers to compute in.
        microseconds: per row, of each that was tried.
        change: per target the largest difference that bfloat16 made to a probability, a value or a quantile of the rows tried.
    """

    used: Numbers = "float32"
    microseconds: dict[Numbers, float] = {}
    change: dict[str, float] = {}


def has_units() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AVX-512 BF16, AMX); others imitate it, slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def took(call: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@torch.inference_mode()
def decide(ensemble: Ensemble, rows: Batch, seconds: Callable[[Callable[[], object]], float] = took) -> Precision:
    """Time both on some rows, in turn, and take the faster.

    Args:
        seconds: how long a call takes.
    """
    if "image" not in rows or not has_units():
        return Precision()
    said: dict[Numbers, dict[str, Answer]] = {}
    times: dict[Numbers, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(5):
        for name in times:
            ensemble.members.precision = name
            times[name].append(seconds(partial(_say, ensemble, rows, said, name)))
    best = {name: min(measured) for name, measured in times.items()}
    count = len(rows["image"])
    ensemble.members.precision = "float32"
    return Precision(
        used="bfloat16" if best["float32"] >= WORTH * best["bfloat16"] else "float32",
        microseconds={name: round(1e6 * least / count, 3) for name, least in best.items()},
        change={
            target: float((said["bfloat16"][target].values - answer.values).abs().max())
            for target, answer in said["float32"].items()
        },
    )


def _say(ensemble: Ensemble, rows: Batch, said: dict[Numbers, dict[str, Answer]], name: Numbers) -> None:
    said[name] = ensemble(rows)
