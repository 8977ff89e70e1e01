"""Augmentations against a naive implementation, torchvision and what they must leave as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.augmentation import AUGMENTATIONS, affine, shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(1, 256, shape, generator=generator(seed), dtype=torch.uint8)


def moved(picture: Tensor, down: int, right: int) -> Tensor:
    """One picture (C, H, W), moved pixel by pixel; what comes in from outside is 0."""
    _, height, width = picture.shape
    out = torch.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[:, y, x] = picture[:, y - down, x - right]
    return out


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@given(SIZES, st.integers(1, 3), st.integers(0, 999))
def test_shift_moves_each_picture_by_whole_pixels(size: tuple[int, ...], pixels: int, seed: int) -> None:
    images = pictures(*size, seed=seed)
    out = shift(images, generator(seed), pixels=pixels)
    steps = range(-pixels, pixels + 1)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    for picture, result in zip(images, out, strict=True):
        assert any(result.equal(moved(picture, down, right)) for down in steps for right in steps)


def test_shift_takes_every_way_about_equally_often_and_independently() -> None:
    n = 9000
    dot = torch.zeros(n, 1, 5, 5)
    dot[:, 0, 2, 2] = 1
    out = shift(dot, generator(), pixels=1)
    counts = out.sum((0, 1))
    assert counts.sum() == n
    assert counts[1:4, 1:4].flatten().tolist() == pytest.approx([n / 9] * 9, rel=0.15)


def test_shift_brings_in_nothing_but_zeros() -> None:
    images = pictures(40, 2, 4, 4)
    out = shift(images, generator(), pixels=6)
    values = [set(picture.flatten().tolist()) for picture in images]
    assert all(set(result.flatten().tolist()) <= kept | {0} for result, kept in zip(out, values, strict=True))
    assert (out == 0).any()


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 7, 5), (2, 1, 1, 1)])
def test_affine_without_any_freedom_changes_nothing(shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    out = affine(images, generator(), degrees=0, scale=0, shear=0)
    assert out.numpy() == pytest.approx(images.float().numpy(), abs=1e-3)


@pytest.mark.parametrize("shape", [(33, 33), (17, 41), (41, 17)])
def test_turning_keeps_the_distance_from_the_middle(shape: tuple[int, int]) -> None:
    height, width = shape
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    blob = torch.exp(-((x - 4) ** 2 + y**2) / 4).repeat(30, 1, 1, 1)
    out = affine(blob, generator(), degrees=180, scale=0, shear=0)[:, 0]
    mass = out.sum((1, 2))
    down, right = ((out * axis).sum((1, 2)) / mass for axis in (y, x))
    assert torch.hypot(down, right).tolist() == pytest.approx([4.0] * 30, abs=0.05)
    angles = torch.atan2(down, right)
    assert angles.max() - angles.min() > 4  # it does turn


def test_turning_stays_within_its_degrees() -> None:
    axis = torch.arange(33) - 16.0
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    blob = torch.exp(-((x - 9) ** 2 + y**2) / 4).repeat(200, 1, 1, 1)
    out = affine(blob, generator(), degrees=30, scale=0, shear=0)[:, 0]
    angles = torch.rad2deg(torch.atan2((out * y).sum((1, 2)), (out * x).sum((1, 2))))
    assert angles.abs().max() <= 30.5
    assert angles.max() > 25
    assert angles.min() < -25


def test_scaling_stays_within_its_bounds() -> None:
    square = torch.zeros(200, 1, 41, 41)
    square[:, :, 10:31, 10:31] = 1
    areas = affine(square, generator(), degrees=0, scale=0.2, shear=0).sum((1, 2, 3)) / 441
    assert areas.max() <= 1.2**2 + 0.02
    assert areas.min() >= 0.8**2 - 0.02
    assert areas.max() > 1.3
    assert areas.min() < 0.75


def test_shearing_slants_rows_and_leaves_the_area() -> None:
    bar = torch.zeros(50, 1, 41, 41)
    bar[:, :, 12:29, 19:22] = 1
    out = affine(bar, generator(), degrees=0, scale=0, shear=0.5)[:, 0]
    assert out.sum((1, 2)).tolist() == pytest.approx([51.0] * 50, rel=1e-3)
    assert out.sum(2)[:, 13:28].flatten().tolist() == pytest.approx([3.0] * 50 * 15, rel=1e-3)
    assert (out.sum(1) > 0.5).sum(1).max() > 6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_alone_decides(name: str) -> None:
    images, function = pictures(8, 1, 9, 9), AUGMENTATIONS[name]
    before, state = images.clone(), torch.get_rng_state()
    one, same, other = (function(images, generator(seed)) for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)
    assert images.equal(before)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_pictures_of_one_batch_are_changed_each_on_its_own(name: str) -> None:
    out = AUGMENTATIONS[name](pictures(1, 1, 9, 9).repeat(20, 1, 1, 1), generator())
    assert len({tuple(picture.flatten().tolist()) for picture in out}) > 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_pictures_on_a_gpu_are_changed_there(name: str) -> None:
    images = pictures(8, 3, 9, 7)
    out = AUGMENTATIONS[name](images.cuda(), generator())
    assert out.is_cuda
    assert out.cpu().float().numpy() == pytest.approx(AUGMENTATIONS[name](images, generator()).float().numpy(), abs=1e-2)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_result_is_where_the_pictures_are(name: str) -> None:
    """Without a GPU, torch's ``meta`` device shows whether a function mixes devices."""
    assert AUGMENTATIONS[name](pictures(8, 3, 9, 7).to("meta"), generator()).device.type == "meta"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("shift", {"pixels": 0}),
        ("shift", {"pixels": 65}),
        ("affine", {"degrees": 181}),
        ("affine", {"scale": 1}),
        ("affine", {"shear": -0.1}),
        ("affine", {"pixels": 1}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), AUGMENTATIONS, "members.0.augment.0")
    assert f"members.0.augment.0.{name}.{next(iter(settings))}" in sentence
