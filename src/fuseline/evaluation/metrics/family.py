"""The metrics of one kind of target, and how those that are asked for are computed: block by block, and nothing else.

Shapes: N rows, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fuseline.evaluation.metrics.common import Counts, Floats, Predicted
from fuseline.evaluation.metrics.ranking import Column, Ranking, ranked
from fuseline.evaluation.metrics.sums import Measure, Part, Rows, blocks, drawn, sums

Target = NDArray[Any]


@dataclass(frozen=True)
class Family:
    """The metrics of a kind: ``measures`` of sums, with the ``parts`` that they are made of, and ``rankings`` of ``columns``."""

    parts: Mapping[str, Callable[[Rows], Part]]
    measures: Mapping[str, Measure]
    middle: Callable[[Target], float] | None = None
    rankings: Mapping[str, Ranking] = field(default_factory=dict)
    columns: Callable[[Target, Predicted], Iterator[Column]] | None = None

    def measured(self, target: Target, predicted: Predicted, weights: Counts, names: Sequence[str]) -> dict[str, Floats]:
        """The metrics ``names`` of the rows as they are and of each resample (1 + B,).

        Args:
            target: codes or values (N,), or labels (N, C).
            predicted: what is said of the N rows; it may lie in a file.
            weights: how often each resample draws each row (B, N).
            names: which metrics, and no others are computed.
        """
        measures = {name: self.measures[name] for name in names if name in self.measures}
        needed = dict.fromkeys(part for measure in measures.values() for part in measure.parts)
        found = sums({part: self.parts[part] for part in needed}, self._blocks(target, predicted, weights))
        values = {name: measure.of(found) for name, measure in measures.items()}
        rankings = {name: self.rankings[name] for name in names if name in self.rankings}
        if rankings and self.columns is not None:
            values |= ranked(self.columns(target, predicted), predicted.values.size, weights, rankings)
        return {name: values[name] for name in names}

    def point(self, target: Target, predicted: Predicted, names: Sequence[str]) -> dict[str, float]:
        """The metrics of the rows as they are."""
        found = self.measured(target, predicted, np.empty((0, len(target))), names)
        return {name: float(values[0]) for name, values in found.items()}

    def resampled(self, target: Target, predicted: Predicted, weights: Counts, names: Sequence[str]) -> dict[str, Floats]:
        """The metrics of each resample (B,)."""
        return {name: values[1:] for name, values in self.measured(target, predicted, weights, names).items()}

    def _blocks(self, target: Target, predicted: Predicted, weights: Counts) -> Iterator[tuple[Rows, Floats]]:
        about = 0.0 if self.middle is None else self.middle(target)
        width = max(1 + len(weights), predicted.values[:1].size)
        for rows in blocks(len(target), width):
            some = predicted.rows(rows)
            values = np.asarray(some.values, np.float64)
            yield Rows(np.asarray(target[rows]), some._replace(values=values), about), drawn(weights, rows)
