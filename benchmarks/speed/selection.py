"""Greedy ensemble selection on stored predictions: AutoGluon's, and ours with the convex optimum beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from speed.clock import repeated, timed
from speed.material import imagined


def autogluon(members: int, rows: int, classes: int, steps: int) -> dict[str, float]:
    """With ``use_best`` off it keeps all steps, as ours does, in place of cutting those off after its best; it computes the
    same."""
    from autogluon.core.metrics import log_loss
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    said, truth = imagined(members, rows, classes)
    selection = EnsembleSelection(steps, "multiclass", log_loss)
    selection.use_best = False
    _, seconds = timed(lambda: selection.fit(list(said), truth))
    return {"seconds": seconds, "steps": len(selection.indices_), **_named(selection.weights_)}


def ours(members: int, rows: int, classes: int, steps: int) -> dict[str, float]:
    import torch

    from fuseline.data.schema import TargetSchema
    from fuseline.fusion.combine import Outputs
    from fuseline.fusion.mixtures import greedy, weights

    said, truth = imagined(members, rows, classes)
    task = TargetSchema(kind="classification", classes=list(range(classes)))
    outputs, target = Outputs(torch.from_numpy(said).double(), task=task), torch.from_numpy(truth)
    del said
    generator = torch.Generator().manual_seed(0)
    selected = greedy(outputs, target, generator, steps=steps)
    seconds = repeated(lambda: greedy(outputs, target, generator, steps=steps))
    optimum, convex = timed(lambda: weights(outputs, target, generator))
    true = outputs.values[:, torch.arange(rows), target]
    losses = {name: -float((c.mixing() @ true).log().mean()) for name, c in (("greedy", selected), ("weights", optimum))}
    return {
        "seconds": seconds,
        "steps": steps,
        "weights_seconds": convex,
        "log_loss_greedy": losses["greedy"],
        "log_loss_weights": losses["weights"],
        "weights_over_greedy": losses["weights"] / losses["greedy"],
        **_named(selected.mixing().numpy()),
    }


def _named(weights: Any) -> dict[str, float]:
    return {f"weight {member}": float(weight) for member, weight in enumerate(np.asarray(weights))}
