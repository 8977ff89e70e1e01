"""The fused ensemble as one module: members, one combiner per target, and the numbers that calibrate.

Shapes: B rows, C classes or 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fuseline.data.schema import Schema
from fuseline.evaluation.uncertainty import decompose, entropy
from fuseline.fusion.combine import Combiner, Fused, Outputs, calibrate
from fuseline.models.network import Replicated, Said
from fuseline.models.preprocessing import Batch


class Answer(NamedTuple):
    """What the ensemble says of one target: probabilities or values (B, C), and per row (B,) the total and the epistemic
    uncertainty: entropies in nats, or variances in squared units."""

    values: Tensor
    uncertainty: Tensor
    epistemic: Tensor


class Ensemble(nn.Module):
    """Raw batch → per target an :class:`Answer`, in float64."""

    def __init__(self, schema: Schema, members: list[Replicated], combiners: dict[str, Combiner], numbers: dict[str, float]):
        super().__init__()
        self.schema = schema
        self.members = nn.ModuleList(members)
        self.targets = list(combiners)
        self.combiners = nn.ModuleList(combiners.values())
        self.numbers = numbers

    def forward(self, batch: Batch) -> dict[str, Answer]:
        said: list[Said] = [member(batch) for member in self.members]
        features = torch.cat([s.features for s in said], 1).double()
        answers = {}
        for target, combiner in zip(self.targets, self.combiners, strict=True):
            values = torch.stack([s.values[target] for s in said]).double()
            variances = torch.stack([s.variances[target] for s in said]).double() if target in said[0].variances else None
            outputs = Outputs(values, variances, features)
            number = self.numbers[target]
            answers[target] = _answer(calibrate(combiner(outputs), number), outputs, combiner, number)  # type: ignore[arg-type]
        return answers


def _answer(fused: Fused, outputs: Outputs, combiner: Combiner, number: float) -> Answer:
    """The epistemic part is that of the mixture which the rule stands for, in the units of the calibrated total."""
    epistemic = decompose(outputs, combiner.mixing()).epistemic
    if fused.variances is not None:
        return Answer(fused.values, fused.variances[:, 0], epistemic * number)
    total = entropy(fused.values)
    return Answer(fused.values, total, torch.minimum(epistemic, total))
