"""Cross-fitting: no row is judged by a fit that saw it, equal rules give way to the simpler one, and chance stays chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from fuseline.component import Component, complete
from fuseline.evaluation.calibration import fit_calibration
from fuseline.fusion import crossfit
from fuseline.fusion.combine import Combiner, Fused, Outputs, calibrate
from fuseline.fusion.crossfit import Learnable, best_member, compare, cross_fit, fit, judge, sample, summary
from fuseline.fusion.reading import pick, say_alone
from fuseline.fusion.rules import FUSIONS, UNFIT, needs
from fuseline.fusion.scores import row_scores

SEED = np.random.SeedSequence(0)
KINDS = ["classification", "ordinal", "multilabel", "regression", "quantile"]


def every_rule(kind="classification", **settings):
    """All rules that fit a kind, with some settings other than by default."""
    fitting = [name for name in FUSIONS if kind not in UNFIT.get(name, ())]
    return [complete(Component(name=name, settings=settings.get(name, {})), FUSIONS, "rules") for name in fitting]


EVERY_RULE = every_rule()
QUICK = every_rule(features={"steps": 5}, gate={"steps": 5})
MEAN = [Component(name="mean")]
FOR_VALUES = every_rule("regression")
OTHERWISE = [
    complete(Component.model_validate(rule), FUSIONS, "rules")
    for rule in (
        {"trimmed": {"cut": 0.5}},
        {"greedy": {"bags": 5}},
        {"stacking": {"passthrough": True}},
        {"gate": {"sees": "inputs", "steps": 50}},
        {"gate": {"sees": "outputs", "steps": 50}},
        {"dynamic": {"sees": "inputs", "method": "knora_e"}},
        {"dynamic": {"sees": "outputs", "method": "ola"}},
        {"features": {"merge": "attention", "steps": 50}},
    )
]


@dataclass
class Held:
    """What members say, held in memory and told some rows at a time."""

    held: Outputs
    at_once: int = 10**9

    def outputs(self, index, needs=frozenset()):
        some = self.held.rows(torch.from_numpy(index))
        return some._replace(**{part: None for part in ("features", "inputs") if part not in needs})

    def blocks(self, index, needs=frozenset()):
        for start in range(0, max(1, len(index)), self.at_once):
            part = slice(start, min(start + self.at_once, len(index)))
            yield part, self.outputs(index[part], needs)

    def true(self, index, codes):
        return Outputs(self.held.values[:, index, codes][:, :, None], task=self.held.task)

    def alone(self, member, index):
        variances = self.held.variances
        some = Outputs(
            self.held.values[member : member + 1],
            None if variances is None else variances[member : member + 1],
            task=self.held.task,
        )
        return some.rows(torch.from_numpy(index))


def folds(rows, count=5, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(rows) % count)


def learnable(values, y, held_out=None, variances=None, features=None, count=5):
    """The features are the rows' own inputs too, and the first of two members' halves of them."""
    widths = None if features is None else (features.shape[1] - features.shape[1] // 2, features.shape[1] // 2)
    costs = torch.ones(len(values), 2).double()
    return of(Outputs(values, variances, features, features, None, widths, costs), y, held_out, count)


def of(outputs, y, held_out=None, count=5):
    rows = len(y)
    held_out = np.ones(rows, bool) if held_out is None else held_out
    return Learnable(Held(outputs), y, held_out, folds(rows, count), np.arange(rows), True)


def classes_said(seed, signal, rows=300, classes=3, width=12):
    """One member per entry of ``signal``: how far its logit of the true class stands out. Features are noise."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(rows) % classes)
    logits = rng.normal(size=(len(signal), rows, classes)) + np.array(signal)[:, None, None] * np.eye(classes)[y]
    features = torch.from_numpy(rng.normal(size=(rows, width)))
    return learnable(torch.from_numpy(logits).softmax(2), torch.from_numpy(y), features=features)


def identical_members(seed, members=4, rows=300):
    """Members that all say the probabilities that the codes are drawn from."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(3), rows)
    y = np.array([rng.choice(3, p=p) for p in true])
    return learnable(torch.from_numpy(true).repeat(members, 1, 1), torch.from_numpy(y))


def values_said(seed, noise, rows=300, width=12):
    """One member per entry of ``noise``, or without any signal where it is infinite. Features are noise."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=rows)
    values = np.stack([rng.normal(size=rows) if np.isinf(n) else y + n * rng.normal(size=rows) for n in noise])
    features = torch.from_numpy(rng.normal(size=(rows, width)))
    shape = (len(noise), rows, 1)
    return learnable(
        torch.from_numpy(values)[:, :, None], torch.from_numpy(y), variances=torch.ones(shape).double(), features=features
    )


