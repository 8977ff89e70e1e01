"""How fitted fusion rules combine what members say: modules of buffers alone, used by the pipeline and by a package alike.

Shapes: M members, B rows, C classes, labels, quantiles or 1, D features of all members side by side; everything float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.data.schema import TargetSchema
from fuseline.models.network import mixture_variance
from fuseline.terms import EXCLUSIVE, Kind

TINY = 1e-7
"""Probabilities are clipped to this before a logarithm."""


class Outputs(NamedTuple):
    """What M members say of B rows.

    Attributes:
        values: probabilities, values or quantiles (M, B, C).
        variances: (M, B, 1), for a regression.
        features: the members' features side by side (B, D), for rules that need them.
        inputs: the rows' own inputs as plain numbers (B, P), for rules that need them.
        task: the target; without it, a regression if there are variances and a classification if there are none.
        widths: how many of the features are each member's (M,), for rules that tell the members' features apart.
        costs: the members' microseconds per row and bytes (M, 2), for rules that weigh them while they are fitted.
    """

    values: Tensor
    variances: Tensor | None = None
    features: Tensor | None = None
    inputs: Tensor | None = None
    task: TargetSchema | None = None
    widths: tuple[int, ...] | None = None
    costs: Tensor | None = None

    @property
    def kind(self) -> Kind:
        return _kind(self.task, self.variances)

    @property
    def exclusive(self) -> bool:
        return self.kind in EXCLUSIVE

    @property
    def width(self) -> int:
        """How many numbers there are of one row."""
        kept = [part for part in (self.features, self.inputs) if part is not None]
        said = [part for part in (self.values, self.variances) if part is not None]
        return sum(part.shape[1] for part in kept) + sum(part.shape[0] * part.shape[2] for part in said)

    def rows(self, index: Tensor) -> Outputs:
        """Some of the rows, by their positions in this object."""

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return self._replace(
            values=self.values[:, index],
            variances=None if self.variances is None else self.variances[:, index],
            features=some(self.features),
            inputs=some(self.inputs),
        )

    def fused(self, values: Tensor, variances: Tensor | None = None) -> Fused:
        """A fusion's word on these rows."""
        return Fused(values, variances, self.task)


class Fused(NamedTuple):
    """What a fusion says of B rows: probabilities, values or quantiles (B, C), and variances (B, 1) for a regression."""

    values: Tensor
    variances: Tensor | None = None
    task: TargetSchema | None = None

    @property
    def kind(self) -> Kind:
        return _kind(self.task, self.variances)

    def rows(self, index: Tensor | slice) -> Fused:
        """Some of the rows, by their positions in this object."""
        return Fused(self.values[index], None if self.variances is None else self.variances[index], self.task)


def _kind(task: TargetSchema | None, variances: Tensor | None) -> Kind:
    if task is not None:
        return task.kind
    return "classification" if variances is None else "regression"


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
            return outputs.fused(mean)
        return outputs.fused(mean, mixture_variance(outputs.values, outputs.variances, self.weights))


class Vote(Combiner):
    """Each member's most probable class has one vote, and the members' mean probability one more, shared out among classes.

    That keeps every class possible and breaks ties by the mean: (votes + p̄) / (M + 1). Of several labels each is voted on by
    itself, and a member is for it if it gives it more than a half.
    """

    def forward(self, outputs: Outputs) -> Fused:
        mean = outputs.values.mean(0)
        if outputs.exclusive:
            chosen = outputs.values.argmax(2).T
            votes = torch.zeros_like(mean).scatter_add_(1, chosen, torch.ones_like(chosen, dtype=mean.dtype))
        else:
            votes = (outputs.values > 0.5).sum(0).to(mean.dtype)
        return outputs.fused((votes + mean) / (len(outputs.values) + 1))


class FeatureHead(Combiner):
    """The members' features, standardised, through one hidden layer with an activation to the target.

    Buffers: ``mean``, ``scale`` (D,); ``w1`` (H, D), ``b1`` (H,); ``w2`` (C, H), ``b2`` (C,); ``center``, ``unit`` () bring a
    value back to the target's units; ``activation`` () is a position in ``ACTIVATIONS``.
    """

    def forward(self, outputs: Outputs) -> Fused:
        assert outputs.features is not None
        raw = head(self.tensors(), (outputs.features - self.get_buffer("mean")) / self.get_buffer("scale"))
        return link(outputs, raw, self.get_buffer("center"), self.get_buffer("unit"))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "silu": F.silu}


def head(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The feature head's two layers on standardised features."""
    activation = list(ACTIVATIONS.values())[int(tensors["activation"])]
    return activation(x @ tensors["w1"].T + tensors["b1"]) @ tensors["w2"].T + tensors["b2"]


def link(outputs: Outputs, raw: Tensor, center: Tensor, unit: Tensor) -> Fused:
    """A head's raw output (B, C) as a prediction: softmax of classes, sigmoid of labels, and ``raw · unit + center`` of values,
    quantiles in ascending order."""
    if outputs.exclusive:
        return outputs.fused(raw.softmax(1))
    if outputs.kind == "multilabel":
        return outputs.fused(raw.sigmoid())
    values = raw * unit + center
    return outputs.fused(values.sort(1).values if outputs.kind == "quantile" else values, spread(outputs))


def temper(probabilities: Tensor, temperature: float | Tensor) -> Tensor:
    """softmax(log p / T) (Guo et al. 2017); T = 1 changes nothing, and no T changes which class is the most probable.

    >>> temper(torch.tensor([[0.8, 0.2]]).double(), 2.0).round(decimals=4).tolist()
    [[0.6667, 0.3333]]
    """
    return (probabilities.clamp(min=TINY).log() / temperature).softmax(1)


def temper_labels(probabilities: Tensor, temperature: float | Tensor) -> Tensor:
    """σ(logit p / T), each label by itself."""
    return (probabilities.clamp(TINY, 1 - TINY).logit() / temperature).sigmoid()


def widen(quantiles: Tensor, middle: int, factor: float | Tensor) -> Tensor:
    """Scale the quantiles' (B, Q) distances to the middle one.

    >>> widen(torch.tensor([[1.0, 2.0, 5.0]]), 1, 2.0).tolist()
    [[0.0, 2.0, 8.0]]
    """
    center = quantiles[:, middle : middle + 1]
    return center + (quantiles - center) * factor


def calibrate(fused: Fused, number: float | Tensor) -> Fused:
    """Apply the number that calibrates: a temperature to probabilities, a factor to variances or to the quantiles' distances."""
    if fused.kind == "regression":
        assert fused.variances is not None
        return fused._replace(variances=fused.variances * number)
    if fused.kind == "quantile":
        assert fused.task is not None
        return fused._replace(values=widen(fused.values, fused.task.middle, number))
    return fused._replace(values=(temper_labels if fused.kind == "multilabel" else temper)(fused.values, number))
