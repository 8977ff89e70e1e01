"""The numbers of a report, from members made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.component import Component
from fuseline.evaluation.metrics import LOWER_IS_BETTER, METRICS
from fuseline.evaluation.report import GAINS, evaluate
from fuseline.fusion.combine import calibrate
from fuseline.fusion.fuse import FusedTarget, FuseSpec, fuse_target

KINDS = {"kind": "classification", "size": "regression"}


@dataclass(frozen=True)
class Evaluated:
    report: Any
    folder: Path
    reused: bool
    fused: list[FusedTarget]


@pytest.fixture(scope="module")
def judged(world: Any) -> Callable[..., Evaluated]:
    """Evaluate the world with some settings changed; fusing is done once."""
    learnt = {"kind": ["mean", "vote", "stacking"], "size": ["mean", "weights", "stacking"]}
    fused = [
        fuse_target(
            world.store, world.bank, world.dataset, world.split,
            FuseSpec(target, [Component(name=name) for name in names], 3, True, 0, 1), world.units,
        )[0]
        for target, names in learnt.items()
    ]  # fmt: skip

    def go(names: dict[str, list[str]] | None = None, count: int = 200, level: float = 0.9, seed: int = 0) -> Evaluated:
        every = {target: list(METRICS[kind]) for target, kind in KINDS.items()}
        made = evaluate(
            world.store, world.bank, world.dataset, world.split, world.units, fused, names or every, count, level, seed
        )
        return Evaluated(*made, fused)

    return go


@pytest.fixture(scope="module", params=["kind", "size"])
def target(request: pytest.FixtureRequest) -> str:
    return request.param


def loss(target: str, said: Any, truth: Any) -> float:
    if target == "kind":
        return float(-np.log(said[np.arange(len(truth)), truth]).mean())
    return float(np.sqrt(((said[:, 0] - truth) ** 2).mean()))


def test_every_member_and_candidate_is_scored_on_the_test_rows_as_it_serves(
    world: Any, judged: Callable[..., Evaluated], target: str
) -> None:
    made = judged()
    part = made.report["targets"][target]
    fused = made.fused[list(KINDS).index(target)]
    outputs = world.bank.outputs(target, world.split.rows("test"))
    metric = {"kind": "log_loss", "size": "rmse"}[target]
    entries = [*part["members"], *part["candidates"]]
    assert [e["name"] for e in entries] == [c.name for c in (*fused.members, *fused.candidates)]
    for entry, candidate in zip(entries, [*fused.members, *fused.candidates], strict=True):
        said = calibrate(candidate.combiner(outputs), candidate.number).values.numpy()
        assert entry["metrics"][metric]["value"] == pytest.approx(loss(target, said, world.truth(target, "test")))
        assert entry["calibration"] == candidate.number


def test_the_best_members_gain_over_itself_is_exactly_zero(judged: Callable[..., Evaluated], target: str) -> None:
    part = judged().report["targets"][target]
    best = next(entry for entry in part["members"] if entry["name"] == part["best_member"])
    assert list(best["gain"]) == list(GAINS[KINDS[target]])
    assert all(gain == {"value": 0.0, "low": 0.0, "high": 0.0} for gain in best["gain"].values())


def test_a_gain_is_the_difference_to_the_best_member_and_above_zero_is_better(
    judged: Callable[..., Evaluated], target: str
) -> None:
    part = judged().report["targets"][target]
    best = next(entry for entry in part["members"] if entry["name"] == part["best_member"])
    for entry in [*part["members"], *part["candidates"]]:
        for name, gain in entry["gain"].items():
            sign = -1 if name in LOWER_IS_BETTER else 1
            difference = entry["metrics"][name]["value"] - best["metrics"][name]["value"]
            assert gain["value"] == pytest.approx(sign * difference, abs=1e-12)
            assert gain["low"] <= gain["high"]
    worst = next(entry for entry in part["members"] if entry["name"] == "c")
    assert all(gain["high"] < 0 for gain in worst["gain"].values())


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "mae", "rmse"])
def test_intervals_hold_the_value(judged: Callable[..., Evaluated], name: str) -> None:
    report = judged().report
    held = [
        entry["metrics"][name]
        for part in report["targets"].values()
        for entry in [*part["members"], *part["candidates"]]
        if name in entry["metrics"]
    ]
    assert len(held) == 6
    assert all(score["low"] < score["value"] < score["high"] for score in held)


def test_only_the_metrics_asked_for_are_reported_and_gains_all_the_same(judged: Callable[..., Evaluated]) -> None:
    report = judged({"kind": ["brier"], "size": ["mae"]}).report
    for target, name in (("kind", "brier"), ("size", "mae")):
        part = report["targets"][target]
        for entry in [*part["members"], *part["candidates"]]:
            assert list(entry["metrics"]) == [name]
            assert list(entry["gain"]) == list(GAINS[KINDS[target]])


def test_a_wider_level_has_wider_intervals(judged: Callable[..., Evaluated], target: str) -> None:
    narrow, wide = (judged(level=level).report["targets"][target]["candidates"] for level in (0.5, 0.99))
    for one, other in zip(narrow, wide, strict=True):
        for name in one["gain"]:
            assert other["gain"][name]["low"] < one["gain"][name]["low"]
            assert other["gain"][name]["high"] > one["gain"][name]["high"]


def test_what_is_kept_beside_it_are_the_test_rows_and_the_winners_predictions(
    world: Any, judged: Callable[..., Evaluated], target: str
) -> None:
    made = judged()
    rows = np.load(made.folder / "rows.npy")
    assert rows.tolist() == world.split.rows("test").tolist()
    assert made.report["rows"] == len(rows) == 37
    winner = made.fused[list(KINDS).index(target)].winner
    said = calibrate(winner.combiner(world.bank.outputs(target, rows)), winner.number).values.numpy()
    np.testing.assert_array_equal(np.load(made.folder / f"predictions-{target}.npy"), said)


def test_tables_of_classes_add_up_to_the_test_rows(world: Any, judged: Callable[..., Evaluated]) -> None:
    part = judged().report["targets"]["kind"]
    counts = np.bincount(world.truth("kind", "test"), minlength=3).tolist()
    assert np.sum(part["confusion"], axis=1).tolist() == counts
    assert part["per_class"]["support"] == counts
    assert sum(b["rows"] for b in part["reliability"]) == 37
    assert np.trace(part["confusion"]) / 37 == pytest.approx(
        next(c for c in part["candidates"] if c["name"] == part["chosen"])["metrics"]["accuracy"]["value"]
    )
    assert not {"confusion", "reliability", "per_class"} & judged().report["targets"]["size"].keys()


def test_uncertainty_adds_up_and_diversity_is_symmetric(judged: Callable[..., Evaluated], target: str) -> None:
    part = judged().report["targets"][target]
    parts = part["uncertainty"]
    assert parts["total"] == pytest.approx(parts["aleatoric"] + parts["epistemic"])
    for name, table in part["diversity"]["pairs"].items():
        table = np.array(table, float)
        assert table.shape == (3, 3), name
        np.testing.assert_allclose(table, table.T)


def test_the_same_again_is_found_and_other_settings_are_another_report(judged: Callable[..., Evaluated]) -> None:
    first, again = judged(), judged()
    assert again.reused
    assert (again.folder, again.report) == (first.folder, first.report)
    others = [judged(count=100), judged(level=0.8), judged(seed=1), judged({"kind": ["brier"], "size": ["rmse"]})]
    assert len({first.folder, *(other.folder for other in others)}) == 5
