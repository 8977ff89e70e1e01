"""Clusters of inputs, against scikit-learn run directly on the same matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.partition import Pool, Shares, cluster
from fuseline.partition.flattening import flatten

SEEDS = st.integers(0, 2**32 - 1)
Make = Callable[..., Pool]
Generators = Callable[..., list[np.random.Generator]]
IMAGE = Schema(image=(2, 4, 3), targets={"kind": TargetSchema(kind="classification", classes=[0, 1])})


def numbers(x: np.ndarray, **changes: object) -> dict[str, object]:
    schema = Schema(numeric=[f"x{j}" for j in range(x.shape[1])], targets=IMAGE.targets)
    return {"schema": schema, "inputs": {"numeric": x}} | changes


def sets(shares: Shares) -> list[list[int]]:
    return [share.train.tolist() for (share,) in shares]


def matrix(pool: Pool) -> np.ndarray:
    """The pool's table by scikit-learn: z-scores with 0 for missing, and words one-hot."""
    assert pool.dataset is not None
    table = np.concatenate([np.asarray(pool.dataset.inputs[name], float)[pool.rows] for name in ("numeric", "categorical")], 1)
    transform = make_column_transformer((StandardScaler(), [0, 1, 2]), (OneHotEncoder(sparse_output=False), [3, 4]))
    return np.nan_to_num(transform.fit_transform(table))


