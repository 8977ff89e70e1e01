"""Pruning: against brute force over all subsets and dominance by its definition; ceilings; the search where members are many."""

from __future__ import annotations

import json
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuseline.component import Component, complete
from fuseline.data.schema import TargetSchema
from fuseline.errors import RecipeError
from fuseline.evaluation.diversity import DIVERSITY, mean_pair
from fuseline.evaluation.metrics import Predicted
from fuseline.fusion import pruning
from fuseline.fusion.combine import Mixture, Outputs
from fuseline.fusion.pareto import all_subsets, non_dominated, thinned
from fuseline.fusion.pruned import Pruned, front_table
from fuseline.fusion.pruning import SHOWN, Bench, Ceilings, distances, pruned, searched
from fuseline.fusion.scores import row_losses

LAWS = settings(derandomize=True, deadline=None, max_examples=25)
KINDS = ["classification", "ordinal", "multilabel", "regression", "quantile"]
TASKS = {
    "classification": TargetSchema(kind="classification", classes=["a", "b", "c"]),
    "ordinal": TargetSchema(kind="ordinal", classes=[0, 1, 2]),
    "multilabel": TargetSchema(kind="multilabel", classes=["a", "b", "c"]),
    "regression": TargetSchema(kind="regression"),
    "quantile": TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.8]),
}


def said(kind, seed, members=4, rows=40):
    """Members of different quality and cost."""
    rng = np.random.default_rng(seed)
    skill = rng.uniform(0, 3, (members, 1, 1))
    costs = torch.from_numpy(rng.uniform(1, 10, (members, 2)) * [1, 1e6])
    noise, variances = rng.normal(size=(members, rows, 3)), None
    if kind in ("regression", "quantile"):
        y = rng.normal(size=rows)
        values = y[:, None] + noise[:, :, :1] / (0.5 + skill)
        variances = torch.ones(members, rows, 1).double() if kind == "regression" else None
        values = values if kind == "regression" else values + np.array([-1, 0, 0.7]) * rng.uniform(0.2, 2, (members, 1, 1))
    elif kind == "multilabel":
        y = rng.integers(0, 2, (rows, 3)).astype(float)
        values = 1 / (1 + np.exp(-noise - skill * (2 * y - 1)))
        y[:, 1:][rng.random((rows, 2)) < 0.2] = np.nan
    else:
        y = rng.integers(0, 3, rows)
        values = torch.from_numpy(noise + skill * np.eye(3)[y]).softmax(2).numpy()
    return Outputs(torch.from_numpy(values), variances, task=TASKS[kind], costs=costs), torch.from_numpy(y)


def prune(outputs, y, **ceilings):
    return pruned(outputs, y, torch.Generator().manual_seed(0), **ceilings)


def chosen(combiner):
    return torch.nonzero(combiner.weights)[:, 0].tolist()


def subsets(members):
    return [part for k in range(1, members + 1) for part in combinations(range(members), k)]


def losses_of(part, outputs, y):
    """The row losses of the even mixture, by the combiner that serves."""
    weights = torch.zeros(len(outputs.values)).double()
    weights[list(part)] = 1 / len(part)
    return row_losses(Mixture({"weights": weights})(outputs), y).numpy()


def diversity_of(part, outputs, y):
    """By the pairwise measures of the report; of quantiles, of which that takes the median alone, written out."""
    if len(part) == 1:
        return 0.0
    values = outputs.values[list(part)].numpy()
    if outputs.kind == "quantile":
        return np.mean([((a - b) ** 2).mean() for a, b in combinations(values, 2)]) / np.var(y.numpy())
    pairs = DIVERSITY[outputs.kind](y.numpy(), Predicted(values))["disagreement"]
    return mean_pair(pairs**2) / np.var(y.numpy()) if outputs.kind == "regression" else mean_pair(pairs)


def objectives_of(part, outputs, y):
    """To 11 digits, so that equal ones are equal whatever the order they were summed in."""
    latency, size = outputs.costs[list(part)].sum(0).tolist()
    exact = (losses_of(part, outputs, y).mean(), diversity_of(part, outputs, y), latency, size / 1e6)
    return tuple(float(f"{number:.11g}") for number in exact)


def dominates(a, b):
    """The definition: nowhere worse, somewhere better; diversity is better if higher."""
    a, b = ((o[0], -o[1], *o[2:]) for o in (a, b))
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def within(part, objectives, max_latency=None, max_memory=None, most=None):
    limits = ((objectives[2], max_latency), (objectives[3], max_memory), (len(part), most))
    return all(limit is None or cost <= limit for cost, limit in limits)


