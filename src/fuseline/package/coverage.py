"""What the calibration rows promise of a package's sets and intervals."""

from __future__ import annotations

import numpy as np

from fuseline.bank import Bank, BankRows
from fuseline.evaluation.conformal import Conformal, fit_conformal
from fuseline.fusion.combine import calibrate
from fuseline.fusion.fuse import FusedTarget
from fuseline.fusion.reading import say
from fuseline.fusion.rules import needs
from fuseline.plan import Plan
from fuseline.threads import limited_to


def fit_coverage(plan: Plan, bank: Bank, fused: FusedTarget) -> Conformal | None:
    """How the sets or intervals of a target's chosen fusion are made, as it serves: calibrated. None without calibration rows."""
    target, dataset = fused.target, plan.dataset
    rows = dataset.known(target, plan.split.rows("calibration"))
    if not len(rows):
        return None
    looks = needs(rule for rule in plan.fuse_spec(target).rules if rule.name == fused.chosen)
    with limited_to(plan.recipe.training.threads):
        said = say(fused.winner.combiner, BankRows(bank, dataset, target, rows), np.arange(len(rows)), looks)
        said = calibrate(said, fused.winner.number)
    variances = None if said.variances is None else said.variances[:, 0].numpy()
    truth = np.asarray(dataset.targets[target])[rows]
    return fit_conformal(dataset.schema.targets[target], said.values.numpy(), variances, truth, plan.recipe.evaluation.coverage)
