"""The ensemble as one module: it combines and calibrates what its members say, and its uncertainty is consistent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from fuseline.evaluation.uncertainty import decompose, entropy
from fuseline.fusion.combine import Outputs, calibrate

CLASSES = ["mixture", "vote", "logistic", "feature_head"]
VALUES = ["mixture", "linear", "feature_head"]
EVERY = [*({"kind": kind, "size": "mixture"} for kind in CLASSES), *({"kind": "mixture", "size": kind} for kind in VALUES[1:])]


def batch(made: Any, raw: pd.DataFrame) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in made.description.schema_.encode(raw).items()}


def outputs(made: Any, raw: pd.DataFrame, target: str) -> Outputs:
    """What the members say, put together by hand."""
    said = [member(batch(made, raw)) for member in made.ensemble.members]
    return Outputs(
        torch.stack([values[target].double() for values, _, _ in said]),
        torch.stack([variances[target].double() for _, variances, _ in said]) if target == "size" else None,
        torch.cat([features.double() for _, _, features in said], 1),
    )


@pytest.mark.parametrize("kinds", EVERY, ids=str)
@torch.inference_mode()
def test_it_says_what_the_calibrated_combiner_says_of_its_members(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, kinds: dict[str, str]
) -> None:
    made = ensemble_of(kinds)
    answers = made.ensemble(batch(made, raw))
    assert list(answers) == ["kind", "size"]
    for target, answer in answers.items():
        fused = calibrate(made.combiners[target](outputs(made, raw, target)), 1.7)
        torch.testing.assert_close(answer.values, fused.values)
        total = entropy(fused.values) if fused.variances is None else fused.variances[:, 0]
        torch.testing.assert_close(answer.uncertainty, total)
        assert {part.dtype for part in answer} == {torch.float64}


@pytest.mark.parametrize("number", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("kinds", EVERY, ids=str)
@torch.inference_mode()
def test_the_epistemic_part_is_between_nothing_and_the_total(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, kinds: dict[str, str], number: float
) -> None:
    made = ensemble_of(kinds, number)
    for answer in made.ensemble(batch(made, raw)).values():
        assert (answer.epistemic >= 0).all()
        assert (answer.epistemic <= answer.uncertainty).all()


@torch.inference_mode()
def test_the_epistemic_part_is_that_of_the_mixture_by_its_weights(ensemble_of: Callable[..., Any], raw: pd.DataFrame) -> None:
    made = ensemble_of(number=2.5)
    answers = made.ensemble(batch(made, raw))
    weights = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    weighted = decompose(outputs(made, raw, "size"), weights)
    torch.testing.assert_close(answers["size"].epistemic, 2.5 * weighted.epistemic)
    torch.testing.assert_close(answers["size"].uncertainty, 2.5 * weighted.total)
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
