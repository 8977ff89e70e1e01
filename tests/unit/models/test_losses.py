"""Losses row by row against torch, torchvision, scipy, scikit-learn and sums written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import huber as scipy_huber
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from fuseline.component import Component, complete
from fuseline.data.schema import TargetSchema
from fuseline.errors import RecipeError
from fuseline.models.heads import Head
from fuseline.models.losses import (
    CLASS_WEIGHTS,
    LEARNS_VARIANCE,
    LOSSES,
    balanced,
    binary_cross_entropy,
    class_weights,
    cross_entropy,
    effective_number,
    focal,
    focal_labels,
    gaussian_nll,
    huber,
    quantile,
    ranked_probability,
    squared_error,
)
from fuseline.models.losses import given as given_weights

TASKS: Mapping[str, TargetSchema] = {
    "classification": TargetSchema(kind="classification", classes=["a", "b", "c", "d"]),
    "ordinal": TargetSchema(kind="ordinal", classes=[1, 2, 3, 4]),
    "multilabel": TargetSchema(kind="multilabel", classes=["p", "q", "r"]),
    "regression": TargetSchema(kind="regression"),
    "quantile": TargetSchema(kind="quantile", levels=[0.1, 0.5, 0.8]),
}
EACH = [(kind, name) for kind, family in LOSSES.items() for name in family]
SEEDS = st.integers(0, 999)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes(seed: int, rows: int, classes: int) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def labels(seed: int, rows: int, count: int, unknown: float = 0.0) -> Tensor:
    """Labels of 0 and 1, some of them unknown."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2, (rows, count), generator=generator).double()
    return torch.where(torch.rand(rows, count, generator=generator) < unknown, torch.nan, drawn)


def goal(kind: str, seed: int, rows: int) -> Tensor:
    """A target of any kind, as a head standardises it."""
    if kind in ("classification", "ordinal"):
        return codes(seed, rows, 4)
    return labels(seed, rows, 3, unknown=0.3).float() if kind == "multilabel" else normal(seed, rows).float()


def link(kind: str, raw: Tensor) -> Tensor:
    return Head(TASKS[kind], nn.Identity()).link(raw)


# ------------------------------------------------------------------------------------------------------ exclusive classes


@given(SEEDS, st.sampled_from([0.0, 0.1, 0.5]))
def test_cross_entropy_is_torchs_with_its_label_smoothing(seed: int, smoothing: float) -> None:
    logits, target = normal(seed, 8, 4), codes(seed, 8, 4)
    losses = cross_entropy(logits.log_softmax(1), target, TASKS["classification"], smoothing=smoothing)
    torch.testing.assert_close(losses, F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing))


@given(SEEDS, st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_the_focal_loss_of_two_classes_is_torchvisions_of_one_label(seed: int, gamma: float) -> None:
    logit, target = normal(seed, 20), codes(seed, 20, 2)
    said = torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], 1)
    expected = sigmoid_focal_loss(logit, target.double(), alpha=-1, gamma=gamma)
    torch.testing.assert_close(focal(said, target, TASKS["classification"], gamma=gamma), expected)


@given(SEEDS)
def test_without_gamma_the_focal_losses_are_cross_entropies(seed: int) -> None:
    said, target = normal(seed, 8, 4).log_softmax(1), codes(seed, 8, 4)
    assert focal(said, target, TASKS["classification"], gamma=0).equal(cross_entropy(said, target, TASKS["classification"]))
    logits, marks = normal(seed, 8, 3), labels(seed, 8, 3, unknown=0.3)
    task = TASKS["multilabel"]
    assert focal_labels(logits, marks, task, gamma=0).equal(binary_cross_entropy(logits, marks, task))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_row_that_is_said_for_certain_gives_no_endless_gradient(gamma: float) -> None:
    raw = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    focal(raw.log_softmax(1), torch.tensor([0, 0]), TASKS["classification"], gamma=gamma).sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert raw.grad[0].abs().max() < 1e-6
    assert raw.grad[1].tolist() == pytest.approx([-1, 1])
    one = torch.tensor([[200.0]], requires_grad=True)
    focal_labels(one, torch.ones(1, 1), TASKS["multilabel"], gamma=gamma).sum().backward()
    assert one.grad is not None
    assert one.grad.abs().max() < 1e-6