def numbered_rows(rows=23, held_out=None):
    """Rows that carry their own number as value, target and feature."""
    number = torch.arange(rows).double()
    return learnable(
        number[None, :, None].clone(), number.clone(), held_out, torch.ones(1, rows, 1).double(), number[:, None].clone(), count=4
    )


class Recognise(Combiner):
    """Says 1 of a row that it was fitted on and 0 of any other; variances are 1."""

    def forward(self, outputs):
        known = torch.isin(outputs.values[0, :, 0], self.get_buffer("seen")).double()[:, None]
        return Fused(known, torch.ones_like(known))


@pytest.fixture
def spy(monkeypatch):
    """A rule under the names ``spy`` and ``features`` that keeps what it was given."""
    calls = []

    def rule(outputs, target, generator, **settings):
        calls.append((outputs, target, generator, settings))
        return Recognise({"seen": target.clone()})

    monkeypatch.setitem(FUSIONS, "spy", rule)
    monkeypatch.setitem(FUSIONS, "features", rule)
    return calls


def test_each_row_is_judged_by_a_fit_that_did_not_see_it(spy):
    rows = numbered_rows()
    judged = cross_fit(Component(name="spy"), rows, SEED)
    assert judged.values[:, 0].tolist() == [0.0] * 23
    assert judged.variances[:, 0].tolist() == [1.0] * 23
    assert len(spy) == 4
    for outputs, target, _, _ in spy:
        assert torch.equal(outputs.values[0, :, 0], target)
        assert len(set(target.tolist())) in (17, 18)
    everything = fit(Component(name="spy"), rows, SEED)(rows.said.held)
    assert everything.values[:, 0].tolist() == [1.0] * 23


def test_each_fit_sees_all_rows_of_the_other_folds(spy):
    rows = numbered_rows()
    cross_fit(Component(name="spy"), rows, SEED)
    seen = [set(target.tolist()) for _, target, _, _ in spy]
    expected = [set(np.flatnonzero(rows.fold != number).astype(float).tolist()) for number in range(4)]
    assert sorted(map(sorted, seen)) == sorted(map(sorted, expected))


def test_rules_on_features_learn_from_held_out_rows_alone_and_are_nan_elsewhere(spy):
    held_out = np.arange(23) % 2 == 0
    rows = numbered_rows(held_out=held_out)
    judged = cross_fit(Component(name="features"), rows, SEED)
    assert torch.isnan(judged.values[:, 0]).tolist() == (~held_out).tolist()
    assert torch.isnan(judged.variances[:, 0]).tolist() == (~held_out).tolist()
    assert judged.values[held_out, 0].tolist() == [0.0] * 12
    for outputs, target, _, _ in spy:
        assert held_out[target.long().numpy()].all()
        assert torch.equal(outputs.features[:, 0], target)


def test_other_rules_learn_from_all_rows_and_never_get_features(spy):
    rows = numbered_rows(held_out=np.zeros(23, bool))
    assert torch.isfinite(cross_fit(Component(name="spy"), rows, SEED).values).all()
    assert all(outputs.features is outputs.inputs is None for outputs, _, _, _ in spy)


def test_rules_on_inputs_learn_from_all_rows_and_get_their_inputs_but_no_features(spy):
    rows = numbered_rows(held_out=np.zeros(23, bool))
    judged = cross_fit(Component(name="spy", settings={"sees": "inputs"}), rows, SEED)
    assert torch.isfinite(judged.values).all()
    for outputs, target, _, _ in spy:
        assert outputs.features is None
        assert torch.equal(outputs.inputs[:, 0], target)


def test_a_rule_gets_its_settings_and_a_generator_of_its_seed(spy):
    rows = numbered_rows()
    for seed in (1, 1, 2):
        fit(Component(name="spy", settings={"depth": 3}), rows, np.random.SeedSequence(seed))
    draws = [torch.rand(1, generator=generator).item() for _, _, generator, _ in spy]
    assert draws[0] == draws[1] != draws[2]
    assert all(settings == {"depth": 3} for *_, settings in spy)


@pytest.mark.parametrize("rule", [*EVERY_RULE, *OTHERWISE], ids=str)
def test_shuffled_labels_give_chance(rule):
    rows = classes_said(0, signal=[0.0] * 4, rows=400, classes=2)
    judged = cross_fit(rule, rows, SEED)
    right = int((judged.values.argmax(1) == rows.target).sum())
    bounds = binomtest(right, 400).proportion_ci(0.99, method="wilson")
    assert bounds.low < 0.5 < bounds.high


