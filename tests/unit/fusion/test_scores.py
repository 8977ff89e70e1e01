"""The rows' losses of every kind, against scikit-learn and the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_pinball_loss

from fuseline.fusion.combine import TINY, Fused, calibrate
from fuseline.fusion.scores import likelihoods, pinball, row_losses, row_scores, truth

KINDS = ["classification", "ordinal", "multilabel", "regression", "quantile"]


def first(said_of: Callable[..., Any], kind: str, **changes: Any) -> tuple[Fused, torch.Tensor]:
    outputs, target = said_of(kind, **changes)
    return outputs.fused(outputs.values[0], None if outputs.variances is None else outputs.variances[0]), target


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_classes_have_scikit_learns_log_loss(said_of: Callable[..., Any], kind: str) -> None:
    fused, target = first(said_of, kind)
    labels = range(fused.values.shape[1])
    for row, loss in enumerate(row_scores(fused, target)):
        assert loss == pytest.approx(log_loss(target[row : row + 1], fused.values[row : row + 1], labels=labels))


def test_labels_have_the_mean_log_loss_of_those_known(said_of: Callable[..., Any]) -> None:
    fused, target = first(said_of, "multilabel", unknown=0.3)
    known = ~np.isnan(target.numpy())
    rows = known.any(1)
    assert 0 < known.mean() < rows.mean() < 1
    losses = row_scores(fused, target)
    for row in np.flatnonzero(rows):
        told, labels = fused.values[row].numpy()[known[row]], target[row].numpy()[known[row]]
        each = [log_loss([label], [p], labels=[0, 1]) for label, p in zip(labels, told, strict=True)]
        assert losses[row] == pytest.approx(np.mean(each))


def test_values_have_the_squared_error_whatever_the_variance(said_of: Callable[..., Any]) -> None:
    fused, target = first(said_of, "regression")
    np.testing.assert_allclose(row_scores(fused, target), (fused.values[:, 0].numpy() - target.numpy()) ** 2)
    np.testing.assert_array_equal(row_scores(calibrate(fused, 3.0), target), row_scores(fused, target))


def test_quantiles_have_scikit_learns_pinball_loss_averaged_over_levels(said_of: Callable[..., Any]) -> None:
    fused, target = first(said_of, "quantile")
    assert fused.task is not None
    for row, loss in enumerate(row_scores(fused, target)):
        said = zip(fused.task.levels, fused.values[row].tolist(), strict=True)
        assert loss == pytest.approx(np.mean([mean_pinball_loss([target[row]], [q], alpha=level) for level, q in said]))


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    y = torch.from_numpy(np.random.default_rng(0).exponential(size=999))
    levels, grid = torch.tensor([0.2, 0.7]).double(), torch.linspace(0, 4, 4001).double()
    for level in levels:
        losses = torch.stack([pinball(q.expand(999, 1), y, level[None]).mean() for q in grid])
        assert float(grid[losses.argmin()]) == pytest.approx(float(y.quantile(level)), abs=0.01)


def test_without_a_task_it_is_a_regression_if_there_are_variances() -> None:
    p = torch.tensor([[0.25, 0.75], [1.0, 0.0]]).double()
    assert row_scores(Fused(p), torch.tensor([1, 1])).tolist() == pytest.approx([-np.log(0.75), -np.log(TINY)])
    values = Fused(torch.tensor([[1.0], [5.0]]).double(), torch.ones(2, 1).double())
    assert row_scores(values, torch.tensor([3.0, 4.5]).double()).tolist() == pytest.approx([4, 0.25])


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_differentiable_and_their_slopes_finite(said_of: Callable[..., Any], kind: str) -> None:
    """Numerically and by autograd; an unknown label has no slope and spoils none."""
    fused, target = first(said_of, kind, rows=12)
    if kind == "multilabel":
        target[0, 0] = torch.nan

    def loss(values: torch.Tensor) -> torch.Tensor:
        return row_losses(fused._replace(values=values), target)

    values = fused.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (values,))
    loss(values).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.isfinite().all()
    if kind == "multilabel":
        assert float(values.grad[0, 0]) == 0


@pytest.mark.parametrize("kind", ["classification", "ordinal", "multilabel"])
def test_a_mixtures_loss_follows_from_its_members_likelihoods(said_of: Callable[..., Any], kind: str) -> None:
    outputs, target = said_of(kind)
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    mixed = outputs.fused(torch.einsum("m,mbc->bc", weights, outputs.values))
    found = likelihoods(outputs, target)
    assert found.shape == (3, 60 * (3 if kind == "multilabel" else 1))
    assert -np.log(weights.numpy() @ found).mean() == pytest.approx(row_scores(mixed, target).mean())


def test_only_known_labels_have_a_likelihood(said_of: Callable[..., Any]) -> None:
    outputs, target = said_of("multilabel", unknown=0.3)
    known = ~target.isnan()
    found = likelihoods(outputs, target)
    assert found.shape == (3, int(known.sum()))
    expected = torch.where(target[known] == 1, outputs.values[:, known], 1 - outputs.values[:, known])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


def test_the_truth_is_what_a_label_is() -> None:
    assert truth(torch.tensor([[0.2, 0.2]]), torch.tensor([[1.0, 0.0]])).tolist() == [[pytest.approx(0.2), pytest.approx(0.8)]]
