"""Eight bootstrapped MLPs on digits: scikit-learn's BaggingClassifier, and ours called in process."""

from __future__ import annotations

import warnings

import numpy as np

from speed.clock import timed
from speed.material import digits, scored
from speed.plain import THREADS

HIDDEN = [64, 64]
EPOCHS, SIZE, RATE = 16, 64, 2e-2
"""Ours, chosen on quarters of the training rows (benchmarks/NOTES.md); one_cycle for a schedule. scikit-learn's own: Adam at 1e-3
in batches of 200, until the loss has not fallen by 1e-4 for ten epochs, 300 at the most."""


def sklearn(members: int, round: int) -> dict[str, float]:
    """Two jobs: each then computes with one thread, which is the faster way here by far."""
    from sklearn.ensemble import BaggingClassifier
    from sklearn.neural_network import MLPClassifier

    material = digits()
    x, test = (part.reshape(len(part), -1) / 16 for part in (material.x, material.test_x))
    model = MLPClassifier(HIDDEN, max_iter=300)
    warnings.simplefilter("ignore")

    def bag(count: int, most: int) -> BaggingClassifier:
        return BaggingClassifier(model.set_params(max_iter=most), count, random_state=round, n_jobs=2).fit(x, material.y)

    bag(2, 1)  # its workers start
    fitted, seconds = timed(lambda: bag(members, 300))
    return {"seconds": seconds, **scored(fitted.predict_proba(test), material.test_y)}


def ours(members: int, round: int) -> dict[str, float]:
    from fuseline.component import Component, complete
    from fuseline.partition import Share
    from fuseline.training.optimizers import OPTIMIZERS
    from fuseline.training.schedules import SCHEDULES
    from speed import fuselines

    material = digits()
    dataset = fuselines.pictures(material.x, material.y, 10)
    changes = {
        "optimizer": complete(Component(name="adamw", settings={"lr": RATE}), OPTIMIZERS, "optimizer"),
        "schedule": complete(Component(name="one_cycle"), SCHEDULES, "schedule"),
    }
    spec = fuselines.spec({"mlp": {"hidden": HIDDEN, "dropout": 0.1}}, EPOCHS, SIZE, THREADS, **changes)
    random = np.random.default_rng(round)
    shares = [Share(np.sort(random.integers(0, len(material.y), len(material.y)))) for _ in range(members)]
    fuselines.together(dataset, spec.model_copy(update={"epochs": 1}), shares[:2], [0, 1])
    seeds = [1000 * round + member for member in range(members)]
    networks, seconds = timed(lambda: fuselines.together(dataset, spec, shares, seeds))
    return {"seconds": seconds, **scored(fuselines.said(networks, material.test_x), material.test_y)}