def brute_force(outputs, y, **ceilings):
    """The choice in plain Python, and the front of all."""
    found = {part: objectives_of(part, outputs, y) for part in subsets(len(outputs.values))}
    possible = [part for part, o in found.items() if within(part, o, **ceilings)]
    possible = [a for a in possible if not any(dominates(found[b], found[a]) for b in possible)]
    best = min(possible, key=lambda part: found[part][0])
    near = []
    for part in possible:
        gap = losses_of(part, outputs, y) - losses_of(best, outputs, y)
        if gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap)):
            near.append(part)
    whole = found[tuple(range(len(outputs.values)))]

    def rank(part):
        loss, diversity, latency, size = found[part]
        return latency / whole[2] + size / whole[3], -diversity, loss

    choice = min(near, key=rank)
    front = {a for a in found if not any(dominates(found[b], found[a]) for b in found)}
    return list(choice), front, found


@pytest.mark.parametrize(("kind", "members"), [*product(KINDS, [2, 3, 4]), ("classification", 6), ("regression", 6)])
def test_choice_and_front_are_those_of_brute_force(kind, members):
    for seed in range(2):
        outputs, y = said(kind, seed, members)
        combiner = prune(outputs, y)
        choice, front, found = brute_force(outputs, y)
        assert chosen(combiner) == choice
        kept = [tuple(np.flatnonzero(mask)) for mask in combiner.front.numpy()]
        assert len(kept) == len(set(kept)) == min(len(front), SHOWN)
        assert set(kept) <= front
        expected = np.array([found[part] for part in kept])
        assert combiner.objectives.numpy() == pytest.approx(expected, rel=1e-10)
        assert (np.diff(expected[:, 0]) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ceilings", [{"max_latency": 9}, {"max_memory": 8}, {"most": 2}, {"max_latency": 14, "most": 3}], ids=str
)
def test_ceilings_are_kept_and_the_choice_within_them_is_that_of_brute_force(kind, ceilings):
    outputs, y = said(kind, 7, 5)
    combiner = prune(outputs, y, **ceilings)
    assert chosen(combiner) == brute_force(outputs, y, **ceilings)[0]
    assert within(chosen(combiner), objectives_of(chosen(combiner), outputs, y), **ceilings)
    assert sum(entry["chosen"] for entry in front_table(combiner, list("abcde"))) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_of_equally_cheap_subsets_the_most_diverse_is_chosen(kind, seed):
    outputs, y = said(kind, seed, 4, rows=15)
    outputs = outputs._replace(costs=torch.tensor([1.0, 1e6]).double().expand(4, 2))
    assert chosen(prune(outputs, y)) == brute_force(outputs, y)[0]


def values_with(errors, costs):
    """Members of a regression whose errors are these (M, B), and who cost so many microseconds and megabytes each."""
    errors = np.asarray(errors, float)
    y = np.linspace(-1, 1, errors.shape[1])
    variances = torch.ones(*errors.shape, 1).double()
    both = torch.tensor([[cost, cost * 1e6] for cost in costs], dtype=torch.float64)
    return Outputs(torch.from_numpy(y + errors)[:, :, None], variances, task=TASKS["regression"], costs=both), torch.from_numpy(y)


def test_of_two_equally_cheap_pairs_the_more_diverse_is_chosen_though_its_loss_is_a_little_higher():
    left = np.tile([0, np.sqrt(0.14)], 15)  # of the second pair's errors; the squares' mean is 0.07, and the first pair's 0.0625
    outputs, y = values_with([np.full(30, 1.25), np.full(30, -0.75), 3 + left, -3 + left], [1, 1, 1, 1])
    assert chosen(prune(outputs, y, most=2)) == [2, 3]


def test_a_noisy_member_that_a_better_one_dominates_is_not_chosen_for_its_noise():
    """The second is surely worse than the first, the third is worse still, but not surely, and as cheap as the second."""
    noisy = np.sqrt(np.tile([0.2, 2.2], 2))
    outputs, y = values_with([np.ones(4), np.full(4, np.sqrt(1.1)), noisy], [10, 5, 6])
    assert row_losses(Mixture({"weights": torch.eye(3)[2].double()})(outputs), y).mean() == pytest.approx(1.2)
    assert chosen(prune(outputs, y, most=1)) == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_how_many_subsets_are_judged_at_a_time_changes_nothing(kind, monkeypatch):
    outputs, y = said(kind, 12, members=5)
    at_once = prune(outputs, y, most=4)
    monkeypatch.setattr(pruning, "NUMBERS", 100)
    in_parts = prune(outputs, y, most=4)
    assert chosen(in_parts) == chosen(at_once)
    assert torch.allclose(in_parts.objectives, at_once.objectives, rtol=1e-11, atol=0)


