"""Strategies: how the members of one entry of a recipe follow from each other.

A strategy is a function ``(before, dataset, rows, *, settings) → Start``: what a replica takes over from the folders of those
that were trained before it, the latest last. ``rows`` are its own training rows (n,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file

from fuseline.component import Component
from fuseline.data.dataset import Dataset
from fuseline.data.schema import TargetSchema
from fuseline.partition import Rows
from fuseline.training.train import Start

Floats = NDArray[np.float64]


def snapshot(before: Sequence[Path], dataset: Dataset, rows: Rows) -> Start:
    """Start from the weights of the predecessor, at the full rate again (Huang et al. 2017, snapshot ensembles).

    Each member is one cycle of ``epochs`` epochs; the schedule ``cosine`` gives the paper's. The optimizer's own state starts
    anew with each cycle.
    """
    return Start(state=load_file(before[-1] / "weights.safetensors"))


def boosting(before: Sequence[Path], dataset: Dataset, rows: Rows, *, rate: Annotated[float, Field(gt=0, le=1)] = 0.5) -> Start:
    """Weigh each row by the predecessors' mistakes on it, for each target by itself.

    Networks are seldom wrong on rows that they were trained on, so that the full rate of 1 lets the next one learn from little
    else but those: ``rate`` multiplies the logarithm of the weights, as scikit-learn's ``learning_rate`` does.

    For classes SAMME (Zhu et al. 2009, algorithm 2); of several labels a row is as wrong as the share of its known labels that
    are; for values AdaBoost.R2 with linear loss (Drucker 1997), of quantiles by the middle one.
    """
    weights = {}
    for name, task in dataset.schema.targets.items():
        target = np.asarray(dataset.targets[name])[rows]
        weight = np.ones(len(rows))
        for folder in before:
            said = np.load(folder / f"values-{name}.npy", mmap_mode="r")[rows]
            weight = reweigh(weight, said, target, task, rate)
        weights[name] = weight
    return Start(rows=weights)


def reweigh(weight: Floats, said: NDArray[np.float32], target: NDArray[Any], task: TargetSchema, rate: float = 1.0) -> Floats:
    """The rows' weights (n,) after a member that says ``said`` (n, C): higher where it errs, 1 on the average.

    With ε the weighted error and C classes, a row that is said wrongly is multiplied by ``(C − 1)(1 − ε)/ε`` to the power of
    ``rate``. ε is at least that of half a row, and a member that is no better than chance changes nothing.

    >>> task = TargetSchema(kind="classification", classes=["a", "b"])
    >>> said = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], np.float32)
    >>> reweigh(np.ones(4), said, np.array([0, 0, 0, 1]), task).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    known = task.known(target)
    if not known.any():
        return weight
    wrong = np.zeros(len(weight))
    wrong[known] = _wrong(said[known].astype(np.float64), target[known], task)
    share = weight * known / max(float((weight * known).sum()), 1e-300)
    error = float(np.clip(share @ wrong, 0.5 / int(known.sum()), None))
    chance = 1 - 1 / task.width if task.exclusive else 0.5
    if error >= chance:
        return weight
    odds = (1 - error) / error * (task.width - 1 if task.exclusive else 1)
    raised = np.asarray(weight * np.power(odds, rate * wrong), np.float64)
    return np.asarray(raised / raised[known].mean(), np.float64)


def _wrong(said: Floats, target: NDArray[Any], task: TargetSchema) -> Floats:
    """How wrong each row is (n,), between 0 and 1."""
    if task.exclusive:
        return np.asarray(said.argmax(1) != target, np.float64)
    if task.kind == "multilabel":
        labels = ~np.isnan(target)
        return np.asarray((((said > 0.5) != (target > 0.5)) & labels).sum(1) / labels.sum(1))
    gap = np.abs(said[:, task.middle if task.levels else 0] - target)
    return np.asarray(gap / max(float(gap.max()), 1e-300))


STRATEGIES: dict[str, Callable[..., Start]] = {"snapshot": snapshot, "boosting": boosting}


def start(strategy: Component | None, before: Sequence[Path], dataset: Dataset, rows: Rows) -> Start:
    """What a replica takes over; nothing, if it is the first or follows no strategy."""
    if strategy is None or not before:
        return Start()
    return STRATEGIES[strategy.name](before, dataset, rows, **strategy.settings)
