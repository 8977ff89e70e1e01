"""The pictures of a run, from reports made by hand."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.data.schema import Schema, TargetSchema
from fuseline.evaluation.metrics import LOWER_IS_BETTER
from fuseline.evaluation.report import GAINS
from fuseline.partition import Share
from fuseline.report.plots import FEW, confusion, diversity, draw_all, draw_partition, leaderboard, learning_curves
from fuseline.terms import EXCLUSIVE, Kind
from fuseline.training.messages import Epoch


def score(value: float, low: float | None = None, high: float | None = None) -> dict[str, float]:
    return {"value": value, "low": value - 0.1 if low is None else low, "high": value + 0.1 if high is None else high}


def part(kind: Kind = "classification", members: int = 3, classes: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    metric = GAINS[kind][0]
    table = np.random.default_rng(0).random((members, members)).tolist()
    made: dict[str, Any] = {
        "kind": kind,
        "chosen": "mean",
        "members": [{"name": f"m{i}", "metrics": {metric: score(0.5 + 0.1 * i)}} for i in range(members)],
        "candidates": [{"name": name, "metrics": {metric: score(0.4)}} for name in ("mean", "weights")],
        "diversity": {"pairs": {"disagreement": table, "correlation": table}},
    }
    if kind in EXCLUSIVE:
        made["classes"] = ["a", "b", "c"] if classes is None else classes
        count = len(made["classes"])
        made["confusion"] = np.random.default_rng(1).integers(0, 9, (count, count)).tolist()
        made["reliability"] = [{"confidence": 0.3, "accuracy": 0.2, "rows": 3}, {"confidence": 0.9, "accuracy": 1.0, "rows": 7}]
    return made | changes


def curve(*losses: float, holdout: bool = True) -> list[Epoch]:
    return [Epoch(i, loss, loss + 0.1 if holdout else None, 0.1, i) for i, loss in enumerate(losses, start=1)]


def pixels(file: Path) -> tuple[int, int]:
    """A PNG's width and height."""
    head = file.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


CURVES = {"m0": [curve(1.0, 0.5), curve(1.1, 0.6, 0.4)], "m1": [curve(0.9, 0.8, holdout=False)]}


KINDS: list[Kind] = ["classification", "ordinal", "multilabel", "regression", "quantile"]


def test_every_picture_is_written_and_is_no_trifle(tmp_path: Path) -> None:
    draw_all({"targets": {kind: part(kind) for kind in KINDS}}, CURVES, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "learning_curves.png",
        *(f"{what}-{kind}.png" for what in ("leaderboard", "diversity") for kind in KINDS),
        *(f"{what}-{kind}.png" for what in ("confusion", "reliability") for kind in ("classification", "ordinal")),
    }
    for file in tmp_path.iterdir():
        width, height = pixels(file)
        assert min(width, height) > 200, file.name
        assert file.stat().st_size > 2000, file.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_leaderboard_stands_on_a_loss(kind: Kind) -> None:
    axes = leaderboard("t", part(kind)).axes[0]
    metric = GAINS[kind][0]
    assert metric in LOWER_IS_BETTER
    assert axes.get_xlabel() == f"{metric} on the test rows (lower is better)"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["weights", "mean", "m2", "m1", "m0"]


@pytest.mark.parametrize("hidden", [False, True])
def test_a_partition_is_drawn_for_targets_with_classes_and_for_inputs_if_some_are_hidden(tmp_path: Path, hidden: bool) -> None:
    targets = {"kind": TargetSchema(kind="ordinal", classes=["low", "high"]), "size": TargetSchema(kind="regression")}
    schema = Schema(numeric=["x", "y"], targets=targets)
    view = np.array([True, False]) if hidden else np.empty(0, bool)
    shares = {"m0": [Share(np.arange(3), view=view)], "m1": [Share(np.arange(2))]}
    draw_partition({"coverage": {"kind": [[1, 2], [2, 0]]}}, shares, schema, tmp_path)
    drawn = {"partition-kind.png", "partition-inputs.png"} if hidden else {"partition-kind.png"}
    assert {file.name for file in tmp_path.iterdir()} == drawn
    assert all(min(pixels(file)) > 200 for file in tmp_path.iterdir())


@pytest.mark.parametrize("label", ["$1", "a$b$c", "$\\frac$"])
def test_a_class_with_signs_of_formulas_is_written_as_it_is(tmp_path: Path, label: str) -> None:
    figure = confusion("kind", part(classes=[label, "other"]))
    figure.savefig(tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 0


@pytest.mark.parametrize("classes", [[True, False], [3, 1, 2], ["a rather long name", "b"]], ids=str)
def test_classes_of_every_type_are_drawn(tmp_path: Path, classes: list[Any]) -> None:
    figure = confusion("kind", part(classes=classes))
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == [str(label) for label in classes]


def test_many_classes_do_not_blow_up_the_picture() -> None:
    few, many = (confusion("kind", part(classes=[f"class {i}" for i in range(n)])) for n in (FEW, 60))
    assert tuple(many.get_size_inches()) == tuple(few.get_size_inches())
    assert few.axes[0].texts
    assert not many.axes[0].texts
    assert max(many.get_size_inches()) < 20


def test_a_cell_without_rows_has_no_number() -> None:
    axes = confusion("kind", part(classes=["a", "b"], confusion=[[5, 0], [2, 4]])).axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "5"), ((0, 1), "2"), ((1, 1), "4")}


def test_a_leaderboard_stands_from_the_first_member_down_and_leaves_out_what_has_no_loss() -> None:
    entry = {"name": "silent", "metrics": {"accuracy": score(0.5)}}
    made = part()
    made["members"].append(entry)
    axes = leaderboard("kind", made).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["weights", "mean", "m2", "m1", "m0"]
    leaderboard("kind", made | {"members": [entry], "candidates": [entry]})  # nothing at all to draw


def test_a_value_outside_its_interval_is_drawn_all_the_same(tmp_path: Path) -> None:
    """Percentile intervals of a bootstrap need not hold the value."""
    made = part(candidates=[{"name": "mean", "metrics": {"log_loss": score(1.0, low=1.2, high=1.5)}}])
    leaderboard("kind", made).savefig(tmp_path / "leaderboard.png")


@pytest.mark.parametrize("members", [1, 2, 12])
def test_a_heat_map_has_a_row_per_member(members: int, tmp_path: Path) -> None:
    table = [[math.nan] * members] * members  # no spread, no correlation
    figure = diversity("kind", part(members=members, diversity={"pairs": {"disagreement": table, "correlation": table}}))
    assert len(figure.axes[0].get_yticklabels()) == members
    figure.savefig(tmp_path / "diversity.png")


def lines(curves: dict[str, list[list[Epoch]]]) -> list[list[float]]:
    return [list(line.get_ydata()) for line in learning_curves(curves).axes[0].get_lines()]


def test_a_curve_is_the_mean_over_the_replicas_that_reached_an_epoch() -> None:
    training, held_out, other = lines(CURVES)
    assert training == pytest.approx([1.05, 0.55, 0.4])
    assert held_out == pytest.approx([1.15, 0.65, 0.5])
    assert other == pytest.approx([0.9, 0.8])


def test_without_held_out_rows_or_epochs_there_is_nothing_to_name(tmp_path: Path) -> None:
    assert len(lines({"m": [curve(0.5, 0.4, holdout=False)]})) == 1
    assert lines({"m": [[]]}) == []
    draw_all({"targets": {}}, {}, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["learning_curves.png"]
