"""Pools made from a seed, session-wide, so that Hypothesis tests may use them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fuseline.data.dataset import Dataset
from fuseline.data.schema import FIRST, MISSING, Schema, TargetSchema
from fuseline.partition import Pool


@pytest.fixture(scope="session")
def generators() -> Callable[..., list[np.random.Generator]]:
    """A generator for each member, as the plan gives them: those of the first members don't depend on how many there are."""

    def make(count: int, seed: int = 0) -> list[np.random.Generator]:
        return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]

    return make


@pytest.fixture(scope="session")
def pool_of() -> Callable[..., Pool]:
    """A random data set of more rows than the pool has, with numbers, words, a class, a value and a group, gaps among all."""

    def make(
        seed: int,
        n: int = 60,
        classes: int = 4,
        kind: Any = "classification",
        groups: int = 6,
        unit_size: int = 1,
        unknown: float = 0.0,
        **changes: Any,
    ) -> Pool:
        random = np.random.default_rng(seed)
        total = n + n // 2 + 3
        numbers = random.normal(5, 3, (total, 3))
        numbers[random.random((total, 3)) < 0.1] = np.nan
        codes = random.permutation(np.arange(total) % classes)
        codes[random.random(total) < unknown] = -1
        made: dict[str, Any] = {
            "key": "",
            "origin": "memory",
            "fingerprint": "",
            "schema": Schema(
                numeric=["a", "b", "c"],
                categorical={"d": ["x", "y"], "e": ["z"]},
                targets={
                    "size": TargetSchema(kind="regression"),
                    "kind": TargetSchema(kind=kind, classes=list(range(classes))),
                },
            ),
            "ids": np.arange(total).astype(str),
            "content": np.arange(total).astype(np.uint64),
            "inputs": {"numeric": numbers, "categorical": random.integers([0, MISSING], [FIRST + 2, FIRST + 1], (total, 2))},
            "targets": {"size": random.normal(size=total), "kind": codes},
            "split_column": None,
            "group": np.array([f"g{i}" for i in random.integers(0, groups, total)]),
        }
        dataset = Dataset(**(made | changes))
        rows = np.sort(random.choice(total, n, replace=False))
        units = random.permutation(n) // unit_size
        return Pool(rows, codes[rows], units, dataset)

    return make
