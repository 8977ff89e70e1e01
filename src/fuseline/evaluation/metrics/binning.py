"""Calibration by bins of equal width: does what is said with confidence p come true p of the time?

A bin holds (low, high]. Shapes: N rows, K things said of a row (one for classes, one a label), B resamples.
"""

from __future__ import annotations

import numpy as np

from fuseline.evaluation.metrics.common import Codes, Counts, Floats
from fuseline.evaluation.metrics.sums import Part, summed

BINS = 15


def calibration_error(target: Codes, probabilities: Floats, bins: int = BINS) -> float:
    """Expected calibration error of the most probable class: Σ_b n_b/N |accuracy_b − confidence_b| over equal-width bins
    (Naeini et al. 2015; Guo et al. 2017, equation 3).

    >>> calibration_error(np.array([0, 0, 1, 1]), np.array([[0.75, 0.25]] * 4))
    0.25
    """
    confidence, right = most_probable(target, np.asarray(probabilities, np.float64))
    return float(calibration_errors(confidence[:, None], right[:, None], np.ones((1, len(target))), bins)[0])


def reliability(target: Codes, probabilities: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """The bins of a reliability diagram that hold rows: how many, their mean confidence and their accuracy."""
    confidence, right = most_probable(target, probabilities)
    which = _bin(confidence, bins)
    rows = []
    for b in np.unique(which):
        inside = which == b
        rows.append(
            {
                "rows": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    return rows


def most_probable(target: Codes, p: Floats) -> tuple[Floats, Floats]:
    """The probability of the most probable class (N,), and whether it is the true one (N,), as 0 or 1."""
    said = p.argmax(1)
    return p[np.arange(len(p)), said].astype(np.float64), (said == target).astype(np.float64)


def calibration_errors(confidence: Floats, truth: Floats, weights: Counts, bins: int = BINS) -> Floats:
    """Σ_b n_b/n |mean truth_b − mean confidence_b| of each resample (B,), all that is said of a row in one pool.

    Args:
        confidence: what is said (N, K).
        truth: whether it is so (N, K), 0 or 1; NaN, which counts nowhere, if unknown.
        weights: how often each resample draws each row (B, N).
    """
    known = (~np.isnan(truth)).sum(1)
    found = summed({"gaps": gaps(confidence, truth, bins), "known": Part(known)}, np.asarray(weights.T, np.float64))
    return error_of_bins(found["gaps"], found["known"][0])


def gaps(confidence: Floats, truth: Floats, bins: int = BINS) -> Part:
    """What each row adds to each bin: truth − confidence (N, K) of what is known."""
    return Part(np.where(np.isnan(truth), 0.0, truth - confidence), _bin(confidence, bins), bins)


def error_of_bins(gaps: Floats, known: Floats) -> Floats:
    """The calibration error (R,) of the bins' sums (bins, R) of so many things known (R,)."""
    return np.asarray(np.abs(gaps).sum(0) / known)


def _bin(confidence: Floats, bins: int) -> Codes:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
