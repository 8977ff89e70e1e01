"""Losses: functions ``(said, target, task, *, settings) → losses (B,)``, one per row, which training weighs and averages.

``said`` is what :meth:`fuseline.models.heads.Head.link` makes of a head's raw output: log probabilities (B, C) of a target
with exclusive classes, logits (B, C) of several labels, mean and log variance (B, 2) of a standardised value, ascending
quantiles (B, Q) of one. Targets are codes (B,), labels (B, C) of 0 and 1 with NaN for an unknown one, or standardised values
(B,). A row without a target gets some finite loss, which training weighs by 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, FiniteFloat
from torch import Tensor
from torch.nn import functional as F

from fuseline.data.schema import TargetSchema
from fuseline.terms import Kind

Share = Annotated[float, Field(ge=0, lt=1)]
Gamma = Annotated[float, Field(ge=0, le=10)]


def cross_entropy(said: Tensor, target: Tensor, task: TargetSchema, *, smoothing: Share = 0.0) -> Tensor:
    """−ln p of the true class, with label smoothing (Szegedy et al. 2016, section 7): (1 − ε)(−ln p_y) − ε mean_c ln p_c."""
    each = F.nll_loss(said, target, ignore_index=-1, reduction="none")
    return (1 - smoothing) * each - smoothing * said.mean(1) if smoothing else each


def focal(said: Tensor, target: Tensor, task: TargetSchema, *, gamma: Gamma = 2.0) -> Tensor:
    """−(1 − p_y)^γ ln p_y (Lin et al. 2017, equation 4): rows that are said rightly count less.

    >>> row = torch.tensor([[0.9, 0.1]]).log()
    >>> task = TargetSchema(kind="classification", classes=["a", "b"])
    >>> round(float(focal(row, torch.tensor([0]), task)), 6)
    0.001054
    """
    true = _true(said, target)
    return -((1 - true.exp()).clamp(min=1e-7) ** gamma) * true


def ranked_probability(said: Tensor, target: Tensor, task: TargetSchema) -> Tensor:
    """Σ_k (P(y ≤ k) − 1[y ≤ k])² / (C − 1): a class far from the true one costs more (Epstein 1969)."""
    reached = said.exp().cumsum(1)[:, :-1]
    ranks = torch.arange(said.shape[1] - 1, device=said.device)
    return ((reached - (target[:, None] <= ranks).to(reached)) ** 2).mean(1)


def binary_cross_entropy(said: Tensor, target: Tensor, task: TargetSchema, *, smoothing: Share = 0.0) -> Tensor:
    """The mean over a row's known labels of −ln p of what each is; smoothing moves targets by ε towards ½."""
    labels = target.nan_to_num() * (1 - smoothing) + smoothing / 2
    return _over_known(F.binary_cross_entropy_with_logits(said, labels.to(said), reduction="none"), target)


def focal_labels(said: Tensor, target: Tensor, task: TargetSchema, *, gamma: Gamma = 2.0) -> Tensor:
    """The focal loss of each known label, averaged over the row (Lin et al. 2017)."""
    nll = F.binary_cross_entropy_with_logits(said, target.nan_to_num().to(said), reduction="none")
    return _over_known((1 - torch.exp(-nll)).clamp(min=1e-7) ** gamma * nll, target)


def squared_error(said: Tensor, target: Tensor, task: TargetSchema) -> Tensor:
    """(y − m)²; the variance is not learnt."""
    return (said[:, 0] - target.nan_to_num()) ** 2


def huber(said: Tensor, target: Tensor, task: TargetSchema, *, delta: Annotated[float, Field(gt=0, le=100)] = 1.0) -> Tensor:
    """½(y − m)² up to a distance of δ standard deviations, δ(|y − m| − ½δ) beyond (Huber 1964); the variance is not learnt."""
    return F.huber_loss(said[:, 0], target.nan_to_num(), reduction="none", delta=delta)


def gaussian_nll(said: Tensor, target: Tensor, task: TargetSchema) -> Tensor:
    """Gaussian negative log-likelihood of mean and log variance: ½(s + (y − m)² e⁻ˢ) (Nix and Weigend 1994)."""
    s = said[:, 1].clamp(-10, 10)
    return 0.5 * (s + (target.nan_to_num() - said[:, 0]) ** 2 * torch.exp(-s))


def quantile(said: Tensor, target: Tensor, task: TargetSchema) -> Tensor:
    """The pinball loss, averaged over the levels τ: max(τ(y − q), (τ − 1)(y − q)) (Koenker and Bassett 1978)."""
    levels = said.new_tensor(task.levels)
    gap = target.nan_to_num()[:, None] - said
    return torch.maximum(levels * gap, (levels - 1) * gap).mean(1)


LOSSES: dict[Kind, dict[str, Callable[..., Tensor]]] = {
    "classification": {"cross_entropy": cross_entropy, "focal": focal},
    "ordinal": {"cross_entropy": cross_entropy, "focal": focal, "ranked_probability": ranked_probability},
    "multilabel": {"binary_cross_entropy": binary_cross_entropy, "focal": focal_labels},
    "regression": {"squared_error": squared_error, "huber": huber, "gaussian_nll": gaussian_nll},
    "quantile": {"quantile": quantile},
}
"""The losses that fit each kind of target; the first is the default."""

LEARNS_VARIANCE = {"gaussian_nll"}
"""Losses of values that teach the head a variance; for the others it comes from held-out residuals."""

Beta = Annotated[float, Field(ge=0, lt=1)]


def balanced(counts: Tensor, classes: list[str | int | bool]) -> Tensor:
    """The same total weight for every class: 1 / n_c."""
    return 1 / counts


def effective_number(counts: Tensor, classes: list[str | int | bool], *, beta: Beta = 0.999) -> Tensor:
    """The class-balanced weights (1 − β) / (1 − β^n_c) (Cui et al. 2019, equation 2): 1 / n_c as β → 1, even at β = 0."""
    return (1 - beta) / (1 - beta**counts)


def _by_word(value: Any) -> Any:
    return {str(label): weight for label, weight in value.items()} if isinstance(value, Mapping) else value


Weights = Annotated[Mapping[str, Annotated[FiniteFloat, Field(gt=0)]], BeforeValidator(_by_word)]


def given(counts: Tensor, classes: list[str | int | bool], *, weights: Weights) -> Tensor:
    """A weight for each class by its name; 1 for one that is not named."""
    return torch.tensor([float(weights.get(str(label), 1.0)) for label in classes], dtype=torch.float64)


CLASS_WEIGHTS: dict[str, Callable[..., Tensor]] = {"balanced": balanced, "effective_number": effective_number, "given": given}
"""Functions ``(counts (C,), classes, *, settings) → weights (C,)`` of the training rows' classes."""


def class_weights(codes: Tensor, task: TargetSchema, rule: str, settings: dict[str, object]) -> Tensor:
    """The weight of each class (C,), such that known rows weigh 1 on the average; a class without rows counts as one of one row.

    Args:
        codes: the training rows' classes (n,), −1 for unknown ones.
    """
    counts = torch.bincount(codes[codes >= 0], minlength=task.width).double()
    weights = CLASS_WEIGHTS[rule](counts.clamp(min=1), task.classes, **settings)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def _true(log_probabilities: Tensor, target: Tensor) -> Tensor:
    return log_probabilities.gather(1, target.clamp(min=0)[:, None])[:, 0]


def _over_known(losses: Tensor, target: Tensor) -> Tensor:
    known = ~target.isnan()
    return (losses * known).sum(1) / known.sum(1).clamp(min=1)
