"""Augmentations against a naive implementation, torchvision and what they must leave as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as oracle

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.augmentation import AUGMENTATIONS, affine, colour, crop, erase, flip, shift


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


# ---------------------------------------------------------------------------------------------------------- crop and flip


@given(SIZES, st.integers(1, 3), st.integers(0, 999))
def test_crop_cuts_a_window_out_of_each_mirrored_picture(size: tuple[int, ...], padding: int, seed: int) -> None:
    _, _, h, w = size = (*size[:2], size[2] + 3, size[3] + 3)  # torchvision mirrors once only
    images = pictures(*size, seed=seed)
    out = crop(images, generator(seed), padding=padding)
    assert out.dtype == images.dtype
    whole = oracle.pad(images, [padding] * 4, padding_mode="reflect")
    starts = range(2 * padding + 1)
    for padded, result in zip(whole, out, strict=True):
        assert any(result.equal(oracle.crop(padded, top, left, h, w)) for top in starts for left in starts)


def test_crop_takes_every_window_about_equally_often() -> None:
    n = 7500
    places = torch.arange(100).reshape(1, 1, 10, 10).repeat(n, 1, 1, 1)
    corners = crop(places, generator(1), padding=2)[:, 0, 4, 4]  # the place that lies at (4, 4) tells the window
    counts = corners.bincount(minlength=100).reshape(10, 10)[2:7, 2:7]
    assert counts.sum() == n
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 0.001


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 1), (2, 3)])
def test_crop_mirrors_again_where_the_padding_is_wider_than_the_picture(h: int, w: int) -> None:
    images = pictures(30, 2, h, w)
    whole = torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect"))
    windows = whole.unfold(2, h, 1).unfold(3, w, 1).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    out = crop(images, generator(), padding=5)
    assert (windows == out[:, None]).flatten(2).all(2).any(1).all()


def test_crop_with_zeros_is_shift() -> None:
    images = pictures(20, 3, 8, 9)
    assert crop(images, generator(), padding=3, fill="zero").equal(shift(images, generator(), pixels=3))


def test_flip_swaps_sides_with_its_probabilities() -> None:
    images = pictures(4000, 2, 3, 4)
    out = flip(images, generator(), horizontal=0.7, vertical=0.2)
    assert out.dtype == images.dtype
    across, down = oracle.horizontal_flip, oracle.vertical_flip
    forms = [(images, 0.24), (across(images), 0.56), (down(images), 0.06), (across(down(images)), 0.14)]
    found = [(out == form).flatten(1).all(1) for form, _ in forms]
    assert torch.stack(found).sum(0).eq(1).all()
    assert [float(f.double().mean()) for f in found] == pytest.approx([share for _, share in forms], abs=0.025)


@pytest.mark.parametrize(("p", "form"), [(0.0, lambda x: x), (1.0, oracle.horizontal_flip)])
def test_flip_with_certainty(p: float, form: Callable[[Tensor], Tensor]) -> None:
    images = pictures(50, 1, 3, 4)
    assert flip(images, generator(), horizontal=p).equal(form(images))


# --------------------------------------------------------------------------------------------------------------- erasing


def rectangle(changed: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is changed (H, W), which must be a full rectangle."""
    where = changed.nonzero()
    (top, left), (bottom, right) = where.amin(0).tolist(), (where.amax(0) + 1).tolist()
    assert changed[top:bottom, left:right].all()
    assert len(where) == (bottom - top) * (right - left)
    return top, left, bottom - top, right - left


def chequered(b: int, c: int, h: int, w: int) -> Tensor:
    """Pictures of 0 and a high value alone, so that nothing in them is their mean."""
    high = torch.randint(100, 256, (b, c, 1, 1), generator=generator())
    places = (torch.arange(h)[:, None] + torch.arange(w)) % 2
    return (places * high).to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_erase_fills_one_rectangle_with_the_mean_of_each_channel(dtype: torch.dtype) -> None:
    images = chequered(30, 3, 12, 17).to(dtype)
    out = erase(images, generator(), p=1.0)
    assert out.dtype == dtype
    for picture, result in zip(images, out, strict=True):
        top, left, height, width = rectangle((picture != result).any(0))
        mean = picture.double().mean((1, 2), keepdim=True)
        value = mean.round() if dtype == torch.uint8 else mean
        expected = oracle.erase(picture, top, left, height, width, value.to(dtype))
        assert result.numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_erase_with_noise_stays_within_each_channels_values() -> None:
    images = torch.rand(200, 2, 16, 16, generator=generator()) * torch.tensor([1.0, 50.0]).reshape(1, 2, 1, 1) - 7
    out = erase(images, generator(), p=1.0, fill="noise")
    assert (out.amin((2, 3)) >= images.amin((2, 3)) - 1e-5).all()
    assert (out.amax((2, 3)) <= images.amax((2, 3)) + 1e-5).all()
    for channel, width in ((0, 1.0), (1, 50.0)):
        noise = (out[:, channel][out[:, channel] != images[:, channel]] + 7) / width
        assert stats.kstest(noise.numpy(), stats.uniform(0, 1).cdf).statistic < 0.03