@given(SEEDS, st.integers(2, 6))
def test_the_ranked_probability_is_the_sum_over_all_thresholds(seed: int, classes: int) -> None:
    said, target = normal(seed, 6, classes).log_softmax(1), codes(seed, 6, classes)
    task = TargetSchema(kind="ordinal", classes=list(range(classes)))
    p = said.exp().numpy()
    expected = [
        sum((p[i, : k + 1].sum() - float(y <= k)) ** 2 for k in range(classes - 1)) / (classes - 1)
        for i, y in enumerate(target.tolist())
    ]
    losses = ranked_probability(said, target, task)
    assert losses.tolist() == pytest.approx(expected)
    assert ((losses >= 0) & (losses <= 1)).all()


def test_the_ranked_probability_grows_with_the_distance() -> None:
    said = torch.tensor([0.999997, 1e-6, 1e-6, 1e-6]).log().expand(4, 4)
    losses = ranked_probability(said, torch.arange(4), TASKS["ordinal"])
    assert losses.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------- labels


@given(SEEDS, st.sampled_from([0.0, 0.1, 0.6]))
def test_binary_cross_entropy_is_torchs_of_targets_moved_towards_a_half(seed: int, smoothing: float) -> None:
    logits, target = normal(seed, 8, 3), labels(seed, 8, 3)
    moved = (1 - smoothing) * target + smoothing * 0.5
    expected = F.binary_cross_entropy(logits.sigmoid(), moved, reduction="none").mean(1)
    torch.testing.assert_close(binary_cross_entropy(logits, target, TASKS["multilabel"], smoothing=smoothing), expected)


@given(SEEDS, st.sampled_from([0.5, 2.0]))
def test_the_focal_loss_of_labels_is_torchvisions(seed: int, gamma: float) -> None:
    logits, target = normal(seed, 8, 3), labels(seed, 8, 3)
    expected = sigmoid_focal_loss(logits, target, alpha=-1, gamma=gamma).mean(1)
    torch.testing.assert_close(focal_labels(logits, target, TASKS["multilabel"], gamma=gamma), expected)


@pytest.mark.parametrize("loss", [binary_cross_entropy, focal_labels])
@given(seed=SEEDS)
def test_unknown_labels_count_for_nothing(loss: Callable[..., Tensor], seed: int) -> None:
    logits, target, task = normal(seed, 8, 3).requires_grad_(), labels(seed, 8, 3, unknown=0.5), TASKS["multilabel"]
    losses = loss(logits, target, task)
    for i, known in enumerate(~target.isnan()):
        alone = loss(logits[i : i + 1, known], target[i : i + 1, known], task) if known.any() else torch.zeros(1)
        assert losses[i].item() == pytest.approx(alone.item())
    losses.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[target.isnan()] == 0).all()
    assert (logits.grad[~target.isnan()] != 0).all()


# ----------------------------------------------------------------------------------------------------------------- values


@given(SEEDS, st.floats(0.1, 3))
def test_squared_error_and_huber_look_at_the_mean_only(seed: int, delta: float) -> None:
    said, target, task = normal(seed, 20, 2) * 2, normal(seed + 1, 20), TASKS["regression"]
    gap = (said[:, 0] - target).numpy()
    assert squared_error(said, target, task).numpy() == pytest.approx(gap**2)
    assert huber(said, target, task, delta=delta).numpy() == pytest.approx(scipy_huber(delta, gap))
    other = said * torch.tensor([1.0, 9.0])
    assert squared_error(other, target, task).equal(squared_error(said, target, task))
    assert huber(other, target, task).equal(huber(said, target, task))


@given(SEEDS)
def test_gaussian_nll_is_the_negative_log_density_up_to_its_constant(seed: int) -> None:
    said, target = normal(seed, 8, 2), normal(seed + 1, 8)
    losses = gaussian_nll(said, target, TASKS["regression"])
    torch.testing.assert_close(losses, F.gaussian_nll_loss(said[:, 0], target, said[:, 1].exp(), reduction="none"))
    density = norm.logpdf(target.numpy(), said[:, 0].numpy(), np.exp(said[:, 1].numpy() / 2))
    assert losses.numpy() == pytest.approx(-density - 0.5 * np.log(2 * np.pi))


@pytest.mark.parametrize("log_variance", [-1e4, 1e4])
def test_gaussian_nll_stays_finite_far_out(log_variance: float) -> None:
    said = torch.tensor([[1.0, log_variance]], requires_grad=True)
    loss = gaussian_nll(said, torch.tensor([3.0]), TASKS["regression"])
    loss.sum().backward()
    assert said.grad is not None
    assert loss.isfinite().all()
    assert said.grad.isfinite().all()


