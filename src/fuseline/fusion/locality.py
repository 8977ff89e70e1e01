"""What rules share that weigh the members anew for every row: where a row stands, and the members mixed by such weights.

Shapes: M members, B rows, C classes, labels, quantiles or 1, P numbers that a row is seen by.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fuseline.fusion.combine import Combiner, Fused, Outputs

Sees = Literal["outputs", "features", "inputs"]
SPACES: tuple[Sees, ...] = get_args(Sees)
"""By what a row is seen; a combiner keeps the position here."""


def view(outputs: Outputs, sees: Sees) -> Tensor:
    """The rows (B, P) as the members' values side by side, P = M·C, as the members' features, or as the inputs."""
    if sees == "outputs":
        return outputs.values.transpose(0, 1).flatten(1)
    seen = outputs.features if sees == "features" else outputs.inputs
    assert seen is not None
    return seen


def standards(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (P,) of the columns; 1 for a column that does not vary beyond rounding.

    >>> [t.tolist() for t in standards(torch.tensor([[1.0, 0.5], [3.0, 0.5]]))]
    [[2.0, 0.5], [1.0, 1.0]]
    """
    scale = seen.std(0, correction=0)
    return seen.mean(0), torch.where(scale > 1e-9 * seen.abs().amax(0), scale, 1.0)


class Local(Combiner):
    """A mixture whose weights depend on where a row stands.

    Buffers: ``sees`` () is a position in ``SPACES``; ``mean``, ``scale`` (P,) standardise.
    """

    sees: Tensor
    mean: Tensor
    scale: Tensor

    def place(self, outputs: Outputs) -> Tensor:
        """The rows standardised (B, P)."""
        return (view(outputs, SPACES[int(self.sees)]) - self.mean) / self.scale

    def shares(self, outputs: Outputs) -> Tensor:
        """Each member's weight in each row, summing to 1 over members: (M, B, 1), or (M, B, C) for each label by itself."""
        raise TypeError("a local mixture says itself how it weighs")

    def forward(self, outputs: Outputs) -> Fused:
        return blend(outputs, self.shares(outputs))


def blend(outputs: Outputs, shares: Tensor) -> Fused:
    """Σₘ wₘ(x) pₘ(x); the variance by the law of total variance, Σ w (σ² + (μ − Σ w μ)²).

    Args:
        shares: the weights (M, B, 1) or (M, B, C).

    >>> said = Outputs(torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1, 1))
    >>> [t.tolist() for t in blend(said, torch.tensor([[[0.25]], [[0.75]]]))[:2]]
    [[[1.5]], [[1.75]]]
    """
    mean = (shares * outputs.values).sum(0)
    if outputs.variances is None:
        return outputs.fused(mean)
    return outputs.fused(mean, (shares * (outputs.variances + (outputs.values - mean) ** 2)).sum(0))