@pytest.mark.parametrize(("h", "w"), [(32, 32), (20, 45)])
def test_erased_rectangles_are_distributed_as_torchvisions(h: int, w: int) -> None:
    n = 1500
    images = torch.zeros(n, 1, h, w)
    images[:, :, ::2, ::2] = 1
    out = erase(images, generator(5), p=1.0)[:, 0]
    boxes = np.array([rectangle(changed) for changed in out != images[:, 0]])
    boxes = boxes[(boxes[:, 2] < h) & (boxes[:, 3] < w)]  # ours may be as long as a side, as in the paper
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [v2.RandomErasing(p=1.0).make_params([images[0]]) for _ in range(n)]
    torchs = np.array([[drawn[key] for key in "ijhw"] for drawn in theirs if drawn["v"] is not None])
    for ours, reference in zip(boxes.T, torchs.T, strict=True):
        assert stats.ks_2samp(ours, reference).pvalue > 0.001
    assert stats.ks_2samp(boxes[:, 2] * boxes[:, 3], torchs[:, 2] * torchs[:, 3]).pvalue > 0.001


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_erase_leaves_as_many_pictures_as_it_should(p: float) -> None:
    images = chequered(3000, 1, 9, 9)
    changed = (erase(images, generator(), p=p) != images).flatten(1).any(1)
    assert float(changed.double().mean()) == pytest.approx(p, abs=0.03)


def test_erased_rectangles_have_the_area_and_the_shape_that_they_are_given() -> None:
    images = chequered(200, 1, 60, 60)
    out = erase(images, generator(), p=1.0, scale=(0.1, 0.2), ratio=(2.0, 3.0))
    _, _, height, width = np.array([rectangle(changed) for changed in (out != images)[:, 0]]).T
    assert ((height / width > 1.85) & (height / width < 3.2)).all()
    assert ((height * width > 0.09 * 3600) & (height * width < 0.21 * 3600)).all()
    assert (height / width).max() - (height / width).min() > 0.8
    assert (height * width).max() - (height * width).min() > 0.08 * 3600


def test_erase_leaves_a_picture_in_which_no_rectangle_fits() -> None:
    images = chequered(50, 1, 10, 10)
    assert erase(images, generator(), p=1.0, scale=(0.9, 0.95), ratio=(50.0, 100.0)).equal(images)


@pytest.mark.parametrize("shape", [(50, 1, 1, 1), (50, 2, 1, 30), (50, 1, 2, 2)])
def test_erase_takes_pictures_of_any_size(shape: tuple[int, ...]) -> None:
    images = chequered(*shape)
    out = erase(images, generator(), p=1.0, scale=(0.5, 0.9), ratio=(0.01, 100.0))
    assert out.shape == shape
    assert (out != images).flatten(1).any(1).any() == (shape[3] > 1)


# ---------------------------------------------------------------------------------------------------------------- colour


def test_brightness_is_torchvisions_with_the_same_factor() -> None:
    images = pictures(40, 3, 6, 5)
    darkest = images.float().flatten(1).argsort(1)[:, :40]
    out = colour(images, generator(), brightness=0.6, contrast=0.0)
    factors = out.flatten(1).gather(1, darkest).sum(1) / images.float().flatten(1).gather(1, darkest).sum(1)
    for picture, result, factor in zip(images, out, factors.tolist(), strict=True):
        assert result.numpy() == pytest.approx(oracle.adjust_brightness(picture, factor).float().numpy(), abs=1.001)
    assert 0.4 <= factors.min() < 0.5
    assert 1.5 < factors.max() <= 1.6
    assert out.max() == 255


def test_contrast_is_torchvisions_with_the_same_factor() -> None:
    images = torch.rand(40, 1, 6, 5, generator=generator()) * 0.2 + 0.4  # far from 0 and 1, where torchvision cuts off
    out = colour(images, generator(), brightness=0.0, contrast=0.5)
    factors = out.std((1, 2, 3)) / images.std((1, 2, 3))
    for picture, result, factor in zip(images, out, factors.tolist(), strict=True):
        assert result.numpy() == pytest.approx(oracle.adjust_contrast(picture, factor).numpy(), abs=1e-5)
    assert 0.5 <= factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5


def test_colour_of_floats_is_not_cut_off() -> None:
    images = torch.randn(30, 3, 8, 8, generator=generator()) * 1000
    out = colour(images, generator())
    for picture, result in zip(images.double(), out.double(), strict=True):
        slope = (result - result.mean()).std() / (picture - picture.mean()).std()
        bright = result.mean() / picture.mean()
        assert 0.8**2 <= slope <= 1.2**2
        assert 0.8 <= bright <= 1.2
        expected = bright * picture.mean() + slope * (picture - picture.mean())
        assert result.numpy() == pytest.approx(expected.numpy(), abs=0.01)


# ------------------------------------------------------------------------------------------------------------- all of them


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
    assert len({tuple(picture.flatten().tolist()) for picture in out}) > (1 if name == "flip" else 5)


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
        ("crop", {"padding": 0}),
        ("crop", {"fill": "mean"}),
        ("flip", {"horizontal": 1.1}),
        ("erase", {"p": -0.1}),
        ("erase", {"scale": [0.1]}),
        ("erase", {"ratio": [0, 1]}),
        ("erase", {"fill": "zero"}),
        ("colour", {"brightness": 1}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), AUGMENTATIONS, "members.0.augment.0")
    assert f"members.0.augment.0.{name}.{next(iter(settings))}" in sentence