@given(SEEDS)
def test_the_quantile_loss_is_the_mean_pinball_loss_of_all_levels(seed: int) -> None:
    task = TASKS["quantile"]
    said, target = link("quantile", normal(seed, 6, 3)), normal(seed + 1, 6)
    expected = [
        np.mean([mean_pinball_loss([float(target[i])], [float(said[i, k])], alpha=tau) for k, tau in enumerate(task.levels)])
        for i in range(6)
    ]
    assert quantile(said, target, task).tolist() == pytest.approx(expected)


def test_the_quantile_loss_is_least_at_the_quantiles() -> None:
    """Of the values 0 … 99 the best constant for level τ lies between the ⌈100τ⌉-th value and the next."""
    target, task = torch.arange(100, dtype=torch.float64), TASKS["quantile"]
    best = quantile(torch.tensor([[9.5, 49.5, 79.5]], dtype=torch.float64).expand(100, 3), target, task).mean()
    for k in range(3):
        for step in (-2.0, 2.0):
            moved = torch.tensor([[9.5, 49.5, 79.5]], dtype=torch.float64)
            moved[0, k] += step
            assert quantile(moved.expand(100, 3), target, task).mean() > best


# -------------------------------------------------------------------------------------------------------- all of them


def test_every_kind_has_a_default() -> None:
    firsts = {kind: next(iter(family)) for kind, family in LOSSES.items()}
    assert firsts == {
        "classification": "cross_entropy",
        "ordinal": "cross_entropy",
        "multilabel": "binary_cross_entropy",
        "regression": "squared_error",
        "quantile": "quantile",
    }
    assert set(LOSSES["regression"]) > LEARNS_VARIANCE


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_a_row_without_a_target_gets_a_finite_loss_and_gradient(kind: str, name: str) -> None:
    raw = normal(0, 4, Head.outputs(TASKS[kind])).float().requires_grad_()
    target = torch.full_like(goal(kind, 0, 4), -1 if kind in ("classification", "ordinal") else torch.nan)
    losses = LOSSES[kind][name](link(kind, raw), target, TASKS[kind])
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    (losses * torch.zeros(4)).sum().backward()
    assert raw.grad is not None
    assert (raw.grad == 0).all()


@pytest.mark.parametrize(("kind", "name"), EACH)
@given(seed=SEEDS, order=st.permutations(range(6)))
def test_each_row_has_a_loss_of_its_own(kind: str, name: str, seed: int, order: list[int]) -> None:
    loss, task = LOSSES[kind][name], TASKS[kind]
    said, target = link(kind, normal(seed, 6, Head.outputs(task))), goal(kind, seed, 6)
    losses = loss(said, target, task)
    torch.testing.assert_close(loss(said[order], target[order], task), losses[order])
    torch.testing.assert_close(loss(said[2:3], target[2:3], task), losses[2:3])


@pytest.mark.parametrize(("kind", "name"), EACH)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_losses_and_gradients_stay_finite_far_out(kind: str, name: str, size: float) -> None:
    raw = (normal(1, 12, Head.outputs(TASKS[kind])).sign() * size).float().requires_grad_()
    losses = LOSSES[kind][name](link(kind, raw), goal(kind, 1, 12), TASKS[kind])
    losses.sum().backward()
    assert raw.grad is not None
    assert losses.isfinite().all()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_the_derivative_is_right(kind: str, name: str) -> None:
    raw = normal(3, 4, Head.outputs(TASKS[kind])).requires_grad_()
    target = goal(kind, 4, 4)
    target = target.double() if target.is_floating_point() else target
    assert torch.autograd.gradcheck(lambda r: LOSSES[kind][name](link(kind, r), target, TASKS[kind]), (raw,))


@pytest.mark.parametrize(
    ("kind", "name", "setting"),
    [
        ("classification", "cross_entropy", {"smoothing": 1}),
        ("classification", "cross_entropy", {"smoothing": -0.1}),
        ("classification", "focal", {"gamma": 11}),
        ("multilabel", "focal", {"gamma": -1}),
        ("regression", "huber", {"delta": 0}),
        ("regression", "squared_error", {"delta": 1}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], kind: Any, name: str, setting: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=setting), LOSSES[kind], "targets.y.loss")
    assert sentence.startswith(f"targets.y.loss.{name}.{next(iter(setting))}: ")


# --------------------------------------------------------------------------------------------------------- class weights

RULES: list[tuple[str, dict[str, object]]] = [
    ("balanced", {}),
    ("effective_number", {"beta": 0.99}),
    ("given", {"weights": {"a": 5.0, "c": 0.1}}),
]
COUNTS = st.lists(st.integers(1, 50), min_size=4, max_size=4)


