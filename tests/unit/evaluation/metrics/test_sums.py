"""Sums over rows: block by block, in bounded memory, and only those that are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fuseline.evaluation.metrics import FAMILIES, METRICS, Predicted, family, ranking, sums
from fuseline.evaluation.metrics.sums import Part, summed
from fuseline.terms import Kind

KINDS = get_args(Kind)
LEVELS = np.array([0.1, 0.5, 0.8])


def random_case(kind, seed=0, rows=60):
    rng = np.random.default_rng(seed)
    if kind in ("classification", "ordinal"):
        return rng.integers(0, 4, rows), Predicted(rng.dirichlet(np.ones(4), rows))
    if kind == "multilabel":
        truth = rng.integers(0, 2, (rows, 3)).astype(float)
        truth[rng.random((rows, 3)) < 0.3] = np.nan
        truth[np.isnan(truth).all(1), 0] = 1
        return truth, Predicted(rng.random((rows, 3)))
    mean, deviation = rng.normal(size=(rows, 1)), rng.gamma(2, size=(rows, 1))
    y = rng.normal(mean, deviation)[:, 0]
    if kind == "regression":
        return y, Predicted(mean, deviation**2)
    return y, Predicted(mean + deviation * norm.ppf(LEVELS), levels=LEVELS)


def counts(rows=60, resamples=20):
    return np.random.default_rng(5).multinomial(rows, np.full(rows, 1 / rows), size=resamples).astype(np.uint8)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_sums_equal_loops_over_rows_and_cells(seed, size, things):
    rng = np.random.default_rng(seed)
    draws, values = rng.integers(0, 4, (7, 3)).astype(float), rng.normal(size=(7, things))
    cells = rng.integers(0, size, (7, things))
    got = summed({"dense": Part(values), "one": Part(values[:, 0]), "sparse": Part(values, cells, size)}, draws)
    expected = np.zeros((size, 3))
    for n in range(7):
        for k in range(things):
            expected[cells[n, k]] += values[n, k] * draws[n]
    assert got["sparse"] == pytest.approx(expected)
    assert got["dense"] == pytest.approx(values.T @ draws)
    assert got["one"] == pytest.approx(values[:, :1].T @ draws)


def test_sparse_parts_side_by_side_keep_to_their_own_cells():
    parts = {name: Part(np.full(4, value), np.array([0, 1, 1, 0]), 2) for name, value in (("a", 1.0), ("b", 10.0))}
    got = summed(parts, np.ones((4, 1)))
    assert {name: found[:, 0].tolist() for name, found in got.items()} == {"a": [2, 2], "b": [20, 20]}


@pytest.mark.parametrize("exact", [ranking.EXACT, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_rows_at_a_time_give_the_same_as_all_at_once(monkeypatch, kind, exact):
    monkeypatch.setattr(ranking, "EXACT", exact)
    target, predicted = random_case(kind)
    whole = FAMILIES[kind].measured(target, predicted, counts(), METRICS[kind])
    monkeypatch.setattr(sums, "BLOCK", 7 * 21)
    parts = FAMILIES[kind].measured(target, predicted, counts(), METRICS[kind])
    for name, values in parts.items():
        assert values == pytest.approx(whole[name], rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("exact", [ranking.EXACT, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_a_block_of_draws_is_held(monkeypatch, kind, exact):
    sizes = []

    def spied(weights, rows):
        found = drawn(weights, rows)
        sizes.append(found.size)
        return found

    def stepped(cells, count, weights):
        sizes.append(max(count, weights.shape[1]) * len(weights))
        return per_step(cells, count, weights)

    drawn, per_step = sums.drawn, ranking._per_step
    for module in (family, ranking):
        monkeypatch.setattr(module, "drawn", spied)
    monkeypatch.setattr(ranking, "_per_step", stepped)
    monkeypatch.setattr(ranking, "EXACT", exact)
    monkeypatch.setattr(sums, "BLOCK", 1000)
    FAMILIES[kind].measured(*random_case(kind), counts(), METRICS[kind])
    assert len(sizes) > 1
    assert max(sizes) <= 1000


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in METRICS[kind]])
def test_only_what_is_asked_for_is_computed(kind, name):
    touched = set()

    def spy(what, function):
        def go(*args):
            touched.add(what)
            return function(*args)

        return go

    full = FAMILIES[kind]
    spied = replace(
        full,
        parts={part: spy(part, function) for part, function in full.parts.items()},
        columns=full.columns and spy("columns", full.columns),
    )
    target, predicted = random_case(kind)
    got = spied.measured(target, predicted, counts(), [name])
    assert list(got) == [name]
    assert touched == ({"columns"} if name in full.rankings else set(full.measures[name].parts))
    assert np.array_equal(got[name], full.measured(target, predicted, counts(), METRICS[kind])[name], equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_type_counts_have_the_numbers_are_the_same(kind):
    target, predicted = random_case(kind)
    small, large = (FAMILIES[kind].measured(target, predicted, counts().astype(t), METRICS[kind]) for t in (np.uint8, float))
    assert all(np.array_equal(small[name], large[name], equal_nan=True) for name in METRICS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_may_lie_in_a_file(tmp_path, kind):
    target, predicted = random_case(kind)
    file = np.memmap(tmp_path / "said", predicted.values.dtype, "w+", shape=predicted.values.shape)
    file[:] = predicted.values
    read = FAMILIES[kind].measured(target, predicted._replace(values=file), counts(), METRICS[kind])
    held = FAMILIES[kind].measured(target, predicted, counts(), METRICS[kind])
    assert all(np.array_equal(read[name], held[name], equal_nan=True) for name in METRICS[kind])
