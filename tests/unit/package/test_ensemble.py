"""The ensemble as one module: it combines and calibrates what its members say, and its uncertainty is consistent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from fuseline.evaluation.uncertainty import decompose, entropy, label_entropy
from fuseline.fusion.combine import Outputs, calibrate
from fuseline.fusion.inputs import plain
from fuseline.models.network import Replicated

FITTING = {
    "kind": ["mixture", "vote", "logistic", "product", "trimmed", "feature_head", "attention_head", "gate"],
    "grade": ["vote", "logistic", "product", "trimmed", "feature_head", "attention_head", "gate"],
    "signs": ["vote", "entrywise", "product", "trimmed", "feature_head", "attention_head", "gate"],
    "size": ["linear", "product", "trimmed", "feature_head", "attention_head", "gate", "neighbours"],
    "range": ["entrywise", "trimmed", "feature_head", "attention_head", "gate", "neighbours"],
}
TO_ROUNDING = {"atol": 1e-6, "rtol": 2e-6}
"""Members that are computed together, and one by one, in float32."""
EVERY = [{target: kind} for target, kinds in FITTING.items() for kind in kinds]


def batch(made: Any, raw: pd.DataFrame) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in made.description.schema_.encode(raw).items()}


def outputs(made: Any, raw: pd.DataFrame, target: str) -> Outputs:
    """What the members say, put together by hand."""
    given = batch(made, raw)
    said = [Replicated(replicas)(given) for replicas in made.networks]
    return Outputs(
        torch.stack([values[target].double() for values, _, _ in said]),
        torch.stack([variances[target].double() for _, variances, _ in said]) if target == "size" else None,
        torch.cat([features.double() for _, _, features in said], 1),
        plain(made.description.schema_, given),
        made.description.schema_.targets[target],
        tuple(features.shape[1] for _, _, features in said),
    )


@pytest.mark.parametrize("kinds", EVERY, ids=str)
@torch.inference_mode()
def test_it_says_what_the_calibrated_combiner_says_of_its_members(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, kinds: dict[str, str]
) -> None:
    made = ensemble_of(kinds)
    answers = made.ensemble(batch(made, raw))
    assert list(answers) == ["kind", "grade", "signs", "size", "range"]
    for target, answer in answers.items():
        fused = calibrate(made.combiners[target](outputs(made, raw, target)), 1.7)
        torch.testing.assert_close(answer.values, fused.values, **TO_ROUNDING)
        values, variances, _ = fused
        if target in ("kind", "grade"):
            torch.testing.assert_close(answer.uncertainty, entropy(values), **TO_ROUNDING)
        elif target == "signs":
            torch.testing.assert_close(answer.uncertainty, label_entropy(values), **TO_ROUNDING)
        elif target == "size":
            torch.testing.assert_close(answer.uncertainty, variances[:, 0], **TO_ROUNDING)
        assert {part.dtype for part in answer} == {torch.float64}


@pytest.mark.parametrize(("kinds", "number"), [*((kinds, 1.0) for kinds in EVERY), *(({}, n) for n in (0.05, 8.0))], ids=str)
@torch.inference_mode()
def test_the_epistemic_part_is_between_nothing_and_the_total(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, kinds: dict[str, str], number: float
) -> None:
    made = ensemble_of(kinds, number)
    for target, answer in made.ensemble(batch(made, raw)).items():
        assert (answer.epistemic >= 0).all()
        assert (answer.epistemic <= answer.uncertainty).all(), target


@pytest.mark.parametrize("kinds", [kinds for kinds in EVERY if {"size", "range"} & kinds.keys()], ids=str)
@torch.inference_mode()
def test_members_far_at_odds_leave_the_epistemic_part_within_the_total(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, kinds: dict[str, str]
) -> None:
    """Members that are sure and say values far apart: a rule that is no even mixture may be surer than they are at odds."""
    made = ensemble_of(kinds, 1.0)
    (target,) = kinds
    for m, replicas in enumerate(made.networks):
        for network in replicas:
            network.head(target).center.fill_(100.0 * m)
    answer = made.ensemble(batch(made, raw))[target]
    assert (answer.epistemic <= answer.uncertainty).all()


@torch.inference_mode()
def test_the_epistemic_part_is_that_of_the_mixture_by_its_weights(ensemble_of: Callable[..., Any], raw: pd.DataFrame) -> None:
    made = ensemble_of(number=2.5)
    answers = made.ensemble(batch(made, raw))
    weights = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    weighted = decompose(outputs(made, raw, "size"), weights)
    torch.testing.assert_close(answers["size"].epistemic, 2.5 * weighted.epistemic, **TO_ROUNDING)
    torch.testing.assert_close(answers["size"].uncertainty, 2.5 * weighted.total, **TO_ROUNDING)
    even = decompose(outputs(made, raw, "size"))
    assert not torch.allclose(answers["size"].epistemic, 2.5 * even.epistemic)


@torch.inference_mode()
def test_a_mixture_that_hears_one_member_has_no_epistemic_uncertainty(ensemble_of: Callable[..., Any], raw: pd.DataFrame) -> None:
    made = ensemble_of()
    for combiner in made.combiners.values():
        combiner.weights.copy_(torch.tensor([0.0, 1.0, 0.0]))
    for answer in made.ensemble(batch(made, raw)).values():
        torch.testing.assert_close(answer.epistemic, torch.zeros(len(raw), dtype=torch.float64))
        assert (answer.uncertainty > 0).all()


@torch.inference_mode()
def test_a_row_is_answered_alike_in_whatever_company(ensemble_of: Callable[..., Any], raw: pd.DataFrame) -> None:
    made = ensemble_of()
    every, one = made.ensemble(batch(made, raw)), made.ensemble(batch(made, raw.iloc[7:8]))
    for target in every:
        for ours, theirs in zip(every[target], one[target], strict=True):
            torch.testing.assert_close(ours[7:8], theirs, atol=1e-6, rtol=1e-6)
