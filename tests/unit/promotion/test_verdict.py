"""Verdicts explain themselves, and keep their numbers as JSON."""

from __future__ import annotations

import json
import math

from fuseline.promotion.verdict import Check, Measured, Verdict, decided

GOOD = Check.of("a", "at least 1", Measured(2, 1.5, math.inf), True, "is 2")
BAD = Check.of("b", "at most 1", Measured(math.nan), False, "is not a number")


def test_numbers_that_json_does_not_know_are_left_out() -> None:
    assert (GOOD.value, GOOD.low, GOOD.high) == (2, 1.5, None)
    assert BAD.value is None


def test_a_verdict_says_each_line_and_what_follows() -> None:
    verdict = decided("m/2", "m/1", [GOOD, BAD], attempt=2)
    assert not verdict.passed
    assert verdict.text().splitlines() == ["yes  a: is 2", "NO   b: is not a number", "keep: m/2 does not pass b."]
    assert Verdict.model_validate(json.loads(json.dumps(verdict.model_dump(mode="json"), allow_nan=False))) == verdict


def test_one_that_passes_all_says_against_whom() -> None:
    assert decided("m/2", "m/1", [GOOD]).why == "m/2 passes all 1 checks against m/1."
    assert decided("m/1", None, [GOOD]).text().endswith("promote: m/1 passes all 1 checks; it is the first champion.")