@LAWS
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 9999),
    members=st.integers(1, 4),
    rows=st.integers(1, 12),
    costs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=4),
    ceilings=st.fixed_dictionaries(
        {}, optional={"max_latency": st.integers(1, 9), "max_memory": st.integers(1, 9), "most": st.integers(1, 4)}
    ),
)
def test_no_subset_within_the_ceilings_dominates_the_chosen_one(kind, seed, members, rows, costs, ceilings):
    outputs, y = said(kind, seed, members, rows)
    outputs = outputs._replace(costs=torch.tensor(costs[:members]).double() * torch.tensor([1, 1e6]))
    bench = Bench.of(outputs, y)
    objectives = bench.objectives(all_subsets(members)).tolist()
    found = dict(zip((tuple(np.flatnonzero(mask)) for mask in all_subsets(members)), objectives, strict=True))
    possible = {part: o for part, o in found.items() if within(part, o, **ceilings)}
    assume(possible)
    choice = tuple(chosen(prune(outputs, y, **ceilings)))
    assert choice in possible
    assert not any(dominates(o, possible[choice]) for o in possible.values())


@LAWS
@given(arrays(np.int64, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=st.integers(0, 3)))
def test_the_front_is_what_no_point_dominates_by_definition(points):
    expected = [not any((b <= a).all() and (b < a).any() for b in points) for a in points]
    assert non_dominated(points.astype(float)).tolist() == expected


def test_the_front_of_more_points_than_are_compared_at_a_time():
    points = np.random.default_rng(0).random((700, 3)).round(1)
    expected = [not ((points <= a).all(1) & (points < a).any(1)).any() for a in points]
    assert non_dominated(points).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_of_a_large_front(seed):
    points = np.random.default_rng(seed).random((900, 4))
    points = points[non_dominated(points)]
    kept = thinned(points, 64, always=17)
    assert len(kept) == len(set(kept.tolist())) == 64
    assert {17, *points.argmin(0).tolist()} <= set(kept.tolist())
    assert (np.diff(points[kept, 0]) >= 0).all()
    core = set(np.flatnonzero(non_dominated(points[:, [0, 2, 3]])).tolist())
    assert core <= set(kept.tolist()) or len(core) > 60
    assert sorted(thinned(points, 1000, always=0)) == list(range(len(points)))


@pytest.mark.parametrize("kind", KINDS)
def test_of_members_that_say_the_same_the_cheapest_is_kept(kind):
    outputs, y = said(kind, 3)
    variances = None if outputs.variances is None else outputs.variances[[0] * 4]
    costs = torch.tensor([[3.0, 3e6], [1.0, 2e6], [2.0, 1e6], [1.0, 1e6]]).double()
    same = outputs._replace(values=outputs.values[[0] * 4], variances=variances, costs=costs)
    combiner = prune(same, y)
    assert chosen(combiner) == [3]
    assert (combiner.objectives[:, 1] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_knows_nothing_is_dropped_though_it_costs_nothing(kind):
    outputs, y = said(kind, 4, members=3, rows=400)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(400))
    values = torch.cat([outputs.values[:1].repeat(3, 1, 1), outputs.values[:1, shuffled]])
    values[1:3] += 0.01 * torch.rand((2, 400, 1), generator=torch.Generator().manual_seed(0)).double()  # not quite the same
    if outputs.exclusive:
        values = values / values.sum(2, keepdim=True)
    if kind == "multilabel":
        values = values.clamp(max=1)
    costs = torch.tensor([[1.0, 1e6]] * 3 + [[0.001, 1]]).double()
    variances = None if outputs.variances is None else outputs.variances[[0] * 4]
    assert 3 not in chosen(prune(outputs._replace(values=values, variances=variances, costs=costs), y))


def test_members_whose_errors_cancel_are_kept_together():
    outputs, y = values_with(np.array([[1], [-1], [3]]) * np.ones(50), [1, 1, 1])
    combiner = prune(outputs, y)
    assert combiner.weights.tolist() == [0.5, 0.5, 0]
    assert front_table(combiner, list("abc"))[0]["loss"] == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize(("slack", "expected"), [(0.9, [0]), (1.1, [1])])
