"""Inputs of any kind as one matrix of a few standardised numbers per row.

Shapes: n rows, D numbers per row before the reduction, P numeric and Q categorical columns, (C, H, W) a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from fuseline.data.dataset import Dataset
from fuseline.data.schema import Arrays
from fuseline.partition.shares import Rows

Matrix = NDArray[np.float64]
BLOCK = 4096
LARGEST = 2**26
"""So many numbers at most are held at once to find principal components: half a gigabyte."""


def flatten(dataset: Dataset, rows: Rows, components: int, seed: int) -> Matrix:
    """Some rows' inputs (n, min(D, components)), standardised by those rows alone.

    Numbers become z-scores, 0 where missing; a constant column is 0. A category becomes one column per word that occurs (that
    it is missing or unknown is a word too), 0 or 1: two rows of different words are then as far apart, at distance² 2, as two
    independent z-scores are on average. Pictures are standardised per channel and flattened. Where D is greater than
    ``components``, the first principal components are taken, as they stand (not whitened); they are found on a random subset of
    the rows if all would be more than 2²⁶ numbers.
    """
    parts = _plain(dataset.inputs, rows)
    width = parts(rows[:1]).shape[1]
    if width <= components:
        return np.concatenate([parts(block) for block in _blocks(rows)])
    some = rows
    if len(rows) > (most := max(LARGEST // width, 10 * components)):
        some = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    found = PCA(min(components, len(some)), random_state=seed).fit(parts(some))
    return np.concatenate([found.transform(parts(block)) for block in _blocks(rows)])


def _blocks(rows: Rows) -> Iterator[Rows]:
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def _plain(inputs: Arrays, rows: Rows) -> Callable[[Rows], Matrix]:
    """A function from rows (B,) to their numbers (B, D), fitted on ``rows``."""
    parts: list[Callable[[Rows], Matrix]] = []
    if "numeric" in inputs:
        parts.append(_numbers(inputs["numeric"], rows))
    if "categorical" in inputs:
        parts.append(_words(inputs["categorical"], rows))
    if "image" in inputs:
        parts.append(_pixels(inputs["image"], rows))
    return lambda some: np.concatenate([part(some) for part in parts], axis=1)


def _numbers(array: NDArray[np.float64], rows: Rows) -> Callable[[Rows], Matrix]:
    x = np.asarray(array[rows], np.float64)
    known = np.maximum((~np.isnan(x)).sum(0), 1)
    mean = np.nan_to_num(x).sum(0) / known
    scale = _scale((np.nan_to_num(x - mean) ** 2).sum(0) / known)
    return lambda some: np.nan_to_num((np.asarray(array[some], np.float64) - mean) / scale)


def _words(codes: NDArray[np.int64], rows: Rows) -> Callable[[Rows], Matrix]:
    there = [np.unique(column) for column in np.asarray(codes[rows]).T]

    def hot(some: Rows) -> Matrix:
        columns = np.asarray(codes[some]).T
        return np.concatenate([column[:, None] == words for column, words in zip(columns, there, strict=True)], 1).astype(float)

    return hot


def _pixels(images: NDArray[np.float32], rows: Rows) -> Callable[[Rows], Matrix]:
    total, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    for block in _blocks(rows):
        x = np.asarray(images[block], np.float64)
        total += x.sum((0, 2, 3))
        squares += (x * x).sum((0, 2, 3))
    count = len(rows) * images.shape[2] * images.shape[3]
    mean = (total / count)[:, None, None]
    scale = _scale(np.maximum(squares / count - (total / count) ** 2, 0))[:, None, None]
    return lambda some: ((np.asarray(images[some], np.float64) - mean) / scale).reshape(len(some), -1)


def _scale(variance: Matrix) -> Matrix:
    deviation = np.sqrt(variance)
    return np.where(deviation > 1e-12, deviation, 1.0)
