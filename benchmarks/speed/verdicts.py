"""What measures say: medians, ratios round by round, and whether they reach what was asked for."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from speed.cases import Case, Claim, Medians
from speed.turns import Found


def judged(case: Case, found: Found) -> dict[str, Any]:
    """A case as JSON keeps it: each side's measures with their spread, the claims and the checks."""
    medians: Medians = {side: {name: median(values) for name, values in columns(said).items()} for side, said in found.items()}
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "rounds": min(len(said) for said in found.values()),
        "sides": {side: {name: spread(values) for name, values in columns(said).items()} for side, said in found.items()},
        "claims": [claimed(claim, found) for claim in case.claims],
        "checks": [{"says": check.says, "holds": bool(check.holds(medians))} for check in case.checks],
    }


def columns(said: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Measures by name over the rounds."""
    return {name: [one[name] for one in said] for name in said[0]}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, the least and the most.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'low': 1.0, 'high': 3.0, 'values': [3.0, 1.0, 2.0]}
    """
    return {"median": median(values), "low": min(values), "high": max(values), "values": list(values)}


def claimed(claim: Claim, found: Found) -> dict[str, Any]:
    """A claim's value: the ratio of the medians, with the least and the most ratio of a single round; or a measure's own spread.

    ``met`` is none where nothing is asked for.
    """
    over = [said[claim.measure] for said in found[claim.over]]
    if claim.under is None:
        value, around = median(over), over
    else:
        under = [said[claim.measure] for said in found[claim.under]]
        value, around = median(over) / median(under), [a / b for a, b in zip(over, under, strict=True)]
    return {
        "work": claim.work,
        "value": value,
        "low": min(around),
        "high": max(around),
        "unit": claim.unit,
        "asked": asked(claim),
        "met": met(claim, value),
    }


def asked(claim: Claim) -> str:
    if claim.least is None and claim.most is None:
        return ""
    bound = f"at least {claim.least:g}" if claim.least is not None else f"at most {claim.most:g}"
    missing = (
        "" if claim.needs is None or claim.needs in units() else f" (where the CPU has {claim.needs} units; this one has none)"
    )
    return bound + ("" if claim.unit == "×" else f" {claim.unit}") + missing


def met(claim: Claim, value: float) -> bool | None:
    if (claim.least is None and claim.most is None) or (claim.needs is not None and claim.needs not in units()):
        return None
    return (claim.least is None or value >= claim.least) and (claim.most is None or value <= claim.most)


def machine() -> dict[str, Any]:
    """What was measured on."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "units": units(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def units() -> list[str]:
    """Which of the vector units are there that a benchmark may depend on; ``bf16`` for either kind of bfloat16 products."""
    file = Path("/proc/cpuinfo")
    flags = set(file.read_text(encoding="utf-8").split()) if file.exists() else set()
    found = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return [*found, *(["bf16"] if {"avx512_bf16", "amx_bf16"} & flags else [])]