@given(seed=SEEDS)
def test_a_table_becomes_z_scores_and_words(pool_of: Make, seed: int) -> None:
    pool = pool_of(seed)
    assert flatten(pool.dataset, pool.rows, 32, 0) == pytest.approx(matrix(pool), abs=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("components", [1, 3])
def test_too_many_columns_become_principal_components(pool_of: Make, components: int) -> None:
    pool = pool_of(0)
    expected = PCA(components, svd_solver="full").fit_transform(matrix(pool))
    assert flatten(pool.dataset, pool.rows, components, 0) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pictures_are_standardised_by_channel(pool_of: Make, dtype: type) -> None:
    pictures = (np.random.default_rng(0).normal([[[[90]], [[20]]]], [[[[9]], [[2]]]], (93, 2, 4, 3))).astype(dtype)
    pool = pool_of(0, schema=IMAGE, inputs={"image": pictures})
    x = pictures[pool.rows].astype(float)
    expected = ((x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)).reshape(60, -1)
    assert flatten(pool.dataset, pool.rows, 24, 0) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


def test_principal_components_may_be_found_on_some_of_the_rows(pool_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (
        np.random.default_rng(0).normal(size=(93, 6))
        * [100, 50, 1, 1, 1, 1]
        @ np.linalg.qr(np.arange(36.0).reshape(6, 6) ** 2)[0]
    )
    pool = pool_of(0, **numbers(x))
    whole = flatten(pool.dataset, pool.rows, 1, 0)  # type: ignore[arg-type]
    monkeypatch.setattr("fuseline.partition.flattening.LARGEST", 6 * 40)
    some = flatten(pool.dataset, pool.rows, 1, 0)  # type: ignore[arg-type]
    assert some.shape == whole.shape
    assert not np.array_equal(some, whole)
    assert abs(np.corrcoef(some[:, 0], whole[:, 0])[0, 1]) > 0.9


@settings(max_examples=10)
@given(seed=SEEDS, members=st.integers(1, 5))
def test_clusters_are_those_of_scikit_learn_from_the_largest(
    pool_of: Make, generators: Generators, seed: int, members: int
) -> None:
    pool = pool_of(seed)
    ours = sets(cluster(pool, generators(members), np.random.default_rng(seed), least=1))
    start = int(np.random.default_rng(seed).integers(2**31))
    labels = KMeans(members, n_init=10, random_state=start).fit_predict(matrix(pool))
    theirs = [pool.rows[labels == k].tolist() for k in range(members)]
    assert ours == sorted(theirs, key=lambda rows: (-len(rows), rows[0]))


def test_clear_clusters_are_found_whatever_the_seed(pool_of: Make, generators: Generators) -> None:
    truth = np.repeat([0, 1, 2], [20, 50, 23])
    x = np.random.default_rng(0).normal(size=(93, 2)) + 30 * np.array([[0, 0], [1, 0], [0, 1]])[truth]
    pool = pool_of(0, **numbers(x))
    for seed in range(3):
        shares = sets(cluster(pool, generators(3), np.random.default_rng(seed)))
        found = [next(m for m, rows in enumerate(shares) if row in rows) for row in pool.rows]
        assert adjusted_rand_score(truth[pool.rows], found) == 1


@pytest.mark.parametrize("kind", ["table", "pictures"])
@pytest.mark.parametrize("components", [2, 32])
def test_no_row_outside_the_pool_has_any_part_in_it(pool_of: Make, generators: Generators, kind: str, components: int) -> None:
    random = np.random.default_rng(0)
    pictures = {"schema": IMAGE, "inputs": {"image": random.integers(0, 99, (93, 2, 4, 3)).astype(np.uint8)}}
    pool = pool_of(4, **(pictures if kind == "pictures" else {}))
    assert pool.dataset is not None
    outside = np.setdiff1d(np.arange(93), pool.rows)
    changed = {name: np.array(array) for name, array in pool.dataset.inputs.items()}
    for name, array in changed.items():
        array[outside] = 0 if name == "categorical" else 250
    before, after = (
        sets(cluster(given, generators(3), np.random.default_rng(0), components=components, overlap=0.2))
        for given in (pool, pool_of(4, **(pictures | {"inputs": changed})) if kind == "pictures" else pool_of(4, inputs=changed))
    )
    assert not np.array_equal(changed["image" if kind == "pictures" else "numeric"][outside][:, 0], [0])
    assert before == after


@settings(max_examples=6)
@given(seed=SEEDS, members=st.integers(2, 4))
def test_units_are_clustered_by_their_means_and_weights(pool_of: Make, generators: Generators, seed: int, members: int) -> None:
    pool = pool_of(seed)
    units = np.random.default_rng(seed).permutation(np.repeat(np.arange(20), np.arange(20) % 5 + 1))
    pool = Pool(pool.rows, pool.strata, units, pool.dataset)
    x = matrix(pool)
    numbers = list(dict.fromkeys(units.tolist()))
    means = np.stack([x[units == unit].mean(0) for unit in numbers])
    start = int(np.random.default_rng(seed).integers(2**31))
    weights = np.bincount(units)[numbers].astype(float)
    labels = KMeans(members, n_init=10, random_state=start).fit_predict(means, sample_weight=weights)
    theirs = [pool.rows[np.isin(units, np.array(numbers)[labels == k])].tolist() for k in range(members)]
    ours = sets(cluster(pool, generators(members), np.random.default_rng(seed), least=1))
    assert ours == sorted(theirs, key=lambda rows: (-len(rows), rows[0]))


@settings(max_examples=10)
@given(seed=SEEDS, overlap=st.sampled_from([0.1, 0.4, 1.0]), unit_size=st.integers(1, 2))
def test_an_overlap_adds_the_nearest_units_from_outside(
    pool_of: Make, generators: Generators, seed: int, overlap: float, unit_size: int
) -> None:
    pool = pool_of(seed, unit_size=unit_size)
    alone = sets(cluster(pool, generators(3), np.random.default_rng(seed)))
    wide = sets(cluster(pool, generators(3), np.random.default_rng(seed), overlap=overlap))
    for inside, both in zip(alone, wide, strict=True):
        added = np.isin(pool.rows, both) & ~np.isin(pool.rows, inside)
        room = overlap * (len(pool.rows) - len(inside))
        assert set(inside) <= set(both)
        assert room - unit_size < added.sum() <= room + 0.5
        assert not set(pool.units[added]) & set(pool.units[~np.isin(pool.rows, both)])
        if overlap == 1:
            assert both == pool.rows.tolist()


def test_the_rows_that_overlap_are_the_nearest(pool_of: Make, generators: Generators) -> None:
    x = np.concatenate([np.linspace(0, 10, 60), np.linspace(20, 25, 33)])[:, None]
    pool = pool_of(0, **numbers(x))
    (low, high), (wide_low, wide_high) = (
        sets(cluster(pool, generators(2), np.random.default_rng(0), overlap=overlap)) for overlap in (0.0, 0.3)
    )
    assert wide_low == [*low, *high[: round(0.3 * len(high))]]
    assert wide_high == [*low[len(low) - round(0.3 * len(low)) :], *high]


def test_a_unit_goes_where_the_mean_of_its_rows_is(pool_of: Make, generators: Generators) -> None:
    x = np.repeat([0.0, 1.0], [60, 33])[:, None]
    pool = pool_of(0, **numbers(x))
    units = np.arange(60)
    low = np.flatnonzero(x[pool.rows, 0] == 0)
    units[[low[0], low[1]]] = units[-1]
    assert x[pool.rows[-1], 0] == 1
    shares = sets(cluster(Pool(pool.rows, pool.strata, units, pool.dataset), generators(2), np.random.default_rng(0)))
    assert shares == [[*pool.rows[: len(low)].tolist(), int(pool.rows[-1])], pool.rows[len(low) : -1].tolist()]


@pytest.mark.parametrize(
    ("x", "members", "settings", "told"),
    [
        (np.arange(93.0) // 60, 3, {}, "the smallest of 3 clusters has 0 training rows, and 'least' is 2"),
        (np.arange(93.0) == 92, 2, {"least": 40}, "and 'least' is 40; use fewer members"),
    ],
    ids=["too few different rows", "too small"],
)
def test_a_cluster_that_is_too_small_is_refused(
    pool_of: Make,
    generators: Generators,
    refusal: Callable[..., str],
    x: np.ndarray,
    members: int,
    settings: dict[str, int],
    told: str,
) -> None:
    pool = pool_of(0, **numbers(x.astype(float)[:, None]))
    assert told in refusal(RecipeError, cluster, pool, generators(members), np.random.default_rng(0), **settings)


def test_fewer_units_than_clusters_are_refused(pool_of: Make, generators: Generators, refusal: Callable[..., str]) -> None:
    pool = pool_of(0, unit_size=30)
    sentence = refusal(RecipeError, cluster, pool, generators(3), np.random.default_rng(0))
    assert sentence.startswith("partition.cluster: 2 different training rows can't form 3 clusters")
