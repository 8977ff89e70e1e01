"""Invariant 3: where there is nothing to learn, every rule says so; fitted on training predictions, it would not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fuseline.fusion.fuse import learnable
from fuseline.fusion.rules import FUSIONS

RULES: dict[str, list[Any]] = {
    "by default": [
        "pruned",
        "mean",
        "trimmed",
        "vote",
        "product",
        "weights",
        "greedy",
        "stacking",
        "gate",
        "dynamic",
        "features",
    ],
    "otherwise": [
        {"trimmed": {"cut": 0.4}},
        {"greedy": {"bags": 5, "fraction": 0.7}},
        {"stacking": {"passthrough": True}},
        {"gate": {"sees": "inputs"}},
        {"dynamic": {"sees": "inputs", "method": "knora_e"}},
        {"features": {"merge": "attention"}},
    ],
    "by outputs": [{"gate": {"sees": "outputs"}}, {"dynamic": {"sees": "outputs"}}],
}
NAMED = [(how, rule if isinstance(rule, str) else next(iter(rule))) for how, rules in RULES.items() for rule in rules]
OUT_OF_FOLD = [
    case for case in NAMED if case[1] != "features" and case not in (("by default", "gate"), ("by default", "dynamic"))
]
"""Rules that learn from the training rows too, as they need no features."""
CHANCE = 0.1


@pytest.fixture(scope="module")
def shuffled(
    make: Callable[..., Any], member_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Members that know their training rows by heart, on digits whose labels mean nothing; trained once, fused by some rules."""
    folder = tmp_path_factory.mktemp("shuffled")
    x, y = load_digits(return_X_y=True)
    np.savez(folder / "digits.npz", pixel=x[:900], digit=np.random.default_rng(11).permutation(y[:900]))
    tree = {
        "name": "shuffled",
        "data": {
            "source": {"npz": {"path": str(folder / "digits.npz")}},
            "split": {"rule": "stratified", "fusion": 0.15, "calibration": 0.1, "test": 0.3},
        },
        "targets": {"digit": {"kind": "classification"}},
        "partition": {"kfold": {"folds": 3}},
        "members": [member_of("mlp", [128], 40, count=3, batch_size=32, optimizer={"adamw": {"lr": 0.01}})],
        "evaluation": {"resamples": 200, "level": 0.99},
    }
    return cache(lambda how: make({**tree, "fusion": {"rules": RULES[how]}}, folder))


def entries(made: Any) -> dict[str, Any]:
    return {entry["name"]: entry["metrics"] for entry in made.report["targets"]["digit"]["candidates"]}


@pytest.mark.parametrize(("how", "rule"), NAMED)
def test_every_rules_interval_covers_chance(shuffled: Callable[[str], Any], how: str, rule: str) -> None:
    accuracy = entries(shuffled(how))[rule]["accuracy"]
    assert accuracy["low"] <= CHANCE <= accuracy["high"]
    assert accuracy["high"] < 0.25


@pytest.mark.parametrize("how", RULES)
def test_the_chosen_rule_promises_no_more_than_chance(shuffled: Callable[[str], Any], how: str) -> None:
    made = shuffled(how)
    chosen = made.report["targets"]["digit"]["chosen"]
    assert entries(made)[chosen]["log_loss"]["value"] == pytest.approx(np.log(10), abs=0.25)
    loss = made.fused["digit"].comparison["rules"][chosen]["loss"]
    assert loss == pytest.approx(np.log(10), abs=0.25)


@pytest.mark.parametrize(("how", "rule"), OUT_OF_FOLD)
def test_fitted_on_training_predictions_a_rule_would_look_perfect(shuffled: Callable[[str], Any], how: str, rule: str) -> None:
    """The contrast: the same rule on the same rows, but on what replicas say of rows that they were trained on."""
    made = shuffled(how)
    plan, spec = made.plan, made.plan.fuse_spec("digit")
    rows = plan.split.rows("train")
    seen = []
    for name, jobs in plan.members.items():
        said = np.stack([np.load(folder / "values-digit.npy")[rows] for folder in made.folders(name)]).astype(float)
        own = np.stack([np.isin(rows, job.share.train) for job in jobs])[:, :, None]
        seen.append((said * own).sum(0) / own.sum(0))
    target = torch.from_numpy(np.asarray(plan.dataset.targets["digit"])[rows])
    honest = learnable(made.bank, plan.dataset, plan.split, spec, plan.units)
    inputs = made.bank.outputs(plan.dataset, "digit", rows, {"inputs"}).inputs
    none = honest.said.outputs(np.empty(0, np.int64))
    outputs = none._replace(values=torch.from_numpy(np.stack(seen)), inputs=inputs)
    component = next(r for r in spec.rules if r.name == rule)
    combiner = FUSIONS[rule](outputs, target, torch.Generator().manual_seed(0), **component.settings)
    looks = float((combiner(outputs).values.argmax(1) == target).double().mean())
    test = plan.split.rows("test")
    truth = torch.from_numpy(np.asarray(plan.dataset.targets["digit"])[test])
    said = combiner(made.bank.outputs(plan.dataset, "digit", test, {"inputs"}))
    is_ = float((said.values.argmax(1) == truth).double().mean())
    assert looks > 0.8
    assert is_ < 0.2
