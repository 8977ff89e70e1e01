"""How fitted fusion rules combine what members say: modules of buffers alone, used by the pipeline and by a package alike.

Shapes: M members, B rows, C classes or 1, D features of all members side by side; everything float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.models.network import mixture_variance

TINY = 1e-7
"""Probabilities are clipped to this before a logarithm."""


class Outputs(NamedTuple):
    """What M members say of B rows: ``values`` (M, B, C), ``variances`` (M, B, 1) for a regression, ``features`` (B, D)."""

    values: Tensor
    variances: Tensor | None = None
    features: Tensor | None = None

    def rows(self, index: Tensor) -> Outputs:
        """Some of the rows, by their positions in this object."""
        return Outputs(
            self.values[:, index],
            None if self.variances is None else self.variances[:, index],
            None if self.features is None else self.features[index],
        )


class Fused(NamedTuple):
    """What a fusion says of B rows: probabilities or values (B, C), and variances (B, 1) for a regression."""

    values: Tensor
    variances: Tensor | None = None


class Combiner(nn.Module):
    """A fitted rule, made of the tensors that ``fit`` found."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, outputs: Outputs) -> Fused:
        raise TypeError("a combiner says itself how it combines")

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())

    def mixing(self) -> Tensor | None:
        """The weights (M,) of a rule that is a mixture; none for the others."""
        return None


def spread(outputs: Outputs) -> Tensor | None:
    """The variance of the members' even mixture, for rules that are no mixture themselves; calibration scales it to fit."""
    return None if outputs.variances is None else mixture_variance(outputs.values, outputs.variances)


class Mixture(Combiner):
    """Σₘ wₘ pₘ with ``weights`` (M,) on the simplex; for values with the variance of the mixture."""

    weights: Tensor

    def mixing(self) -> Tensor | None:
        return self.weights

    def forward(self, outputs: Outputs) -> Fused:
        mean = torch.einsum("m,mbc->bc", self.weights, outputs.values)
        if outputs.variances is None:
            return Fused(mean)
        return Fused(mean, mixture_variance(outputs.values, outputs.variances, self.weights))


class Vote(Combiner):
    """Each member's most probable class has one vote, and the members' mean probability one more, shared out among classes.

    That keeps every class possible and breaks ties by the mean: (votes + p̄) / (M + 1).
    """

    def forward(self, outputs: Outputs) -> Fused:
        classes = outputs.values.shape[2]
        votes = F.one_hot(outputs.values.argmax(2), classes).sum(0)
        return Fused((votes + outputs.values.mean(0)) / (len(outputs.values) + 1))


class Logistic(Combiner):
    """Multinomial logistic regression on the members' log probabilities: ``coefficients`` (C, M·C), ``intercept`` (C,)."""

    coefficients: Tensor
    intercept: Tensor

    def forward(self, outputs: Outputs) -> Fused:
        return Fused((log_probabilities(outputs) @ self.coefficients.T + self.intercept).softmax(1))


class Linear(Combiner):
    """A linear regression on the members' values: ``coefficients`` (M,), ``intercept`` ()."""

    coefficients: Tensor
    intercept: Tensor

    def forward(self, outputs: Outputs) -> Fused:
        values = torch.einsum("m,mbc->bc", self.coefficients, outputs.values) + self.intercept
        return Fused(values, spread(outputs))


class FeatureHead(Combiner):
    """The members' features, standardised, through one hidden layer with an activation to the target.

    Buffers: ``mean``, ``scale`` (D,); ``w1`` (H, D), ``b1`` (H,); ``w2`` (C, H), ``b2`` (C,); ``center``, ``unit`` () bring a
    value back to the target's units; ``activation`` () is a position in ``ACTIVATIONS``.
    """

    def forward(self, outputs: Outputs) -> Fused:
        assert outputs.features is not None
        raw = head(self.tensors(), (outputs.features - self.get_buffer("mean")) / self.get_buffer("scale"))
        if outputs.variances is None:
            return Fused(raw.softmax(1))
        return Fused(raw * self.get_buffer("unit") + self.get_buffer("center"), spread(outputs))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "silu": F.silu}


def head(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The feature head's two layers on standardised features."""
    activation = list(ACTIVATIONS.values())[int(tensors["activation"])]
    return activation(x @ tensors["w1"].T + tensors["b1"]) @ tensors["w2"].T + tensors["b2"]


def log_probabilities(outputs: Outputs) -> Tensor:
    """The members' clipped log probabilities side by side (B, M·C)."""
    return outputs.values.clamp(min=TINY).log().transpose(0, 1).flatten(1)


COMBINERS: dict[str, type[Combiner]] = {
    "mixture": Mixture,
    "vote": Vote,
    "logistic": Logistic,
    "linear": Linear,
    "feature_head": FeatureHead,
}


def combiner_name(combiner: Combiner) -> str:
    return next(name for name, kind in COMBINERS.items() if type(combiner) is kind)


def temper(probabilities: Tensor, temperature: float | Tensor) -> Tensor:
    """softmax(log p / T) (Guo et al. 2017); T = 1 changes nothing, and no T changes which class is the most probable.

    >>> temper(torch.tensor([[0.8, 0.2]]).double(), 2.0).round(decimals=4).tolist()
    [[0.6667, 0.3333]]
    """
    return (probabilities.clamp(min=TINY).log() / temperature).softmax(1)


def calibrate(fused: Fused, number: float | Tensor) -> Fused:
    """Apply the number that calibrates: a temperature to probabilities, or a factor to variances."""
    if fused.variances is None:
        return Fused(temper(fused.values, number))
    return Fused(fused.values, fused.variances * number)
