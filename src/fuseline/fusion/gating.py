"""``gate``: a mixture of experts, whose weights for each row come from a small network.

Shapes: M members, N rows fitted on, C classes or outputs, P numbers that a row is seen by, H hidden units.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import AdamW

from fuseline.fusion.combine import TINY, Combiner, Outputs
from fuseline.fusion.experts import Gate, gated
from fuseline.fusion.locality import SPACES, Sees, blend, standards, view
from fuseline.fusion.scores import row_losses


def gate(
    outputs: Outputs,
    target: Tensor,
    generator: torch.Generator,
    *,
    sees: Sees = "features",
    hidden: Annotated[int, Field(ge=0, le=4096)] = 16,
    evenness: Annotated[float, Field(ge=0, le=1e6)] = 3.0,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3,
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1,
    lr: Annotated[float, Field(gt=0, le=1)] = 0.01,
    steps: Annotated[int, Field(ge=1, le=100_000)] = 150,
) -> Combiner:
    """The members mixed with weights w(x) = softmax(V tanh(W x + b) + c) (Jacobs et al. 1991; Jordan and Jacobs 1994).

    The gate alone is trained, on whole batches by AdamW with dropout on its inputs; ``hidden: 0`` makes it linear. It minimises
    the mixture's own loss: the log loss, which is the mixture's likelihood; of values the squared error of Σ w μ, the loss that
    rules are compared by, rather than the Gaussian mixture's likelihood, which a member with too small a variance would rule.

    It starts at even weights exactly (V = 0, c = 0) and is held to them by ``evenness`` / √N times the mean KL(w ‖ even): what
    N rows say of a mean loss is uncertain by a part in √N, so few rows move the gate little.
    """
    seen = view(outputs, sees)
    mean, scale = standards(seen)
    x = (seen - mean) / scale
    tensors = _initial(len(outputs.values), x.shape[1], hidden, generator)
    unit, pull = _unit(outputs, target), evenness / math.sqrt(len(x))
    optimizer = AdamW(tensors.values(), lr, weight_decay=weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        keep = torch.rand(x.shape, generator=generator) >= dropout
        weights = gated(tensors, x * keep / (1 - dropout))
        losses = row_losses(blend(outputs, weights.T[:, :, None]), target)
        optimizer.zero_grad()
        (losses.mean() / unit + pull * from_even(weights)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fitted = {name: tensor.detach() for name, tensor in tensors.items()}
    return Gate({"sees": torch.tensor(SPACES.index(sees)), "mean": mean, "scale": scale, **fitted})


def from_even(weights: Tensor) -> Tensor:
    """The mean over rows (B, M) of KL(w ‖ even) = ln M − entropy.

    >>> round(float(from_even(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))), 4), round(math.log(2) / 2, 4)
    (0.3466, 0.3466)
    """
    return (weights * (weights.clamp(min=TINY) * weights.shape[1]).log()).sum(1).mean()


def _initial(members: int, width: int, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Zeros behind a hidden layer that is uniform within ±1/√P, as torch initialises a linear layer."""
    tensors = {"v": torch.zeros((members, hidden or width)), "c": torch.zeros(members)}
    if hidden:
        tensors["w"] = (torch.rand((hidden, width), generator=generator) * 2 - 1) / math.sqrt(width)
        tensors["b"] = torch.zeros(hidden)
    return {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}


def _unit(outputs: Outputs, target: Tensor) -> float:
    """What makes a loss free of the target's unit, like a log loss: 1, or the even mixture's mean loss, twice it if squared.

    Half a squared error in units of its mean is a Gaussian's log loss.
    """
    if outputs.exclusive or outputs.kind == "multilabel":
        return 1.0
    even = torch.full((len(outputs.values), 1, 1), 1 / len(outputs.values), dtype=torch.float64)
    loss = float(row_losses(blend(outputs, even), target).mean()) or 1.0
    return 2 * loss if outputs.kind == "regression" else loss
