"""Which numbers an ensemble computes in: decided by a timing, where the processor has units for bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuseline.package import files, precision
from fuseline.package.files import load_description, load_ensemble
from fuseline.package.precision import Precision, decide

PICTURES = np.random.default_rng(0).integers(0, 256, (10, 1, 4, 4), dtype=np.uint8)


def clock(**seconds: float) -> Callable[[Callable[[], object]], float]:
    """Calls take, in turn, so long."""
    turn = 0

    def took(call: Callable[[], object]) -> float:
        nonlocal turn
        turn += 1
        call()
        return seconds["float32" if turn % 2 else "bfloat16"]

    return took


@pytest.mark.parametrize(("faster", "used"), [(1.0, "float32"), (1.1, "float32"), (1.3, "bfloat16")])
def test_bfloat16_is_used_where_it_is_faster_by_far(
    ensemble_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, faster: float, used: str
) -> None:
    monkeypatch.setattr(precision, "has_units", lambda: True)
    ensemble = ensemble_of(pictures=True).ensemble
    found = decide(ensemble, {"image": torch.from_numpy(PICTURES)}, clock(float32=faster, bfloat16=1.0))
    assert found.used == used
    assert found.microseconds == {"float32": pytest.approx(1e5 * faster), "bfloat16": pytest.approx(1e5)}
    assert set(found.change) == set(ensemble.targets)
    assert ensemble.members.precision == "float32"


def test_nothing_is_timed_for_a_table_or_without_units(ensemble_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(call: Callable[[], object]) -> float:
        raise AssertionError("timed")

    table = {"numeric": torch.zeros(3, 2, dtype=torch.float64), "categorical": torch.zeros(3, 1, dtype=torch.int64)}
    monkeypatch.setattr(precision, "has_units", lambda: True)
    assert decide(ensemble_of().ensemble, table, never) == Precision()
    monkeypatch.setattr(precision, "has_units", lambda: False)
    assert decide(ensemble_of(pictures=True).ensemble, {"image": torch.from_numpy(PICTURES)}, never) == Precision()


@pytest.mark.parametrize("units", [True, False])
def test_what_was_decided_is_kept_and_read_again_where_there_are_units(
    ensemble_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, units: bool
) -> None:
    made = ensemble_of(pictures=True)
    decided = Precision(used="bfloat16", microseconds={"float32": 2.0, "bfloat16": 1.0}, change={"kind": 0.01})
    object.__setattr__(made, "description", made.description.model_copy(update={"precision": decided}))
    folder = made.save(tmp_path)
    monkeypatch.setattr(files, "has_units", lambda: units)
    assert load_description(folder).precision == decided
    assert load_ensemble(folder).members.precision == ("bfloat16" if units else "float32")
