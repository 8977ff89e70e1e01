"""The weights on the simplex of least log loss or least squared error, each a convex optimum.

Shapes: M members, B observations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

AT_ONCE = 1 << 20
"""So many ratios of likelihoods are held at a time."""

HALVINGS = 40
"""A step is halved so often before another takes its place."""


def simplex_log_loss(true: Floats, tolerance: float = 1e-10, most: int = 1000) -> Floats:
    """The mixture weights of maximum likelihood, by sequential quadratic programming (Kim et al. 2020).

    With r = T/(w·T), the loss −mean ln v·T of weights v near w is to second order ½ mean (v·r − 2)² and a constant: a least
    squares problem on the simplex, whose solution is the direction of a step (Newton's, but for the constraints). The step is
    never worse than one of expectation maximisation, ``w ← w · mean(r)``, which alone takes thousands.

    Args:
        true: the probability that each member gives the true class (M, B).
        tolerance: stop once no member's mean ratio exceeds 1 by more: by the optimality conditions the mean log loss is
            then within ``tolerance`` of its minimum.
        most: stop after so many steps in any case; a dozen is usual.

    >>> simplex_log_loss(np.array([[0.9, 0.9, 0.1], [0.1, 0.1, 0.9]])).round(3).tolist()
    [0.708, 0.292]
    """
    w = np.full(len(true), 1 / len(true))
    for _ in range(most):
        gain, factor = _around(w, true)
        if gain.max() <= 1 + tolerance:
            break
        w = _step(w, simplex_squared_error(factor.T), w * gain, true)
    return np.asarray(w / w.sum())


def _around(w: Floats, true: Floats) -> tuple[Floats, Floats]:
    """The mean ratio of each member (M,), and the triangle R (at most M, M) with ‖R v‖² = Σ (v·r − 2)² for v on the simplex."""
    members, count = true.shape
    total, factor = np.zeros(members), np.empty((0, members))
    size = max(members, AT_ONCE // members)
    for start in range(0, count, size):
        ratios = true[:, start : start + size] / (w @ true[:, start : start + size])
        total += ratios.sum(1)
        factor = np.asarray(np.linalg.qr(np.vstack([factor, (ratios - 2).T]), mode="r"), np.float64)
    return total / count, factor


def _step(w: Floats, to: Floats, otherwise: Floats, true: Floats) -> Floats:
    """The first on the way from ``to`` back to ``w``, by halves, that is no worse than ``otherwise``; else that."""

    def loss(v: Floats) -> float:
        return float(-np.log(v @ true).mean())

    limit = loss(otherwise)
    limit += 1e-15 * (1 + abs(limit))  # what rounding makes of equal losses
    for halving in range(HALVINGS):
        tried: Floats = w + (to - w) * 0.5**halving
        if loss(tried) <= limit:
            return tried
    return otherwise


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
