"""The experiment of partition and fusion rules: its pooling and verdicts against brute force, and one small ensemble."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fuseline.evaluation.report import evaluate
from fuseline.fusion.rules import FUSIONS
from fuseline.plan import make_plan
from fuseline.store import Store

HERE = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(HERE))
import rules  # noqa: E402
import rules_report as report  # noqa: E402
from rules_report import Run  # noqa: E402

sys.path.remove(str(HERE))


def runs(generator: np.random.Generator) -> list[Run]:
    """Two partitions on three splits of 30 rows, each row a unit of its own; the second partition is refused on split 1."""
    found = []
    for seed in range(3):
        rows = np.sort(generator.choice(30, 12, replace=False)).tolist()
        for partition in ("full", "cluster"):
            if (partition, seed) == ("cluster", 1):
                found.append(Run("made", partition, seed, refused="No."))
                continue
            losses = {name: generator.exponential(size=12).tolist() for name in ("mean", "vote", "chosen", "best member")}
            found.append(Run("made", partition, seed, rows=rows, units=rows, losses=losses, chosen="mean"))
    return found


def by_hand(made: list[Run], cell: tuple[str, str], other: tuple[str, str] | None = None) -> dict[int, float]:
    """Per row the mean over splits of a cell's loss, or of how much smaller it is than the other's."""
    seen: dict[int, list[float]] = {}
    there = {(run.partition, run.seed): run for run in made if not run.refused}
    for seed in range(3):
        own, against = there.get((cell[0], seed)), there.get((other[0], seed)) if other else None
        if own is None or (other and against is None):
            continue
        for i, row in enumerate(own.rows):
            loss = own.losses[cell[1]][i]
            seen.setdefault(row, []).append(loss if other is None else against.losses[other[1]][i] - loss)
    return {row: float(np.mean(values)) for row, values in seen.items()}


def test_a_row_counts_once_by_its_mean_over_the_splits() -> None:
    made = runs(np.random.default_rng(0))
    for cell, found in report.levels(report.pool(made)).items():
        assert found.value == pytest.approx(np.mean(list(by_hand(made, cell).values())))
        assert found.low < found.value < found.high


def test_savings_are_paired_within_splits_that_both_have() -> None:
    made = runs(np.random.default_rng(1))
    found = report.comparisons(report.pool(made))["full"]
    for cell in [("cluster", "mean"), ("cluster", "vote"), ("full", "vote")]:
        assert found[cell].gain.value == pytest.approx(np.mean(list(by_hand(made, cell, ("full", "mean")).values())))
    assert found["cluster", "mean"].splits == 2
    assert found["full", "vote"].splits == 3


def test_what_is_compared_with_itself_saves_nothing() -> None:
    made = runs(np.random.default_rng(2))
    found = report.pool(made)
    same = report.saved(found, {("full", "mean"): ("full", "mean")})["full", "mean"]
    assert (*same.gain, same.verdict, same.ahead) == (0, 0, 0, "same", 0)


def test_means_of_resamples_leave_unknown_rows_out() -> None:
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(2, 9))
    rows[0, [1, 4]] = np.nan
    weights = generator.multinomial(9, np.full(9, 1 / 9), size=5).astype(float)
    point, resampled = report.means(rows, weights)
    np.testing.assert_allclose(point, np.nanmean(rows, axis=1))
    for weight, found in zip(weights, resampled, strict=True):
        drawn = np.repeat(np.arange(9), weight.astype(int))
        np.testing.assert_allclose(found, np.nanmean(rows[:, drawn], axis=1))


@pytest.mark.parametrize("count", [1, 20])
def test_the_reach_of_independent_means_is_that_of_sidak(count: int) -> None:
    """Šidák 1967: of K independent normal means all lie within z((1 + level^(1/K)) / 2) standard errors."""
    scales = np.linspace(1, 5, count)
    reach = norm.ppf((1 + 0.95 ** (1 / count)) / 2) * scales
    noise = np.random.default_rng(4).normal(size=(100_000, count)) * scales
    for point, word in ((1.03 * reach, "better"), (-1.03 * reach, "worse"), (0.97 * reach, "unsure"), (-0.97 * reach, "unsure")):
        assert report.verdicts(point, point + noise) == [word] * count


@given(st.integers(1, 60), st.integers(1, 60))
def test_blocks_are_consecutive_and_even(count: int, more: int) -> None:
    sizes = np.bincount(block := rules.blocks(count + more, count))
    assert np.all(np.diff(block) >= 0)
    assert len(sizes) == count
    assert sizes.max() - sizes.min() <= 1


def test_a_document_whose_markers_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="'x'"):
        report.fill("nothing to fill", {"x": "new"})
    with pytest.raises(ValueError, match="'y'"):
        report.fill("<!-- x --><!-- end --> <!-- y --><!-- end -->", {"x": "new"})


@settings(max_examples=20)
@given(st.text(alphabet="|ab \\1<>-", max_size=20))
def test_filling_twice_is_filling_once(text: str) -> None:
    once = report.fill("before <!-- x -->old<!-- end --> after", {"x": text.replace("<!--", "").replace("-->", "")})
    assert report.fill(once, {"x": "y"}) == "before <!-- x -->\ny\n<!-- end --> after"


def test_tables_name_every_partition_and_rule() -> None:
    made = runs(np.random.default_rng(5))
    lines = report.losses_table(made).splitlines()
    assert lines[0] == "| partition | `mean` | `vote` | chosen | best member |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `full`", "| `cluster`"]
    assert "made, `cluster`, 1 times: “No.”" in report.refusals(made)
    assert [len(line.split("|")) for line in report.summary_table(made).splitlines()] == [6] * 6


def test_an_ensemble_is_scored_as_the_report_scores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mean losses are the report's log losses, its chosen rule and disagreement the report's, and it is found again."""
    monkeypatch.setitem(rules.SETS, "wine", rules.Study("classification", 2, 8, "site", ""))
    monkeypatch.setattr(rules, "FUSIONS", {name: FUSIONS[name] for name in ("mean", "vote")})
    data, store = rules.write_data("wine", tmp_path), Store(tmp_path / "store")
    job = rules.Job("wine", "disjoint", 3, data, store.root)
    run = rules.measure(job)
    plan, _ = make_plan(rules.recipe("wine", "disjoint", 3, data), store)
    bank, _ = rules.build_bank(store, plan.dataset, plan.split, rules.banked(plan, store))
    fused, reused = rules.fuse_target(store, bank, plan.dataset, plan.split, plan.fuse_spec("target"), plan.units)
    assert reused
    given = (store, bank, plan.dataset, plan.split, plan.units, [fused], {"target": ["log_loss", "accuracy"]}, 100, 0.95, 3)
    part = evaluate(*given)[0]["targets"]["target"]
    for entry in part["candidates"]:
        assert np.mean(run.losses[entry["name"]]) == pytest.approx(entry["metrics"]["log_loss"]["value"])
        assert np.mean(run.right[entry["name"]]) == pytest.approx(entry["metrics"]["accuracy"]["value"])
    assert run.alone == pytest.approx([entry["metrics"]["log_loss"]["value"] for entry in part["members"]])
    assert run.chosen == part["chosen"]
    assert run.losses["chosen"] == run.losses[part["chosen"]]
    assert run.disagreement == pytest.approx(part["diversity"]["mean"]["disagreement"])
    assert sum(run.sizes) == len(plan.split.rows("train"))
    assert rules.measure(job) == run


def test_a_partition_that_does_not_fit_is_told_and_not_raised(tmp_path: Path) -> None:
    job = rules.Job("diabetes", "by_class", 0, rules.write_data("diabetes", tmp_path), tmp_path / "store")
    run = rules.measure(job)
    assert "no target has exclusive classes" in run.refused
    assert run.rows == []