def of_counts(counts: list[int]) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@given(COUNTS)
def test_balanced_weights_are_scikit_learns(counts: list[int]) -> None:
    drawn = of_counts(counts)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=drawn.numpy())
    assert class_weights(drawn, TASKS["classification"], "balanced", {}).numpy() == pytest.approx(expected, rel=1e-6)


@given(COUNTS, st.sampled_from([0.0, 0.9, 0.999, 0.999999]))
def test_effective_numbers_are_the_papers_sum(counts: list[int], beta: float) -> None:
    """(1 − βⁿ) / (1 − β) = 1 + β + … + βⁿ⁻¹."""
    weights = effective_number(torch.tensor(counts).double(), ["a", "b", "c", "d"], beta=beta)
    effective = [sum(beta**i for i in range(n)) for n in counts]
    assert weights.tolist() == pytest.approx([1 / number for number in effective], rel=1e-6)


@given(COUNTS)
def test_effective_numbers_lie_between_even_and_balanced(counts: list[int]) -> None:
    drawn, task = of_counts(counts), TASKS["classification"]
    even = class_weights(drawn, task, "effective_number", {"beta": 0.0})
    near = class_weights(drawn, task, "effective_number", {"beta": 1 - 1e-7})
    assert even.tolist() == pytest.approx([1] * 4)
    torch.testing.assert_close(near, class_weights(drawn, task, "balanced", {}), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("rule", "settings"), RULES)
@given(counts=st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), unknown=st.integers(0, 5))
def test_known_rows_weigh_one_on_the_average(rule: str, settings: dict[str, object], counts: list[int], unknown: int) -> None:
    drawn = torch.cat([of_counts(counts), torch.full((unknown,), -1)])
    weights = class_weights(drawn, TASKS["classification"], rule, settings)
    assert weights.shape == (4,)
    assert weights.dtype == torch.float32
    assert (weights > 0).all()
    assert weights.isfinite().all()
    assert float(weights[drawn[drawn >= 0]].mean()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("rule", "settings"), RULES[:2])
def test_a_class_without_rows_weighs_as_one_of_one_row(rule: str, settings: dict[str, object]) -> None:
    weights = class_weights(of_counts([7, 1, 0, 3]), TASKS["classification"], rule, settings)
    assert float(weights[2]) == float(weights[1]) > float(weights[3]) > float(weights[0])


def test_given_weights_go_by_the_classes_names() -> None:
    task = TargetSchema(kind="classification", classes=[10, 20, True])
    weights = class_weights(torch.tensor([0, 1, 2]), task, "given", {"weights": {"20": 4.0, "True": 1.0}})
    assert weights.tolist() == pytest.approx([0.5, 2.0, 0.5])


@pytest.mark.parametrize(
    ("classes", "weights", "expected"),
    [([1, 2, 3], {1: 4, 3: 0.5}, [4, 1, 0.5]), ([False, True], {True: 2.5}, [1, 2.5]), (["1", "no"], {1: 3, "no": 2}, [3, 2])],
    ids=["numbers", "truths", "words"],
)
def test_given_weights_may_be_written_by_numbers_and_truths(
    classes: list[Any], weights: dict[Any, float], expected: list[float]
) -> None:
    settings = complete(Component(name="given", settings={"weights": weights}), CLASS_WEIGHTS, "f").settings
    assert settings == {"weights": {str(label): weight for label, weight in weights.items()}}
    made = given_weights(torch.ones(len(classes)), classes, **settings)
    assert made.dtype == torch.float64
    assert made.tolist() == expected


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        ("balanced", {"beta": 0.5}),
        ("effective_number", {"beta": 1}),
        ("effective_number", {"beta": -0.1}),
        ("given", {}),
        ("given", {"weights": {"a": 0}}),
        ("given", {"weights": {"a": float("nan")}}),
        ("given", {"weights": {"a": float("inf")}}),
        ("given", {"weights": {1: -2}}),
        ("given", {"weights": {"a": None}}),
        ("given", {"weights": [1, 2]}),
    ],
)
def test_class_weights_have_bounds(refusal: Callable[..., str], rule: str, setting: dict[str, Any]) -> None:
    component = Component(name=rule, settings=setting)
    assert f"f.{rule}." in refusal(RecipeError, complete, component, CLASS_WEIGHTS, "f")


def test_weights_do_not_depend_on_the_classes_names() -> None:
    counts = torch.tensor([3.0, 1.0])
    assert balanced(counts, ["x", "y"]).equal(balanced(counts, [True, False]))