def test_one_standard_error_decides_between_a_good_member_and_a_cheap_one(slack, expected):
    rng = np.random.default_rng(0)
    y, own = rng.normal(size=200), rng.uniform(0.5, 1.0, 200)
    gap = rng.normal(size=200) * 0.1
    gap = (gap - gap.mean()) / gap.std(ddof=1) * 0.1
    worse = np.sqrt(own**2 + gap + 0.1 / np.sqrt(200) / slack)  # its loss is higher by this much, with that standard error
    values = torch.from_numpy(np.stack([y + own, y + worse]))[:, :, None]
    costs = torch.tensor([[10.0, 10.0], [1.0, 1.0]]).double()
    outputs = Outputs(values, torch.ones(2, 200, 1).double(), task=TASKS["regression"], costs=costs)
    assert chosen(prune(outputs, torch.from_numpy(y))) == expected


@pytest.mark.parametrize("kind", ["regression", "quantile"])
def test_diversity_of_values_is_what_averaging_gains(kind):
    """Krogh and Vedelsby 1995: the mean's squared error is the members' mean one less the mean squared distance to the mean."""
    outputs, y = said(kind, 9, 4)
    errors = (outputs.values - y[:, None]).numpy()
    gain = (errors**2).mean() - (errors.mean(0) ** 2).mean()
    pairs = mean_pair(distances(outputs, y)) * np.var(y.numpy())
    assert gain == pytest.approx(pairs * (4 - 1) / (2 * 4))


@pytest.mark.parametrize("kind", KINDS)
def test_one_member_alone_is_kept(kind):
    outputs, y = said(kind, 0, members=1)
    combiner = prune(outputs, y)
    assert combiner.weights.tolist() == [1]
    assert front_table(combiner, ["only"])[0]["members"] == ["only"]
    assert combiner.front.tolist() == [[True]]


@pytest.mark.parametrize("kind", KINDS)
def test_it_serves_as_the_even_mixture_of_the_chosen(kind):
    outputs, y = said(kind, 11)
    combiner = prune(outputs, y)
    assert isinstance(combiner, Pruned)
    keep = chosen(combiner)
    alone = outputs._replace(
        values=outputs.values[keep], variances=None if outputs.variances is None else outputs.variances[keep], costs=None
    )
    expected = Mixture({"weights": torch.full((len(keep),), 1 / len(keep)).double()})(alone)
    got = Pruned(combiner.tensors())(outputs._replace(costs=None))
    assert torch.allclose(got.values, expected.values, rtol=0, atol=1e-12)
    if kind == "regression":
        assert torch.allclose(got.variances, expected.variances, rtol=0, atol=1e-12)


@pytest.mark.parametrize("members", [4, 14])
def test_the_same_again_gives_the_same(members):
    outputs, y = said("classification", 5, members)
    before = [tensor.clone() for tensor in (outputs.values, y, outputs.costs)]
    once, again = prune(outputs, y), prune(outputs, y)
    assert all(torch.equal(once.tensors()[name], again.tensors()[name]) for name in once.tensors())
    assert all(torch.equal(a, b) for a, b in zip(before, (outputs.values, y, outputs.costs), strict=True))


def test_the_target_of_a_task_that_is_not_said_is_known_by_its_variances():
    for kind in ("classification", "regression"):
        outputs, y = said(kind, 6)
        named, unnamed = prune(outputs, y), prune(outputs._replace(task=None), y)
        assert torch.equal(named.objectives, unnamed.objectives)


def hidden_pair(members, rows=60):
    """Members with errors of one sign, worse by number, but for the last, whose error is the opposite of the worst but one's."""
    rng = np.random.default_rng(0)
    y, own = rng.normal(size=rows), rng.normal(size=rows)
    errors = own * np.linspace(1, 2, members)[:, None] + rng.normal(size=(members, rows)) * 0.1
    errors[-1] = -errors[-2]
    costs = torch.from_numpy(rng.uniform(1, 2, (members, 2)))
    values = torch.from_numpy(y + errors)[:, :, None]
    variances = torch.ones(members, rows, 1).double()
    return Outputs(values, variances, task=TASKS["regression"], costs=costs), torch.from_numpy(y)


