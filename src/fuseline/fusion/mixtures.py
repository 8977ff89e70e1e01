"""Fusion rules that weigh members: ``mean``, ``vote``, ``weights`` and ``greedy``.

A rule is a function ``(outputs, target, generator, *, settings) → combiner``; ``target`` holds codes or values (B,), or labels
of 0 and 1 with NaN where one is unknown (B, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fuseline.fusion.combine import Combiner, Mixture, Outputs, Vote
from fuseline.fusion.pinball import simplex_pinball
from fuseline.fusion.scores import likelihoods
from fuseline.fusion.simplex import simplex_log_loss, simplex_squared_error

Floats = NDArray[np.float64]

LEAST = 1e-9
"""A weight below this is rounding, and none: a package drops members without weight."""
MULTIPLIED = 32
"""So many numbers are multiplied before a logarithm is taken: of any from ``TINY`` to the most steps they are within range."""
SUMMED = 1 << 17
"""So many sums are made at a time, so that they stay in the processor's cache."""
Loss = Callable[[Floats, int], Floats]
"""``(sums (M, n), k) → losses (M,)`` of the sums as means of k."""


def mean(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The members' arithmetic mean (Lakshminarayanan et al. 2017), for every kind; of quantiles, level by level (Lichtendahl et
    al. 2013), which keeps them in order."""
    members = len(outputs.values)
    return Mixture({"weights": torch.full((members,), 1 / members, dtype=torch.float64)})


def vote(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The majority of the members' most probable classes, or for each label of those who are for it; see
    :class:`~fuseline.fusion.combine.Vote`. Not for regression and quantile: numbers have no majority."""
    return Vote({})


def weights(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The weights on the simplex of least log loss, or squared error of values, or pinball loss of quantiles: a convex optimum
    for every kind. Labels are weighed alike, each known one as one observation."""
    if outputs.kind == "regression":
        found = simplex_squared_error(_errors(outputs, target))
    elif outputs.kind == "quantile":
        found = simplex_pinball(_errors(outputs, target), _levels(outputs))
    else:
        found = simplex_log_loss(likelihoods(outputs, target))
    found = np.where(found < LEAST, 0.0, found)
    return Mixture({"weights": torch.from_numpy(found / found.sum())})


def greedy(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    steps: Annotated[int, Field(ge=1, le=1000)] = 25,
    bags: Annotated[int, Field(ge=1, le=1000)] = 1,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5,
) -> Combiner:
    """Ensemble selection with replacement (Caruana et al. 2004): ``steps`` times, add the member that helps the mean most.

    With more than one of ``bags``, each selects from a random ``fraction`` of the members, rounded up, and the weights are
    averaged (section 2.3): that guards against a member that suits these rows by chance. For every kind, by the loss that
    ``weights`` minimises.
    """
    scores, loss = _scored(outputs, target)
    found = np.zeros(len(scores))
    for _ in range(bags):
        part = _part(len(scores), fraction, generator) if bags > 1 else np.arange(len(scores))
        found[part] += greedy_counts(scores[part], loss, steps)
    return Mixture({"weights": torch.from_numpy(found / (steps * bags))})


def greedy_counts(scores: Floats, loss: Loss, steps: int) -> Floats:
    """How often each member is chosen (M,), when at each step the member is added whose sum has the lowest loss.

    Args:
        scores: what is summed (M, n).
        loss: what tells a sum's loss.
    """
    counts = np.zeros(len(scores))
    total = np.zeros(scores.shape[1])
    size = max(1, SUMMED // max(1, len(total)))
    parts = [scores[start : start + size] for start in range(0, len(scores), size)]
    for step in range(1, steps + 1):
        best = int(np.argmin(np.concatenate([loss(total + part, step) for part in parts])))
        counts[best] += 1
        total += scores[best]
    return counts


def log_loss(sums: Floats, count: int) -> Floats:
    """−mean ln(s/k) of each row of sums (M, n), by one logarithm for a product of many: that took 2 ms instead of 37 for a
    million numbers.

    >>> round(float(log_loss(np.array([[1.0, 0.5] * 40]), 2)[0]), 6), round(1.5 * math.log(2), 6)
    (1.039721, 1.039721)
    """
    n = sums.shape[1]
    whole = n - n % MULTIPLIED
    products = np.multiply.reduce(sums[:, :whole].reshape(len(sums), MULTIPLIED, -1), 1)
    return np.asarray(math.log(count) - (np.log(products).sum(1) + np.log(sums[:, whole:]).sum(1)) / n)


def _part(members: int, fraction: float, generator: torch.Generator) -> NDArray[np.int64]:
    return np.asarray(torch.randperm(members, generator=generator)[: math.ceil(fraction * members)].numpy())


def _scored(outputs: Outputs, target: Tensor) -> tuple[Floats, Loss]:
    """What members bring to a sum (M, n), and its loss."""
    if outputs.kind == "regression":
        return _errors(outputs, target), lambda total, n: ((total / n) ** 2).mean(-1)
    if outputs.kind == "quantile":
        levels = _levels(outputs)
        return _errors(outputs, target), lambda total, n: np.maximum(-levels * total, (1 - levels) * total).mean(-1) / n
    return likelihoods(outputs, target), log_loss


def _errors(outputs: Outputs, target: Tensor) -> Floats:
    """Each member's prediction − target, of each row and, of quantiles, each level (M, n)."""
    return np.asarray((outputs.values - target[None, :, None]).flatten(1).numpy())


def _levels(outputs: Outputs) -> Floats:
    """The level of each of these errors (n,)."""
    assert outputs.task is not None
    return np.tile(np.asarray(outputs.task.levels, np.float64), outputs.values.shape[1])
