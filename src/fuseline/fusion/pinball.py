"""Linear programmes that minimise the pinball loss max(τ(y − q), (τ − 1)(y − q)) exactly (Koenker and Bassett 1978).

Both are solved as their duals, by HiGHS. A primal has one constraint per residual; a dual has one per coefficient and a box on
each residual's multiplier, since ρ_τ(r) is the maximum of a·r over a ∈ [τ − 1, τ]. On 45 000 residuals and 8 members this took
1.6 s instead of 49 s (one thread).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Floats = NDArray[np.float64]


def simplex_pinball(errors: Floats, levels: Floats) -> Floats:
    """The weights (M,) on the simplex that minimise the mean pinball loss of w·e.

    The dual: max λ over multipliers a ∈ [−τ, 1 − τ] with λ ≤ Σ a·e_m for each member m; the multiplier of a member's
    constraint is its weight.

    Args:
        errors: each member's error, quantile − target, of each row and level (M, n).
        levels: the level τ of each error (n,).

    >>> simplex_pinball(np.array([[1.0, 1.0], [-3.0, -3.0]]), np.array([0.5, 0.5])).round(9).tolist()
    [0.75, 0.25]
    """
    members, n = errors.shape
    sizes = np.abs(errors).mean(1)
    if sizes.min() == 0:
        return np.asarray((sizes == 0) / (sizes == 0).sum(), np.float64)
    shrink = (sizes.min() / sizes)[:, None]  # solved for w / shrink, so that a member that diverged brings no large numbers
    found = _solve(
        np.append(np.zeros(n), -1.0),
        A_ub=np.hstack([-errors / sizes[:, None], shrink]),
        b_ub=np.zeros(members),
        bounds=np.vstack([np.column_stack([-levels, 1 - levels]), [[-np.inf, np.inf]]]),
    )
    w = np.clip(-found.ineqlin.marginals, 0, None) * shrink[:, 0]
    return np.asarray(w / w.sum(), np.float64)


def quantile_regression(x: Floats, y: Floats, level: float, l1: float) -> tuple[Floats, float]:
    """The coefficients b (P,) and the intercept c that minimise Σ ρ_τ(y − xb − c) + ``l1`` Σ|b|.

    The dual: max Σ a·y over multipliers a with Σ a = 0 and |xᵀa| ≤ ``l1``.

    Args:
        x: the columns (n, P).
        y: the target (n,).
        level: the level τ.
        l1: the penalty on the sizes of the coefficients.
    """
    n, p = x.shape
    sizes = np.abs(x).mean(0)
    sizes = np.where(sizes > 0, sizes, 1.0)[:, None]  # solved for b · sizes, as above
    found = _solve(
        -y,
        A_ub=np.vstack([x.T / sizes, -x.T / sizes]),
        b_ub=np.tile(l1 / sizes[:, 0], 2),
        A_eq=np.ones((1, n)),
        b_eq=np.zeros(1),
        bounds=np.repeat([[level - 1, level]], n, axis=0),
    )
    up, down = -found.ineqlin.marginals[:p], -found.ineqlin.marginals[p:]
    return np.asarray((up - down) / sizes[:, 0], np.float64), -float(found.eqlin.marginals[0])


def _solve(cost: Floats, **programme: Any) -> Any:
    """The point of least ``cost``. There always is one: zero is feasible, and the boxes bound the cost."""
    found = linprog(cost, method="highs", **programme)
    if not found.success:
        raise ArithmeticError(f"HiGHS did not solve a linear programme: {found.message}")
    return found
