"""The fused ensemble as one module: members, one combiner per target, and the numbers that calibrate.

Shapes: B rows, C classes, labels, quantiles or 1.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fuseline.data.schema import Schema
from fuseline.evaluation.uncertainty import decompose, entropy, label_entropy
from fuseline.fusion.combine import Combiner, Outputs, calibrate
from fuseline.fusion.inputs import plain
from fuseline.models.network import Replicated, Said
from fuseline.models.preprocessing import Batch


class Answer(NamedTuple):
    """What the ensemble says of one target: probabilities, values or quantiles (B, C), and per row (B,) the total and the
    epistemic uncertainty: entropies in nats, variances in squared units, or for quantiles the width between the outer ones and
    the members' disagreement, in the target's units. The epistemic part is never above the total."""

    values: Tensor
    uncertainty: Tensor
    epistemic: Tensor


class Ensemble(nn.Module):
    """Raw batch → per target an :class:`Answer`, in float64."""

    def __init__(
        self,
        schema: Schema,
        members: list[Replicated],
        combiners: dict[str, Combiner],
        numbers: dict[str, float],
        on_inputs: bool = False,
    ) -> None:
        super().__init__()
        self.on_inputs = on_inputs
        self.schema = schema
        self.members = nn.ModuleList(members)
        self.targets = list(combiners)
        self.combiners = nn.ModuleList(combiners.values())
        self.numbers = numbers

    def forward(self, batch: Batch) -> dict[str, Answer]:
        said: list[Said] = [member(batch) for member in self.members]
        features = torch.cat([s.features for s in said], 1).double()
        widths = tuple(s.features.shape[1] for s in said)
        inputs = plain(self.schema, batch) if self.on_inputs else None
        answers = {}
        for target, combiner in zip(self.targets, self.combiners, strict=True):
            values = torch.stack([s.values[target] for s in said]).double()
            variances = torch.stack([s.variances[target] for s in said]).double() if target in said[0].variances else None
            outputs = Outputs(values, variances, features, inputs, self.schema.targets[target], widths)
            answers[target] = _answer(outputs, cast(Combiner, combiner), self.numbers[target])
        return answers


def _answer(outputs: Outputs, combiner: Combiner, number: float) -> Answer:
    """The epistemic part is that of the mixture which the rule stands for, in the units of the calibrated total."""
    fused = calibrate(combiner(outputs), number)
    epistemic = decompose(outputs, combiner.mixing()).epistemic
    if fused.kind == "quantile":
        return Answer(fused.values, fused.values[:, -1] - fused.values[:, 0] + epistemic, epistemic)
    if fused.variances is not None:
        total, epistemic = fused.variances[:, 0], epistemic * number
    else:
        total = entropy(fused.values) if outputs.exclusive else label_entropy(fused.values)
    return Answer(fused.values, total, torch.minimum(epistemic, total))