@pytest.mark.parametrize("members", [13, 14])
def test_the_search_among_many_finds_the_best_of_all_subsets_where_two_bad_members_cancel(members):
    outputs, y = hidden_pair(members)
    bench = Bench.of(outputs, y)
    everything = all_subsets(members)
    best = everything[np.argmin(bench.objectives(everything)[:, 0])]
    assert np.flatnonzero(best).tolist() == [members - 2, members - 1]
    assert chosen(prune(outputs, y)) == [members - 2, members - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_looks_at_members_alone_in_pairs_and_all_together_and_comes_close_to_the_best(kind):
    outputs, y = said(kind, 2, members=13)
    bench = Bench.of(outputs, y)
    masks, objectives = searched(bench, Ceilings())
    seen = {tuple(mask) for mask in masks.tolist()}
    assert len(seen) == len(masks)
    everything = all_subsets(13)
    assert {
        tuple(mask) for mask in everything[np.isin(everything.sum(1), [1, 2, 12, 13])].tolist()
    } <= seen  # 12: where elimination starts
    everything = bench.objectives(everything)
    assert objectives[:, 0].min() <= everything[:, 0].min() * 1.01
    assert np.array_equal(objectives, bench.objectives(masks))


@pytest.mark.parametrize("ceilings", [{"max_latency": 12}, {"max_memory": 7}, {"most": 3}, {"most": 1}], ids=str)
def test_the_search_keeps_ceilings_and_is_close_to_the_best_within_them(ceilings):
    outputs, y = said("classification", 8, members=13)
    combiner = prune(outputs, y, **ceilings)
    assert within(chosen(combiner), objectives_of(chosen(combiner), outputs, y), **ceilings)
    bench, limits = Bench.of(outputs, y), Ceilings(**ceilings)
    everything, (masks, objectives) = all_subsets(13), searched(bench, limits)
    all_of_them = bench.objectives(everything)
    best = all_of_them[limits.hold(everything, all_of_them), 0].min()
    assert objectives[limits.hold(masks, objectives), 0].min() <= best * 1.05


def test_the_search_takes_steps_within_the_ceilings_first():
    """Good members are too dear; without regard to the ceiling every path keeps to them, and no four cheap ones are tried."""
    errors = np.random.default_rng(1).normal(size=(14, 300)) * np.repeat([0.001, 0.01, 0.1], [3, 10, 1])[:, None]
    outputs, y = values_with(errors, [6.0] * 3 + [1.0] * 10 + [999.0])  # next to the last, the others cost nothing
    bench, ceilings, everything = Bench.of(outputs, y), Ceilings(max_latency=4.0), all_subsets(14)

    def lowest(masks, objectives):
        return objectives[ceilings.hold(masks, objectives), 0].min()

    guided, unguided = lowest(*searched(bench, ceilings)), lowest(*searched(bench, Ceilings()))
    assert guided < unguided
    assert guided == pytest.approx(lowest(everything, bench.objectives(everything)), rel=0.02)


def test_a_ceiling_of_exactly_what_a_subset_costs_lets_it_pass():
    outputs, y = values_with(np.array([[1], [-1]]) * np.ones(30), [0.1, 0.2])  # 0.1 + 0.2 > 0.3 in floating point
    assert chosen(prune(outputs, y, max_latency=0.3, max_memory=0.3)) == [0, 1]


def test_ceilings_under_every_member_are_an_error_that_says_what_the_cheapest_costs():
    outputs, y = said("classification", 0, members=2)
    outputs = outputs._replace(costs=torch.tensor([[12.5, 3e6], [80.0, 9e6]]).double())
    with pytest.raises(
        RecipeError, match=r"within max_latency 10, max_memory 4: .* 12\.5 microseconds per row and 3 megabytes;.*\.$"
    ):
        prune(outputs, y, max_latency=10.0, max_memory=4.0)


def test_the_front_shows_what_lies_beyond_the_ceilings():
    outputs, y = hidden_pair(5)
    table = front_table(prune(outputs, y, most=1), list("abcde"))
    assert table[0]["members"] == ["d", "e"]
    assert [len(entry["members"]) for entry in table if entry["chosen"]] == [1]
    assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_a_chosen_member_that_two_cheaper_ones_beat_beyond_the_ceiling_is_shown_too():
    outputs, y = values_with(np.array([[1], [-1], [0.5]]) * np.ones(30), [1, 1, 9])
    table = front_table(prune(outputs, y, most=1), list("abc"))
    assert next(entry["members"] for entry in table if entry["chosen"]) == ["c"]


@pytest.mark.parametrize("settings", [{"most": 0}, {"max_latency": 0}, {"max_memory": -1.0}, {"max_time": 3}], ids=str)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(RecipeError, match=next(iter(settings))):
        complete(Component(name="pruned", settings=settings), {"pruned": pruned}, "fusion.rules.0")


def test_settings_are_none_unless_said():
    found = complete(Component(name="pruned", settings={"most": 3}), {"pruned": pruned}, "fusion.rules.0").settings
    assert found == {"max_latency": None, "max_memory": None, "most": 3}
