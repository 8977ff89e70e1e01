"""``dynamic``: the members selected or weighed for each row by how well they do on the rows nearest to it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fuseline.errors import RecipeError
from fuseline.fusion.combine import Combiner, Outputs
from fuseline.fusion.locality import SPACES, Sees, standards, view
from fuseline.fusion.neighbours import METHODS, Neighbours, decided
from fuseline.fusion.scores import row_losses

Method = Literal["knora_e", "knora_u", "ola"]
BY_RIGHT = {"knora_e": "right_throughout", "knora_u": "times_right", "ola": "most_right"}
BY_ERROR = {"knora_u": "inverse_error", "ola": "least_error"}


def dynamic(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    sees: Sees = "features",
    method: Method = "knora_u",
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 7,
) -> Combiner:
    """Mean probabilities of the members that are right nearby, weighed by their votes.

    - ``knora_e``: the members right on all neighbours, on fewer if there is none (Ko, Sabourin and Britto 2008).
    - ``knora_u``: as many votes as neighbours a member is right on (the same). Of values and quantiles: weights inverse to the
      mean error on the neighbours, dynamic weighting (Rooney et al. 2004).
    - ``ola``: the members right on the most neighbours (Woods, Kegelmeyer and Bowyer 1997), all that tie, so that the
      members' order decides nothing. Of values and quantiles: the one of the lowest mean error, dynamic selection (Rooney et
      al. 2004).

    A member is right if its most probable class is the true one. Of several labels each is weighed by itself; neighbours
    whose label is unknown say nothing about it. An error is the squared error or the mean pinball loss.

    No share of the overall mean is mixed in: the selected members' mean is no more extreme than a member alone can be, and
    calibration and losses clip probabilities before a logarithm.

    Raises:
        RecipeError: ``knora_e`` for values or quantiles, where nobody is right.
    """
    seen = view(outputs, sees)
    mean, scale = standards(seen)
    name, record = _record(outputs, target, method)
    return Neighbours(
        {
            "sees": torch.tensor(SPACES.index(sees)),
            "mean": mean,
            "scale": scale,
            "method": torch.tensor(list(METHODS).index(name)),
            "count": torch.tensor(min(neighbours, len(seen))),
            "rows": (seen - mean) / scale,
            "record": record,
        }
    )


def _record(outputs: Outputs, target: Tensor, method: Method) -> tuple[str, Tensor]:
    """The name in ``METHODS`` and how each member did on each row (N, M, L)."""
    decisions = decided(outputs)
    if decisions is not None:
        return BY_RIGHT[method], _right(decisions, target, method)
    if method not in BY_ERROR:
        raise RecipeError(
            f"fusion: the rule 'dynamic' with the method {method!r} asks who is right, and nobody is right on a {outputs.kind}; "
            "choose the method 'knora_u' or 'ola'."
        )
    return BY_ERROR[method], _errors(outputs, target)


def _right(decisions: Tensor, target: Tensor, method: Method) -> Tensor:
    """Who is right (N, M, L), as 0 and 1. An unknown label ends no run of right answers and earns no vote."""
    truth = target if target.ndim == 2 else target[:, None]
    right = torch.where(truth.isnan(), method == "knora_e", decisions == truth)
    return right.transpose(0, 1).to(torch.uint8)


def _errors(outputs: Outputs, target: Tensor) -> Tensor:
    """Each member's losses (N, M, 1), with a millionth of their mean so that no weight is infinite."""
    variances = outputs.variances if outputs.variances is not None else [None] * len(outputs.values)
    said = [outputs.fused(values, variance) for values, variance in zip(outputs.values, variances, strict=True)]
    losses = torch.stack([row_losses(fused, target) for fused in said], 1)[:, :, None]
    return losses + (1e-6 * losses.mean() or 1.0)
