"""Pictures of a partition: what is in them, and that they stay of a sensible size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.data.schema import Schema, TargetSchema
from fuseline.report.partition_plot import FEW, what_is_seen, who_sees_what

TARGETS = {"kind": TargetSchema(kind="classification", classes=[0, 1])}
TABLE = Schema(numeric=["a", "b"], categorical={"c": ["x"]}, targets=TARGETS)
NONE = np.empty(0, bool)


def ticks(axes: Any) -> tuple[list[str], list[str]]:
    return [text.get_text() for text in axes.get_xticklabels()], [text.get_text() for text in axes.get_yticklabels()]


def test_a_cell_has_the_number_of_rows_and_none_where_there_are_none() -> None:
    axes = who_sees_what(["m0", "m1"], np.array([[5, 0, 3], [0, 12, 1]]), ["u", "v", "w"]).axes[0]
    cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "5", (0, 2): "3", (1, 1): "12", (1, 2): "1"}
    assert ticks(axes) == (["u", "v", "w"], ["m0", "m1"])
    drawn = axes.images[0].get_array()
    assert drawn.mask.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("labels", [["$1", "a$b$c"], [True, False], ["", "a name that goes on and on and on and on"]], ids=str)
def test_labels_of_every_kind_are_drawn(labels: list[Any], tmp_path: Path) -> None:
    figure = who_sees_what(["m$0$"], np.array([[1, 20000]]), labels)
    figure.savefig(tmp_path / "who.png")
    assert (tmp_path / "who.png").stat().st_size > 2000
    shown, names = ticks(figure.axes[0])
    assert all(len(label) <= 26 for label in shown)
    assert names == [r"m\$0\$"]


def test_a_hundred_classes_and_members_do_not_blow_up_the_picture(tmp_path: Path) -> None:
    table = np.arange(10_000).reshape(100, 100)
    figure = who_sees_what([f"m{i}" for i in range(100)], table, [f"class {i}" for i in range(100)])
    figure.savefig(tmp_path / "who.png")
    axes = figure.axes[0]
    shown, names = ticks(axes)
    assert max(figure.get_size_inches()) < 20
    assert not axes.texts
    assert max(len(shown), len(names)) <= FEW
    assert shown[:2] == ["class 0", "class 3"]
    assert list(axes.get_xticks()[:2]) == [0, 3]


def test_nothing_seen_is_a_white_picture(tmp_path: Path) -> None:
    figure = who_sees_what(["m"], np.zeros((1, 2), int), ["u", "v"])
    figure.savefig(tmp_path / "who.png")
    assert figure.axes[0].images[0].get_array().mask.all()


def test_the_columns_of_a_table() -> None:
    figure = what_is_seen(["m0", "m1"], [np.array([True, False, True]), NONE], TABLE)
    assert ticks(figure.axes[0]) == (["a", "b", "c"], ["m0", "m1"])
    assert figure.axes[0].images[0].get_array().tolist() == [[True, False, True], [True, True, True]]


def test_the_channels_of_pictures() -> None:
    views = [np.repeat([True, False, True, True], 6), np.repeat([False, True, False, False], 6)]
    axes = what_is_seen(["m0", "m1"], views, Schema(image=(4, 2, 3), targets=TARGETS)).axes[0]
    assert ticks(axes) == (["0", "1", "2", "3"], ["m0", "m1"])
    assert axes.images[0].get_array().tolist() == [[True, False, True, True], [False, True, False, False]]


@pytest.mark.parametrize("members", [1, 2, 7])
def test_the_regions_of_pictures(members: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    regions = random.random((members, 4, 5)) < 0.5
    views = [np.repeat(region[None], 3, 0).ravel() for region in regions]
    figure = what_is_seen([f"m{i}" for i in range(members)], views, Schema(image=(3, 4, 5), targets=TARGETS))
    figure.savefig(tmp_path / "what.png")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"m{i}" for i in range(members)]
    assert np.array([axes.images[0].get_array() for axes in shown]).tolist() == regions.astype(float).tolist()
