"""Random streams: equal to spawning step by step, unchanged by siblings, and distinct (invariant 6)."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuseline.seeding import EVALUATION, FUSION, MEMBERS, PARTITION, stream, torch_seed

SEEDS = st.integers(0, 2**64)
PATHS = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)


def spawned(seed: int, path: tuple[int, ...], siblings: int) -> np.random.SeedSequence:
    """The child at a path by ``SeedSequence.spawn`` alone, with so many younger siblings at each step."""
    sequence = np.random.SeedSequence(seed)
    for step in path:
        sequence = sequence.spawn(step + 1 + siblings)[step]
    return sequence


def numbers(sequence: np.random.SeedSequence) -> list[int]:
    return [int(word) for word in sequence.generate_state(8)]


@given(SEEDS, PATHS, st.integers(0, 3))
def test_a_stream_equals_spawning_whatever_the_number_of_siblings(seed: int, path: tuple[int, ...], siblings: int) -> None:
    assert numbers(stream(seed, *path)) == numbers(spawned(seed, path, siblings))


@given(SEEDS, PATHS, PATHS)
def test_different_paths_have_different_streams(seed: int, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert (numbers(stream(seed, *one)) == numbers(stream(seed, *other))) is (one == other)


@given(SEEDS, SEEDS, PATHS)
def test_different_seeds_have_different_streams(one: int, other: int, path: tuple[int, ...]) -> None:
    assert (numbers(stream(one, *path)) == numbers(stream(other, *path))) is (one == other)


def test_the_streams_of_a_large_run_are_all_distinct() -> None:
    paths = [(purpose,) for purpose in (PARTITION, FUSION, EVALUATION)]
    paths += [(MEMBERS, *rest) for rest in itertools.product(range(8), range(16), range(6))]
    seeds = {torch_seed(stream(0, *path)) for path in paths}
    assert len(seeds) == len(paths) == 3 + 8 * 16 * 6


def test_purposes_are_distinct() -> None:
    assert len({MEMBERS, PARTITION, FUSION, EVALUATION}) == 4


@given(SEEDS, PATHS)
def test_a_torch_seed_is_fit_for_a_generator_and_repeats(seed: int, path: tuple[int, ...]) -> None:
    value = torch_seed(stream(seed, *path))
    assert 0 <= value < 2**63
    assert value == torch_seed(stream(seed, *path))
    assert torch.Generator().manual_seed(value).initial_seed() == value
