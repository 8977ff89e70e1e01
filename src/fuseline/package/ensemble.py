"""The fused ensemble as one module: members, one combiner per target, and the numbers that calibrate.

Shapes: B rows, C classes, labels, quantiles or 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fuseline.data.schema import Schema
from fuseline.evaluation.uncertainty import decompose, entropy, label_entropy
from fuseline.fusion.combine import Combiner, Outputs, calibrate
from fuseline.fusion.inputs import plain
from fuseline.models.preprocessing import Batch
from fuseline.package.group import Member, Members


class Answer(NamedTuple):
    """What the ensemble says of one target: probabilities, values or quantiles (B, C), and per row (B,) the total and the
    epistemic uncertainty: entropies in nats, variances in squared units, or for quantiles the width between the outer ones and
    the members' disagreement, in the target's units. The epistemic part is never above the total."""

    values: Tensor
    uncertainty: Tensor
    epistemic: Tensor


class Ensemble(nn.Module):
    """Raw batch → per target an :class:`Answer`, in float64.

    Args:
        members: in evaluation mode; those of one specification serve as one.
        looks: what the combiners look at besides the members' outputs: ``features``, ``inputs``.
    """

    def __init__(
        self,
        schema: Schema,
        members: Sequence[Member],
        combiners: dict[str, Combiner],
        numbers: dict[str, float],
        looks: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.schema = schema
        self.members = Members(members)
        self.targets = list(combiners)
        self.combiners = nn.ModuleList(combiners.values())
        self.numbers = numbers
        self.looks = set(looks)

    def forward(self, batch: Batch) -> dict[str, Answer]:
        said, widths = self.members(batch), self.members.widths
        features = torch.cat(list(said.features), 1).double() if "features" in self.looks else None
        inputs = plain(self.schema, batch) if "inputs" in self.looks else None
        answers = {}
        for target, combiner in zip(self.targets, self.combiners, strict=True):
            variances = said.variances[target].double() if target in said.variances else None
            task = self.schema.targets[target]
            outputs = Outputs(said.values[target].double(), variances, features, inputs, task, widths)
            answers[target] = answer_of(outputs, cast(Combiner, combiner), self.numbers[target])
        return answers


def answer_of(outputs: Outputs, combiner: Combiner, number: float) -> Answer:
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
