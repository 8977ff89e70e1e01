"""The picture of a front: what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from fuseline.report.pareto_plot import LARGEST, SMALLEST, pareto


def entry(members: str, loss: float, diversity: float, latency: float, memory: float, chosen: bool = False) -> dict[str, Any]:
    costs = {"latency": latency, "memory": memory}
    return {"members": members.split(), "loss": loss, "diversity": diversity, **costs, "chosen": chosen}


FRONT = [
    entry("a b c", 0.1, 0.3, 9, 6),
    entry("a b", 0.2, 0.5, 5, 4, chosen=True),
    entry("b c", 0.4, 0.6, 7, 2),
    entry("a", 0.5, 0.0, 3, 2),
]


def drawn(figure: Any) -> list[PathCollection]:
    return [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_points_stand_at_latency_and_loss_sized_by_memory_and_coloured_by_diversity() -> None:
    points = drawn(pareto("kind", FRONT))[0]
    assert points.get_offsets().tolist() == [[9, 0.1], [5, 0.2], [7, 0.4], [3, 0.5]]
    middle = (SMALLEST + LARGEST) / 2
    assert points.get_sizes().tolist() == [LARGEST, middle, SMALLEST, SMALLEST]
    assert points.get_array().tolist() == [0.3, 0.5, 0.6, 0.0]


def test_the_chosen_one_is_ringed_and_named() -> None:
    figure = pareto("kind", FRONT)
    ring = next(c for c in drawn(figure) if str(c.get_label()).startswith("chosen"))
    assert ring.get_offsets().tolist() == [[5, 0.2]]
    assert len(ring.get_facecolors()) == 0
    assert words(figure) == ["2 MB", "6 MB", "chosen: a, b"]
    assert figure.axes[0].get_title().startswith("kind: ")


def test_the_line_is_the_lowest_loss_that_each_latency_buys() -> None:
    line = pareto("kind", FRONT).axes[0].lines[0]
    assert np.column_stack(line.get_data()).tolist() == [[3, 0.5], [5, 0.2], [7, 0.2], [9, 0.1]]


@pytest.mark.parametrize("table", [[FRONT[1]], [entry("a", 0.0, 0.0, 0.0, 0.0, chosen=True)] * 2], ids=["one", "all alike"])
def test_few_subsets_are_drawn_too(table: list[dict[str, Any]], tmp_path: Path) -> None:
    figure = pareto("kind", table)
    figure.savefig(tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 2000
    assert len(drawn(figure)[0].get_offsets()) == len(table)


def test_many_names_are_counted_and_signs_of_formulas_shown_as_they_are(tmp_path: Path) -> None:
    many = entry(" ".join(f"member-{i}" for i in range(30)), 0.1, 0.3, 9, 6, chosen=True)
    assert "chosen: 30 members" in words(pareto("kind", [many, FRONT[3]]))
    figure = pareto("kind", [entry("m$0$", 0.1, 0.0, 1, 1, chosen=True)])
    figure.savefig(tmp_path / "pareto.png")
    assert r"chosen: m\$0\$" in words(figure)
