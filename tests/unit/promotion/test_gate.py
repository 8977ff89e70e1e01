"""The gate's verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fuseline.conditions import LATENCY, SIZE, Registry
from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.evaluation.metrics import Predicted
from fuseline.promotion.gate import Champion, attempt_of, judge
from fuseline.promotion.guards import Judged, check_registry
from fuseline.promotion.verdict import Earlier, Verdict

KINDS = {
    "kind": TargetSchema(kind="classification", classes=["a", "b"]),
    "size": TargetSchema(kind="regression"),
    "signs": TargetSchema(kind="multilabel", classes=["u", "v"]),
}
ROWS = 400


def right_by(share: float, seed: int = 0, sure: float = 0.8) -> Predicted:
    """Probabilities that name the true class, which is 0, on a share of the rows, and the others on the rest."""
    right = np.random.default_rng(seed).permutation(ROWS) < share * ROWS
    first = np.where(right, sure, 1 - sure)
    return Predicted(np.stack([first, 1 - first], axis=1))


def held(said: Predicted, target: Any = None, **columns: Any) -> dict[str, Judged]:
    true = np.zeros(ROWS, np.int64) if target is None else target
    return {"kind": Judged(KINDS["kind"], true, said, np.arange(ROWS), columns)}


@pytest.fixture
def verdict() -> Callable[..., Verdict]:
    def go(challenger: Predicted, champion: Predicted | None, registry: Mapping[str, Any] | None = None, **rest: Any) -> Verdict:
        old = None if champion is None else Champion("m/1", {"kind": champion}, rest.pop("refused", {}))
        its = Registry.model_validate({"gate": {"metric": "accuracy"}, **(registry or {})})
        made = rest.pop("tested", None) or held(challenger)
        return judge("m/2", made, old, its, resamples=100, **rest)

    return go


def test_one_that_is_better_passes_and_says_by_how_much(verdict: Callable[..., Verdict]) -> None:
    found = verdict(right_by(0.9), right_by(0.7))
    (check,) = found.checks
    assert found.passed
    assert check.value == pytest.approx(0.2)
    assert check.low is not None
    assert 0 < check.low < 0.2
    assert "0.2" in check.says
    assert found.why == "m/2 passes all 1 checks against m/1."


@pytest.mark.parametrize("share", [0.7, 0.71])
def test_one_that_is_as_good_or_hardly_better_does_not(verdict: Callable[..., Verdict], share: float) -> None:
    found = verdict(right_by(share, 1), right_by(0.7))
    assert not found.passed
    assert found.why == "m/2 does not pass kind: gain of accuracy."


def test_itself_does_not_pass_unless_it_may_be_worse_by_something(verdict: Callable[..., Verdict]) -> None:
    same = right_by(0.8)
    assert not verdict(same, same).passed
    assert not verdict(same, same, {"gate": {"metric": "log_loss"}}).passed
    assert verdict(same, same, {"gate": {"metric": "accuracy", "min_gain": -0.02}}).passed
    assert verdict(same, same, {"gate": {"metric": "log_loss", "min_gain": -0.001}}).passed


def test_not_worse_by_more_than_something_takes_proof(verdict: Callable[..., Verdict]) -> None:
    loose, tight = ({"gate": {"metric": "accuracy", "min_gain": bound}} for bound in (-0.2, -0.02))
    assert verdict(right_by(0.79, 1), right_by(0.8), loose).passed
    assert not verdict(right_by(0.79, 1), right_by(0.8), tight).passed


def test_each_challenger_on_the_same_rows_has_it_harder(verdict: Callable[..., Verdict]) -> None:
    earlier = [Earlier(f"m/{i}", ["same"]) for i in range(3, 33)]
    first = verdict(right_by(0.8, 1), right_by(0.7), sketch=["same"])
    later = verdict(right_by(0.8, 1), right_by(0.7), sketch=["same"], earlier=earlier)
    assert (first.attempt, later.attempt) == (1, 31)
    assert first.passed
    assert not later.passed
    assert later.level == pytest.approx(0.07 / (31 * 32))
    assert verdict(right_by(0.8, 1), right_by(0.7), sketch=["other"], earlier=earlier).passed


def test_challengers_are_counted_once_each_and_not_oneself() -> None:
    met = [Earlier("a", ["1"]), Earlier("a", ["1"]), Earlier("b", ["2"]), Earlier("c", ["1", "2"])]
    assert attempt_of("z", ["1", "3"], met) == 3
    assert attempt_of("a", ["1", "3"], met) == 2
    assert attempt_of("z", ["9"], met) == 1


@pytest.mark.parametrize("broken", ["challenger", "champion"])
@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "brier"])
def test_what_is_no_number_never_passes(verdict: Callable[..., Verdict], broken: str, metric: str) -> None:
    good, bad = right_by(0.9), Predicted(np.full((ROWS, 2), np.nan))
    challenger, champion = (bad, right_by(0.1)) if broken == "challenger" else (good, bad)
    with np.errstate(invalid="ignore"):
        found = verdict(challenger, champion, {"gate": {"metric": metric}})
    assert not found.passed
    assert json.dumps(found.model_dump(mode="json"), allow_nan=False)


def test_on_several_targets_all_must_pass_that_are_compared(verdict: Callable[..., Verdict]) -> None:
    old, new = Predicted(np.full((ROWS, 1), 1.0)), Predicted(np.full((ROWS, 1), 2.0))
    noise = np.random.default_rng(0).normal(size=ROWS)
    both = {**held(right_by(0.9)), "size": Judged(KINDS["size"], noise, new, np.arange(ROWS), {})}
    champion = Champion("m/1", {"kind": right_by(0.7), "size": old}, {})
    strict = judge("m/2", both, champion, Registry(), resamples=100)
    assert [check.passed for check in strict.checks] == [True, False]
    assert not strict.passed
    free = Registry.model_validate({"gate": {"targets": {"size": {"compared": False}}}})
    assert judge("m/2", both, champion, free, resamples=100).passed
    loose = Registry.model_validate({"gate": {"targets": {"size": {"metric": "mae", "min_gain": -2}}}})
    assert judge("m/2", both, champion, loose, resamples=100).passed


def test_a_champion_that_can_not_be_compared_keeps_its_place_and_says_why(verdict: Callable[..., Verdict]) -> None:
    for refused in ({"": "it was fitted on 3 of them"}, {"kind": "it was fitted on 3 of them"}):
        found = verdict(right_by(1.0), right_by(0.1), refused=refused)
        assert not found.passed
        assert "fitted on 3" in found.text()


# ----------------------------------------------------------------------------------------------------------- guards


def test_a_first_version_passes_on_its_floors_alone(verdict: Callable[..., Verdict]) -> None:
    assert verdict(right_by(0.9), None, {"floors": {"kind": {"accuracy": 0.85, "log_loss": 0.6}}}).passed
    found = verdict(right_by(0.8), None, {"floors": {"kind": {"accuracy": 0.85, "log_loss": 0.6}}})
    assert [check.passed for check in found.checks] == [False, True]
    assert found.checks[0].bound == "at least 0.85"
    assert found.checks[1].bound == "at most 0.6"
    assert verdict(right_by(0.1), None).why == "m/2 is held against nothing; it is the first champion."


def test_floors_and_guards_hold_for_later_versions_too(verdict: Callable[..., Verdict]) -> None:
    found = verdict(right_by(0.9), right_by(0.7), {"floors": {"kind": {"accuracy": 0.95}}})
    assert [check.passed for check in found.checks] == [True, False]


@pytest.mark.parametrize(
    ("guard", "value"),
    [
        ({"metric": "accuracy", "where": {"sex": "f"}}, 0.5),
        ({"metric": "accuracy", "where": {"age": 7.0}}, 1.0),
        ({"metric": "recall", "of_class": "b"}, 0.5),
        ({"metric": "precision", "of_class": "a"}, 2 / 3),
        ({"metric": "accuracy", "of_class": "a", "where": {"sex": "f"}}, 1.0),
    ],
)
def test_guards_look_at_classes_and_slices(guard: dict[str, Any], value: float) -> None:
    """Half of the rows are of class a, all of which are said to be so, as are half of the others."""
    quarter = ROWS // 4
    target = np.repeat([0, 0, 1, 1], quarter)
    named = np.repeat([0, 0, 0, 1], quarter)
    sex, age = np.repeat(["m", "f", "f", "m"], quarter), np.repeat(["7", "8", "8", "7"], quarter)
    its = {"kind": Judged(KINDS["kind"], target, Predicted(np.eye(2)[named]), np.arange(ROWS), {"sex": sex, "age": age})}
    for bound, passed in (({"min": value - 0.01}, True), ({"min": value + 0.01}, False), ({"max": value - 0.01}, False)):
        found = judge("m/1", its, None, Registry.model_validate({"guards": [{**guard, **bound}]}), resamples=100)
        assert found.checks[0].value == pytest.approx(value)
        assert found.passed is passed


def test_a_slice_without_rows_never_passes(verdict: Callable[..., Verdict]) -> None:
    made = held(right_by(1.0), sex=np.full(ROWS, "m"))
    found = verdict(right_by(1.0), None, {"guards": [{"metric": "accuracy", "where": {"sex": "f"}, "min": 0}]}, tested=made)
    assert not found.passed
    assert "can't be measured" in found.checks[0].says


def test_calibration_latency_and_size_are_held_to_ceilings(verdict: Callable[..., Verdict]) -> None:
    registry = {"guards": [{"metric": "ece", "max": 0.05}, {"metric": LATENCY, "max": 5}, {"metric": SIZE, "max": 1, "min": 0}]}
    calibrated = right_by(0.8)  # says 0.8, and is right on so many
    assert verdict(calibrated, None, registry, package={LATENCY: 4, SIZE: 0.5}).passed
    found = verdict(right_by(0.8, sure=0.99), None, registry, package={LATENCY: 6})
    assert [check.passed for check in found.checks] == [False, False, False]
    assert math.isclose(found.checks[1].value or 0, 6)
    assert found.checks[2].value is None


# ------------------------------------------------------------------------------------------------ what is refused


SCHEMA = Schema(numeric=["x"], categorical={"color": ["red"]}, targets=KINDS)
JUDGED = {"kind": ["accuracy"], "size": ["rmse"], "signs": ["brier"]}


@pytest.mark.parametrize(
    ("registry", "field"),
    [
        ({"floors": {"kind": {"acuracy": 0.5}}}, "registry.floors.kind"),
        ({"floors": {"kind": {"brier": 0.5}}}, "registry.floors.kind"),  # its report does not have that
        ({"gate": {"metric": "accuracy"}}, "registry.gate.metric for the target 'size'"),
        ({"gate": {"targets": {"kind": {"metric": "roc_auc"}}}}, "registry.gate.targets.kind.metric"),
        ({"guards": [{"target": "kind", "metric": "rmse", "max": 1}]}, "registry.guards.0.metric"),
        ({"guards": [{"target": "kind", "metric": "recall", "max": 1}]}, "registry.guards.0.metric"),
        ({"guards": [{"target": "size", "metric": "rmse", "max": 1, "of_class": "a"}]}, "registry.guards.0.of_class"),
        ({"guards": [{"target": "kind", "metric": "ece", "max": 1, "of_class": "c"}]}, "registry.guards.0.of_class"),
        ({"guards": [{"target": "kind", "metric": "ece", "max": 1, "where": {"y": 1}}]}, "registry.guards.0.where"),
    ],
)
def test_what_is_not_known_is_refused_with_its_field(registry: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError) as error:
        check_registry(Registry.model_validate(registry), SCHEMA, JUDGED)
    assert str(error.value).startswith(field)


def test_what_is_known_is_not_refused() -> None:
    registry = {
        "floors": {"kind": {"accuracy": 0.5}},
        "gate": {"targets": {"kind": {"metric": "brier"}, "size": {"metric": "mae"}}},
        "guards": [{"target": "kind", "metric": "recall", "of_class": "a", "min": 0.1}, {"metric": LATENCY, "max": 1}],
    }
    check_registry(Registry.model_validate(registry), SCHEMA, JUDGED)
