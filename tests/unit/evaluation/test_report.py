"""The numbers of a report, from members made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuseline import bank
from fuseline.bank import Bank
from fuseline.component import Component
from fuseline.evaluation import room
from fuseline.evaluation.metrics import LOWER_IS_BETTER, METRICS, POINT, UNDIRECTED, sums
from fuseline.evaluation.metrics.family import Family
from fuseline.evaluation.report import GAINS, evaluate, predicted
from fuseline.fusion.combine import calibrate
from fuseline.fusion.fuse import FusedTarget, FuseSpec, fuse_target
from fuseline.fusion.scores import row_scores
from fuseline.store import Store

KINDS: dict[str, Any] = {
    "kind": "classification",
    "grade": "ordinal",
    "signs": "multilabel",
    "size": "regression",
    "range": "quantile",
}
LOSSES = {"kind": "log_loss", "grade": "log_loss", "signs": "log_loss", "size": "rmse", "range": "pinball"}


@dataclass(frozen=True)
class Evaluated:
    report: Any
    folder: Path
    reused: bool
    fused: list[FusedTarget]


@pytest.fixture(scope="module")
def judged(world: Any) -> Callable[..., Evaluated]:
    """Evaluate the world with some settings changed; fusing is done once."""
    fused = [
        fuse_target(
            world.store, world.bank, world.dataset, world.split,
            FuseSpec(target, [Component(name=name) for name in ("mean", "weights", "stacking")], 3, True, 0, 1), world.units,
        )[0]
        for target in KINDS
    ]  # fmt: skip

    def go(names: dict[str, list[str]] | None = None, count: int = 200, level: float = 0.9, seed: int = 0) -> Evaluated:
        every = {target: list(METRICS[kind]) for target, kind in KINDS.items()}
        wanted = every | (names or {})
        made = evaluate(world.store, world.bank, world.dataset, world.split, world.units, fused, wanted, count, level, seed)
        return Evaluated(*made, fused)

    return go


@pytest.fixture(scope="module", params=list(KINDS))
def target(request: pytest.FixtureRequest) -> str:
    return request.param


def say(world: Any, fused: FusedTarget, candidate: Any) -> Any:
    """What a candidate says of the test rows, calibrated."""
    outputs = world.bank.outputs(world.dataset, fused.target, world.rows(fused.target, "test"), fused.needs)
    return calibrate(candidate.combiner(outputs), candidate.number)


def test_every_member_and_candidate_is_scored_on_the_test_rows_as_it_serves(
    world: Any, judged: Callable[..., Evaluated], target: str
) -> None:
    made = judged()
    part = made.report["targets"][target]
    fused = made.fused[list(KINDS).index(target)]
    entries = [*part["members"], *part["candidates"]]
    truth = world.truth(target, "test")
    assert [e["name"] for e in entries] == [c.name for c in (*fused.members, *fused.candidates)]
    for entry, candidate in zip(entries, [*fused.members, *fused.candidates], strict=True):
        said = say(world, fused, candidate)
        assert entry["calibration"] == candidate.number
        assert list(entry["metrics"]) == list(METRICS[KINDS[target]])
        point = POINT[KINDS[target]](truth, predicted(said))
        for name, score in entry["metrics"].items():
            assert score["value"] == pytest.approx(point[name], nan_ok=True), name
        mean = row_scores(said, torch.from_numpy(truth)).mean()
        loss = entry["metrics"][LOSSES[target]]["value"]
        if target == "signs":  # of all known labels alike, while a row's loss is the mean of its own
            known = ~np.isnan(truth)
            right = np.where(truth == 1, said.values.numpy(), 1 - said.values.numpy())[known]
            assert loss == pytest.approx(-np.log(right).mean())
        else:
            assert loss == pytest.approx(np.sqrt(mean) if target == "size" else mean)


def test_metrics_are_told_of_variances_and_levels(world: Any, judged: Callable[..., Evaluated]) -> None:
    for fused in judged().fused:
        said = predicted(say(world, fused, fused.winner))
        assert (said.variances is not None) == (fused.target == "size")
        assert (said.levels is not None) == (fused.target == "range")
    assert said.levels is not None
    assert said.levels.tolist() == [0.1, 0.5, 0.9]


def test_rows_without_a_target_are_not_judged(
    world: Any, judged: Callable[..., Evaluated], target: str, retold: Callable[..., Any]
) -> None:
    rows = world.unknown(target)

    def change(name: str, array: Any) -> Any:
        array[rows] = array[rows][:, ::-1] if name.endswith(("kind", "grade")) else 1 - 0.5 * array[rows]
        return array

    other, made = retold(change), judged()
    fused = [part for part in made.fused if part.target == target]
    names = {target: list(METRICS[KINDS[target]])}
    report, folder, reused = evaluate(other.store, other.bank, other.dataset, other.split, other.units, fused, names, 200, 0.9, 0)
    assert not reused
    np.testing.assert_equal(report["targets"][target], made.report["targets"][target])
    said = f"predictions-{target}.npy"
    np.testing.assert_array_equal(np.load(folder / said), np.load(made.folder / said))


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
    assert not set(GAINS[KINDS[target]]) & UNDIRECTED
    for entry in [*part["members"], *part["candidates"]]:
        for name, gain in entry["gain"].items():
            sign = -1 if name in LOWER_IS_BETTER else 1
            difference = entry["metrics"][name]["value"] - best["metrics"][name]["value"]
            assert gain["value"] == pytest.approx(sign * difference, abs=1e-12)
            assert gain["low"] <= gain["high"]
    worst = next(entry for entry in part["members"] if entry["name"] == "c")
    assert all(gain["high"] < 0 for gain in worst["gain"].values())


@pytest.mark.parametrize("name", ["log_loss", "mae", "pinball", "subset_accuracy", "rps"])
def test_intervals_hold_the_value(judged: Callable[..., Evaluated], name: str) -> None:
    report = judged().report
    held = [
        entry["metrics"][name]
        for part in report["targets"].values()
        for entry in [*part["members"], *part["candidates"]]
        if name in entry["metrics"]
    ]
    assert len(held) == 6 * sum(name in METRICS[kind] for kind in KINDS.values())
    assert all(score["low"] < score["value"] < score["high"] for score in held)


def test_only_the_metrics_asked_for_are_reported_and_gains_all_the_same(judged: Callable[..., Evaluated]) -> None:
    asked = {"kind": "brier", "grade": "accuracy", "signs": "hamming_accuracy", "size": "mae", "range": "coverage"}
    report = judged({target: [name] for target, name in asked.items()}).report
    for target, name in asked.items():
        part = report["targets"][target]
        for entry in [*part["members"], *part["candidates"]]:
            assert list(entry["metrics"]) == [name]
            assert list(entry["gain"]) == list(GAINS[KINDS[target]])


def test_a_wider_level_has_wider_intervals(judged: Callable[..., Evaluated], target: str) -> None:
    narrow, wide = (judged(level=level).report["targets"][target]["candidates"] for level in (0.5, 0.99))
    name = GAINS[KINDS[target]][0]  # a share may be the same of all resamples
    pairs = [(one, other) for one, other in zip(narrow, wide, strict=True) if one["gain"][name]["value"] != 0]
    assert len(pairs) > len(narrow) / 2  # the others listen to the best member alone
    for one, other in pairs:
        assert other["gain"][name]["low"] < one["gain"][name]["low"]
        assert other["gain"][name]["high"] > one["gain"][name]["high"]


def test_what_is_kept_beside_it_are_the_test_rows_and_the_winners_predictions(
    world: Any, judged: Callable[..., Evaluated], target: str
) -> None:
    made = judged()
    rows = np.load(made.folder / f"rows-{target}.npy")
    assert rows.tolist() == world.rows(target, "test").tolist()
    assert made.report["rows"] == len(world.split.rows("test")) == 37
    assert made.report["targets"][target]["rows"] == len(rows) < 37
    fused = made.fused[list(KINDS).index(target)]
    said = say(world, fused, fused.winner).values.numpy()
    np.testing.assert_array_equal(np.load(made.folder / f"predictions-{target}.npy"), said)


@pytest.mark.parametrize(("name", "classes"), [("kind", 3), ("grade", 4)])
def test_tables_of_classes_add_up_to_the_test_rows(world: Any, judged: Callable[..., Evaluated], name: str, classes: int) -> None:
    part = judged().report["targets"][name]
    counts = np.bincount(world.truth(name, "test"), minlength=classes).tolist()
    assert np.sum(part["confusion"], axis=1).tolist() == counts
    assert part["per_class"]["support"] == counts
    assert sum(b["rows"] for b in part["reliability"]) == part["rows"] == sum(counts)
    assert np.trace(part["confusion"]) / part["rows"] == pytest.approx(
        next(c for c in part["candidates"] if c["name"] == part["chosen"])["metrics"]["accuracy"]["value"]
    )


@pytest.mark.parametrize("name", ["signs", "size", "range"])
def test_what_has_no_exclusive_classes_has_no_tables_of_them(judged: Callable[..., Evaluated], name: str) -> None:
    assert not {"confusion", "reliability", "per_class"} & judged().report["targets"][name].keys()


def test_uncertainty_adds_up_and_diversity_is_symmetric(judged: Callable[..., Evaluated], target: str) -> None:
    part = judged().report["targets"][target]
    parts = part["uncertainty"]
    assert parts["total"] == pytest.approx(parts["aleatoric"] + parts["epistemic"])
    for name, table in part["diversity"]["pairs"].items():
        table = np.array(table, float)
        assert table.shape == (3, 3), name
        np.testing.assert_allclose(table, table.T)


def nearly(one: Any, other: Any, place: str = "report") -> None:
    """Fail where two trees differ by more than rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            nearly(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            nearly(a, b, f"{place}[{i}]")
    else:
        assert one == (pytest.approx(other, rel=1e-9, abs=1e-12, nan_ok=True) if isinstance(one, float) else other), place


def test_a_few_rows_at_a_time_and_large_arrays_in_files_give_the_same_report(
    world: Any, judged: Callable[..., Evaluated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = judged(), []

    def spied(*args: Any) -> Any:
        for rows, outputs in blocks(*args):
            sizes.append(outputs.values.shape[1])
            yield rows, outputs

    blocks = Bank.blocks
    monkeypatch.setattr(Bank, "blocks", spied)
    monkeypatch.setattr(bank, "BLOCK", 5 * 3 * 4)
    monkeypatch.setattr(sums, "BLOCK", 5 * 201)
    monkeypatch.setattr(room, "SMALL", 0)
    every = {target: list(METRICS[kind]) for target, kind in KINDS.items()}
    report, folder, reused = evaluate(
        Store(tmp_path), world.bank, world.dataset, world.split, world.units, whole.fused, every, 200, 0.9, 0
    )
    assert not reused
    assert 1 <= max(sizes) <= 20
    assert len(sizes) > 2 * len(KINDS)
    nearly(report, whole.report)
    for target in KINDS:
        names = [f"{what}-{target}.npy" for what in ("predictions", "rows")]
        np.testing.assert_allclose(*(np.load(place / names[0]) for place in (folder, whole.folder)), rtol=1e-12)
        np.testing.assert_array_equal(*(np.load(place / names[1]) for place in (folder, whole.folder)))
    assert not [place for place in folder.iterdir() if place.is_dir()]


def test_each_candidate_fuses_each_row_once_and_no_metric_is_computed_that_was_not_asked_for(
    world: Any, judged: Callable[..., Evaluated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [fused] = [part for part in judged().fused if part.target == "kind"]
    asked: list[list[str]] = []
    rows: dict[int, int] = {}

    def measured(self: Any, target: Any, predicted: Any, weights: Any, names: Any) -> Any:
        asked.append(list(names))
        return real(self, target, predicted, weights, names)

    hooks = [
        candidate.combiner.register_forward_hook(
            lambda own, args, _: rows.update({id(own): rows.get(id(own), 0) + args[0].values.shape[1]})
        )
        for candidate in fused.candidates
    ]
    real = Family.measured
    monkeypatch.setattr(Family, "measured", measured)
    monkeypatch.setattr(bank, "BLOCK", 5 * 3 * 3)
    evaluate(Store(tmp_path), world.bank, world.dataset, world.split, world.units, [fused], {"kind": ["brier"]}, 200, 0.9, 0)
    for hook in hooks:
        hook.remove()
    assert asked == [["brier", "log_loss", "accuracy"]] * 6
    assert rows == {id(c.combiner): len(world.rows("kind", "test")) for c in fused.candidates}


def test_the_same_again_is_found_and_other_settings_are_another_report(judged: Callable[..., Evaluated]) -> None:
    first, again = judged(), judged()
    assert again.reused
    assert (again.folder, again.report) == (first.folder, first.report)
    others = [judged(count=100), judged(level=0.8), judged(seed=1), judged({"kind": ["brier"]})]
    assert len({first.folder, *(other.folder for other in others)}) == 5
