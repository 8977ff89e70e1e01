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
from scipy.optimize import nnls
from torch import Tensor

from fuseline.fusion.combine import Combiner, Mixture, Outputs, Vote
from fuseline.fusion.pinball import simplex_pinball
from fuseline.fusion.scores import likelihoods

Floats = NDArray[np.float64]

LEAST = 1e-6
"""A weight below this is none: expectation maximisation never reaches 0, and a package drops members without weight."""
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


def simplex_log_loss(true: Floats, tolerance: float = 1e-10, most: int = 10_000) -> Floats:
    """The mixture weights of maximum likelihood, by expectation maximisation: ``w ← w · mean(T / (w·T))``.

    Args:
        true: the probability that each member gives the true class (M, B).
        tolerance: stop once no member's likelihood ratio exceeds 1 by more: by the optimality conditions the mean log loss is
            then within ``tolerance`` of its minimum.
        most: stop after so many steps in any case.

    >>> simplex_log_loss(np.array([[0.9, 0.9, 0.1], [0.1, 0.1, 0.9]])).round(3).tolist()
    [0.708, 0.292]
    """
    w = np.full(len(true), 1 / len(true))
    for _ in range(most):
        ratio = (true / (w @ true)).mean(1)
        if ratio.max() <= 1 + tolerance:
            break
        w = w * ratio
    return np.asarray(w / w.sum())


def simplex_squared_error(errors: Floats) -> Floats:
    """The weights on the simplex that minimise mean((w·e)²), exactly, as a non-negative least squares problem.

    Minimising ‖Eᵀu‖² + (1ᵀu − 1)² over u ≥ 0 gives u = t·w with w the optimum on the simplex, since for any w the best t
    leaves q/(1 + q), which grows with q = ‖Eᵀw‖².

    Args:
        errors: each member's error, prediction − target (M, B).

    >>> simplex_squared_error(np.array([[1.0, 1.0], [-1.0, -1.0]])).round(9).tolist()
    [0.5, 0.5]
    """
    size = np.sqrt((errors**2).mean())
    if size == 0:
        return np.full(len(errors), 1 / len(errors))
    scaled = errors.T / (size * np.sqrt(errors.shape[1]))
    u, _ = nnls(np.vstack([scaled, np.ones(len(errors))]), np.append(np.zeros(errors.shape[1]), 1.0))
    return np.asarray(u / u.sum(), np.float64)


def greedy_counts(scores: Floats, loss: Loss, steps: int) -> Floats:
    """How often each member is chosen (M,), when at each step the member is added whose sum has the lowest loss.

    Args:
        scores: what is summed (M, n).
        loss: what tells a sum's loss.
    """
    counts = np.zeros(len(scores))
    total = np.zeros(scores.shape[1])
    for step in range(1, steps + 1):
        best = int(np.argmin(loss(total + scores, step)))
        counts[best] += 1
        total = total + scores[best]
    return counts


def _part(members: int, fraction: float, generator: torch.Generator) -> NDArray[np.int64]:
    return np.asarray(torch.randperm(members, generator=generator)[: math.ceil(fraction * members)].numpy())


def _scored(outputs: Outputs, target: Tensor) -> tuple[Floats, Loss]:
    """What members bring to a sum (M, n), and its loss."""
    if outputs.kind == "regression":
        return _errors(outputs, target), lambda total, n: ((total / n) ** 2).mean(-1)
    if outputs.kind == "quantile":
        levels = _levels(outputs)
        return _errors(outputs, target), lambda total, n: np.maximum(-levels * total, (1 - levels) * total).mean(-1) / n
    return likelihoods(outputs, target), lambda total, n: -np.log(total / n).mean(-1)


def _errors(outputs: Outputs, target: Tensor) -> Floats:
    """Each member's prediction − target, of each row and, of quantiles, each level (M, n)."""
    return np.asarray((outputs.values - target[None, :, None]).flatten(1).numpy())


def _levels(outputs: Outputs) -> Floats:
    """The level of each of these errors (n,)."""
    assert outputs.task is not None
    return np.tile(np.asarray(outputs.task.levels, np.float64), outputs.values.shape[1])
