"""Fusion rules that weigh members: ``mean``, ``vote``, ``weights`` and ``greedy``.

A rule is a function ``(outputs, target, generator, *, settings) → combiner``; ``target`` (B,) holds codes or values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import nnls
from torch import Tensor

from fuseline.fusion.combine import TINY, Combiner, Mixture, Outputs, Vote

Floats = NDArray[np.float64]


def mean(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The members' arithmetic mean (Lakshminarayanan et al. 2017)."""
    members = len(outputs.values)
    return Mixture({"weights": torch.full((members,), 1 / members, dtype=torch.float64)})


def vote(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The majority of the members' most probable classes; see :class:`~fuseline.fusion.combine.Vote`."""
    return Vote({})


def weights(outputs: Outputs, target: Tensor, generator: torch.Generator) -> Combiner:
    """The weights on the simplex that minimise log loss, or squared error for values: a convex optimum, both times."""
    found = (
        simplex_squared_error(_errors(outputs, target)) if _is_regression(outputs) else simplex_log_loss(_true(outputs, target))
    )
    return Mixture({"weights": torch.from_numpy(found)})


def greedy(
    outputs: Outputs, target: Tensor, generator: torch.Generator, *, steps: Annotated[int, Field(ge=1, le=1000)] = 25
) -> Combiner:
    """Ensemble selection with replacement (Caruana et al. 2004): ``steps`` times, add the member that helps the mean most."""
    if _is_regression(outputs):
        found = greedy_counts(_errors(outputs, target), lambda total, n: ((total / n) ** 2).mean(-1), steps)
    else:
        found = greedy_counts(_true(outputs, target), lambda total, n: -np.log(total / n).mean(-1), steps)
    return Mixture({"weights": torch.from_numpy(found / steps)})


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


def greedy_counts(scores: Floats, loss: Callable[[Floats, int], Floats], steps: int) -> Floats:
    """How often each member is chosen (M,), when at each step the member is added whose sum has the lowest loss.

    Args:
        scores: what is summed (M, B).
        loss: ``(sums (M, B), n) → losses (M,)`` of the sums as means of n.
    """
    counts = np.zeros(len(scores))
    total = np.zeros(scores.shape[1])
    for step in range(1, steps + 1):
        best = int(np.argmin(loss(total + scores, step)))
        counts[best] += 1
        total = total + scores[best]
    return counts


def _is_regression(outputs: Outputs) -> bool:
    return outputs.variances is not None


def _true(outputs: Outputs, target: Tensor) -> Floats:
    index = target.long()[None, :, None].expand(len(outputs.values), -1, 1)
    return np.asarray(outputs.values.gather(2, index)[:, :, 0].clamp(min=TINY).numpy())


def _errors(outputs: Outputs, target: Tensor) -> Floats:
    return np.asarray((outputs.values[:, :, 0] - target).numpy())