def test_a_fit_on_shuffled_labels_seems_better_than_chance_where_it_is_not_cross_fitted():
    rows = classes_said(0, signal=[0.0] * 4, rows=400, classes=2)
    right = int((fit(Component(name="features"), rows, SEED)(rows.said.held).values.argmax(1) == rows.target).sum())
    assert binomtest(right, 400).proportion_ci(0.99, method="wilson").low > 0.5


@pytest.mark.parametrize("rule", FOR_VALUES, ids=lambda rule: rule.name)
def test_shuffled_values_are_not_predicted(rule):
    rows = values_said(0, noise=[np.inf] * 4)
    judged = cross_fit(rule, rows, SEED)
    assert ((judged.values[:, 0] - rows.target) ** 2).mean() > 0.97 * rows.target.var()


@pytest.mark.parametrize("rule", QUICK, ids=lambda rule: rule.name)
def test_a_fusion_never_changes_a_member(rule):
    rows = classes_said(1, signal=[1.0, 2.0])
    before = [part.clone() for part in (rows.said.held.values, rows.said.held.features, rows.target)]
    compare([rule], rows, SEED)
    for part, copy in zip((rows.said.held.values, rows.said.held.features, rows.target), before, strict=True):
        assert torch.equal(part, copy)


@pytest.mark.parametrize("rule", QUICK, ids=lambda rule: rule.name)
def test_the_same_seed_gives_the_same_fit(rule):
    rows = classes_said(2, signal=[1.0, 2.0])
    first, second = (fit(rule, rows, np.random.SeedSequence(5)).tensors() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("seed", range(4))
def test_identical_members_leave_the_choice_to_the_simplest_rule(seed):
    rules = [rule for rule in EVERY_RULE if not needs([rule])]
    comparison = compare(rules, identical_members(seed), SEED)
    assert comparison.chosen == rules[0].name
    assert compare(rules[1:], identical_members(seed), SEED).chosen == rules[1].name
    assert comparison.table["weights"]["gap"] == pytest.approx(comparison.table["mean"]["gap"], abs=1e-9)


def test_equally_good_members_mostly_leave_the_choice_to_the_simpler_rule():
    rules = [Component(name="mean"), Component(name="weights")]
    comparisons = [compare(rules, values_said(seed, noise=[0.5, 0.5, 0.5], rows=60), SEED) for seed in range(40)]
    best, chosen = (sum(getattr(c, what) == "mean" for c in comparisons) for what in ("best", "chosen"))
    assert chosen >= 36
    assert best < chosen


def test_the_simpler_rule_wins_within_one_standard_error_though_another_is_best():
    rows = values_said(0, noise=[0.9, 1.0, 1.1])
    rules = [Component(name="mean"), Component(name="weights")]
    comparison = compare(rules, rows, SEED)
    assert comparison.best == "weights"
    assert 0 < comparison.table["mean"]["gap"] <= comparison.table["mean"]["standard_error"]
    assert comparison.chosen == "mean"
    assert compare(rules[::-1], rows, SEED).chosen == "weights"


@pytest.mark.parametrize("rows", [classes_said(4, signal=[4.0, 0.0, 0.0, 0.0]), values_said(4, noise=[0.1, 3.0, 3.0])])
def test_a_clearly_better_rule_is_chosen_over_a_simpler_one(rows):
    comparison = compare([Component(name="mean"), Component(name="weights")], rows, SEED)
    assert comparison.best == comparison.chosen == "weights"
    assert comparison.table["mean"]["gap"] > 2 * comparison.table["mean"]["standard_error"]


def test_the_table_holds_mean_losses_and_paired_standard_errors():
    rows = values_said(5, noise=[0.5, 1.0, 2.0])
    comparison = compare([Component(name="mean"), Component(name="weights")], rows, SEED)
    losses = {}
    for name in ("mean", "weights"):
        values = cross_fit(Component(name=name), rows, SEED).values[:, 0]
        losses[name] = ((values - rows.target) ** 2).numpy()
    gap = losses["mean"] - losses["weights"]
    error = np.std(gap, ddof=1) / np.sqrt(300)
    assert comparison.rows.tolist() == list(range(300))
    assert comparison.table["mean"] == pytest.approx({"loss": losses["mean"].mean(), "gap": gap.mean(), "standard_error": error})
    assert comparison.table["weights"] == pytest.approx({"loss": losses["weights"].mean(), "gap": 0, "standard_error": 0})
    assert summary(comparison) == {"rows": 300, "best": "weights", "chosen": comparison.chosen, "rules": comparison.table}


def test_rules_are_compared_on_held_out_rows_if_one_of_them_uses_features():
    rows = classes_said(6, signal=[1.0, 1.0])
    held_out = np.arange(300) < 120
    rows = replace(rows, held_out=held_out)
    without, within = (compare(rules, rows, SEED) for rules in (MEAN, [*MEAN, QUICK[-1]]))
    assert (len(without.rows), len(within.rows)) == (300, 120)
    assert list(within.table) == ["mean", "features"]
    assert all(np.isfinite(row["loss"]) for row in within.table.values())
    inside = judge(Fused(rows.said.held.values.mean(0)), rows, np.flatnonzero(held_out)).mean()
    assert within.table["mean"]["loss"] == pytest.approx(inside)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_compared_by_the_calibrated_loss_of_what_a_rule_says_of_rows_it_did_not_see(said_of, kind):
    outputs, y = said_of(kind, rows=80)
    rows = of(outputs, y, count=4)
    rules = every_rule(kind, features={"steps": 5}, gate={"steps": 5})
    comparison = compare(rules, rows, SEED)
    assert list(comparison.table) == [rule.name for rule in rules]
    for rule in rules:
        said = torch.empty(outputs.values.shape[1:], dtype=torch.float64)
        variances = torch.empty(80, 1, dtype=torch.float64) if kind == "regression" else None
        for number in range(4):
            inside, outside = (torch.from_numpy(np.flatnonzero(part)) for part in (rows.fold != number, rows.fold == number))
            combiner = fit(rule, of(outputs.rows(inside), y[inside]), SEED)
            fused = combiner(outputs.rows(outside))
            said[outside] = fused.values
            if variances is not None:
                variances[outside] = fused.variances
        together = Fused(said, variances, outputs.task)
        calibrated = calibrate(together, fit_calibration(together, y))
        assert comparison.table[rule.name]["loss"] == pytest.approx(row_scores(calibrated, y).mean(), rel=1e-9), rule.name


@pytest.mark.parametrize("kind", KINDS)
def test_members_without_any_skill_are_not_made_skilled(said_of, kind):
    """Cross-fitted, no rule is better than knowing nothing but how often what is seen, by more than chance."""
    outputs, y = said_of(kind, skills=(0.0, 0.0, 0.0), rows=120)
    rows = of(outputs, y)
    if outputs.exclusive:
        blank = torch.bincount(y).double() / 120
    elif kind == "multilabel":
        blank = y.double().mean(0)
    else:
        blank = y.quantile(torch.tensor(outputs.task.levels).double()) if kind == "quantile" else y.mean()[None]
    ignorant = row_scores(Fused(blank.expand(120, -1), None, outputs.task), y)
    for rule in every_rule(kind, features={"steps": 30}, gate={"steps": 30}):
        gain = ignorant - judge(cross_fit(rule, rows, SEED), rows, np.arange(120))
        assert gain.mean() < 3 * gain.std(ddof=1) / np.sqrt(120), rule.name


def test_rules_are_judged_as_calibrated():
    rng = np.random.default_rng(7)
    y = torch.from_numpy((rng.random(500) < 0.3).astype(int))
    confident = torch.tensor([[0.99, 0.01]]).double().repeat(500, 1)
    common = np.arange(400)
    rows = learnable(confident[None], y)
    calibrated = judge(Fused(confident), rows, common).mean()
    assert judge(Fused(confident), replace(rows, calibrated=False), common) == pytest.approx(
        row_scores(Fused(confident), y)[:400]
    )
    share = y[:400].double().mean()
    best = float(-(share * share.log() + (1 - share) * (1 - share).log()))
    assert row_scores(Fused(confident), y)[:400].mean() > best + 0.5
    assert best <= calibrated < best + 0.1


def test_one_member_alone_says_what_it_says():
    rows = classes_said(8, signal=[1.0, 2.0, 3.0])
    alone = say_alone(1, rows.said, np.arange(len(rows.target)))
    assert torch.equal(alone.values, rows.said.held.values[1])
    assert torch.equal(alone.values, pick(1, 3)(rows.said.held).values)


def test_the_best_member_is_best_on_the_rows_asked_for():
    rows = classes_said(9, signal=[0.0, 0.0])
    rows.said.held.values[0, :100] = torch.where(torch.eye(3)[rows.target[:100]] == 1, 0.9, 0.05).double()
    rows.said.held.values[1, 100:] = torch.where(torch.eye(3)[rows.target[100:]] == 1, 0.9, 0.05).double()
    assert best_member(rows, np.arange(100), 2) == 0
    assert best_member(rows, np.arange(100, 300), 2) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_read_some_rows_at_a_time_a_rule_says_the_same(said_of, kind):
    outputs, y = said_of(kind, rows=80)
    whole, parted = of(outputs, y), of(outputs, y)
    parted.said.at_once = 3
    for rule in every_rule(kind, features={"steps": 5}, gate={"steps": 5}):
        ours, theirs = (cross_fit(rule, rows, SEED) for rows in (whole, parted))
        torch.testing.assert_close(ours.values, theirs.values, rtol=1e-12, atol=1e-12)
        assert (ours.variances is None) == (theirs.variances is None)
        if ours.variances is not None:
            torch.testing.assert_close(ours.variances, theirs.variances, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["weights", "greedy"])
@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_of_classes_the_true_column_alone_gives_the_same_fit(said_of, kind, name):
    outputs, y = said_of(kind, rows=80)
    fitted = fit(Component(name=name), of(outputs, y), SEED)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(fitted.weights, FUSIONS[name](outputs, y, generator).weights)


@pytest.mark.parametrize("name", ["mean", "trimmed", "vote", "product"])
def test_rules_with_nothing_to_fit_are_given_no_row(monkeypatch, name):
    given = []
    monkeypatch.setitem(FUSIONS, name, lambda outputs, target, generator: given.append((outputs, target)))
    fit(Component(name=name), classes_said(0, signal=[1.0, 2.0]), SEED)
    [(outputs, target)] = given
    assert (outputs.values.shape, len(target)) == ((2, 0, 3), 0)


@pytest.mark.parametrize("seed", range(3))
def test_too_many_rows_are_sampled_evenly_over_the_folds(monkeypatch, spy, seed):
    rows = numbered_rows(rows=203, held_out=np.arange(203) % 3 > 0)
    monkeypatch.setattr(crossfit, "LEARNT", 2 * 40)  # a value and a variance of each
    drawn = [sample(Component(name="spy"), rows, np.random.SeedSequence(number)) for number in (seed, seed, seed + 1)]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    assert [mask.sum() for mask in drawn] == [40] * 3
    assert np.bincount(rows.fold[drawn[0]]).tolist() == [10] * 4
    monkeypatch.setattr(crossfit, "LEARNT", 3 * 40)
    on_features = sample(Component(name="features"), rows, np.random.SeedSequence(seed))
    assert on_features.sum() == 40
    assert rows.held_out[on_features].all()


def test_rules_that_fit_are_not_sampled(monkeypatch):
    rows = classes_said(0, signal=[1.0, 2.0])
    monkeypatch.setattr(crossfit, "LEARNT", 2 * 3 * 300)
    assert sample(Component(name="stacking"), rows, SEED).all()
    monkeypatch.setattr(crossfit, "LEARNT", 2 * 3 * 300 - 1)
    assert sample(Component(name="stacking"), rows, SEED).sum() == 299
    assert sample(Component(name="weights"), rows, SEED).all()  # one number a member and row
    monkeypatch.setattr(crossfit, "LEARNT", 2 * 100)
    assert sample(Component(name="weights"), rows, SEED).sum() == 100
    assert sample(Component(name="mean"), rows, SEED).all()


@pytest.mark.parametrize(("name", "count"), [("weights", 20), ("stacking", 20), ("greedy", 60)])
def test_linear_programmes_are_solved_on_fewer(said_of, monkeypatch, name, count):
    outputs, y = said_of("quantile", rows=80)
    width = outputs.values.shape[0] * outputs.values.shape[2]
    monkeypatch.setattr(crossfit, "LEARNT", 60 * width)
    monkeypatch.setattr(crossfit, "PROGRAMMED", 20 * width)
    assert sample(Component(name=name), of(outputs, y), SEED).sum() == count


def test_all_rows_are_judged_though_a_sample_is_learnt_from(monkeypatch, spy):
    rows = numbered_rows(rows=203)
    monkeypatch.setattr(crossfit, "LEARNT", 2 * 40)
    judged = cross_fit(Component(name="spy"), rows, SEED)
    assert judged.values[:, 0].tolist() == [0.0] * 203  # and none by a fit that saw it
    assert [len(target) for _, target, _, _ in spy] == [30] * 4
    drawn = sample(Component(name="spy"), rows, SEED)
    everything = fit(Component(name="spy"), rows, SEED)(rows.said.held)
    assert everything.values[:, 0].tolist() == drawn.astype(float).tolist()
