"""The rows that are trained on and how a prediction is scored. NumPy and scikit-learn alone: both environments import it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Floats = NDArray[np.floating[Any]]


class Material(NamedTuple):
    """Pictures (N, C, H, W) uint8 and codes (N,) to train on, and others to test on."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]


def digits(rows: int | None = None) -> Material:
    """scikit-learn's digits, an 80/20 stratified split of seed 0; the training pictures (1,437) are repeated to ``rows``."""
    pictures, codes = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, 1, 8, 8).astype(np.uint8)
    x, test_x, y, test_y = train_test_split(pictures, codes.astype(np.int64), test_size=0.2, stratify=codes, random_state=0)
    index = np.arange(len(x) if rows is None else rows) % len(x)
    return Material(x[index], y[index], test_x, test_y)


def coloured(rows: int, test: int, noise: float = 60.0) -> Material:
    """Digits as 32×32×3 pictures: each drawn pixel as a block of 4×4, moved by up to 3 pixels, in a bright colour on
    a dark one, under noise. Test pictures are drawn from digits that no training picture is drawn from."""
    source, random = digits(), np.random.default_rng(0)

    def draw(pictures: NDArray[np.uint8], codes: NDArray[np.int64], count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        index = random.permutation(np.arange(count) % len(pictures))
        ink = pictures[index, 0].repeat(4, 1).repeat(4, 2) / 16  # (n, 32, 32)
        moves = random.integers(-3, 4, (count, 2))
        ink = np.stack([np.roll(picture, tuple(move), (0, 1)) for picture, move in zip(ink, moves, strict=True)])[:, None]
        front, back = random.uniform(100, 255, (count, 3, 1, 1)), random.uniform(0, 100, (count, 3, 1, 1))
        drawn = ink * front + (1 - ink) * back + random.normal(0, noise, (count, 3, 32, 32))
        return drawn.clip(0, 255).astype(np.uint8), codes[index]

    return Material(*draw(source.x, source.y, rows), *draw(source.test_x, source.test_y, test))


def standardised(material: Material) -> tuple[Floats, Floats]:
    """Training and test pictures in float32, standardised per channel by the training pictures."""
    axes = (0, 2, 3)
    x = material.x.astype(np.float32)
    mean, scale = x.mean(axes, keepdims=True), x.std(axes, keepdims=True)
    return (x - mean) / scale, (material.test_x.astype(np.float32) - mean) / scale


def scored(probabilities: Floats, truth: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy and log loss of probabilities (n, C), and on how many rows."""
    true = np.clip(probabilities[np.arange(len(truth)), truth].astype(np.float64), 1e-7, 1)
    right = float((probabilities.argmax(1) == truth).mean())
    return {"accuracy": right, "log_loss": float(-np.log(true).mean()), "rows": len(truth)}


def imagined(members: int, rows: int, classes: int) -> tuple[Floats, NDArray[np.int64]]:
    """What members of different quality say (M, N, C) float32, and the truth (N,).

    Each member's logits favour the true class by its own skill; half of the noise is shared by its family of five, so that
    members err together as those of one architecture do. Seeded.
    """
    random = np.random.default_rng(0)
    truth = random.integers(0, classes, rows)
    said = np.empty((members, rows, classes), np.float32)
    for member in range(members):
        if member % 5 == 0:
            family = random.standard_normal((rows, classes), dtype=np.float32)
        logits = 1.1 * (family + random.standard_normal((rows, classes), dtype=np.float32))
        logits[np.arange(rows), truth] += np.float32(random.uniform(1.5, 5.0))
        odds = np.exp(logits - logits.max(1, keepdims=True))
        said[member] = odds / odds.sum(1, keepdims=True)
    return said, truth


def interval(share: float, rows: float, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share of so many rows (Wilson 1927).

    >>> [round(end, 3) for end in interval(0.97, 360)]
    [0.947, 0.983]
    """
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * float(np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)))
    return middle - half, middle + half
