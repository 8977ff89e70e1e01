"""Mixings against torchvision's arithmetic, and the laws of what they draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from fuseline.component import Component, complete
from fuseline.errors import RecipeError
from fuseline.training.mixing import MIXINGS, cutmix, mixup

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
LABELS = torch.zeros(2, dtype=torch.int64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8).to(dtype)


def pasted(b: int, h: int, w: int, seed: int = 0, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Where each picture's rectangle is (B, H, W), and its share: every picture has a colour of its own."""
    images = torch.arange(b).reshape(b, 1, 1, 1).repeat(1, 1, h, w)
    mixed = cutmix(images, generator(seed), alpha=alpha)
    return (mixed.images != images)[:, 0], mixed.share


@pytest.mark.parametrize("name", MIXINGS)
@given(size=SIZES, seed=st.integers(0, 999))
def test_partners_are_a_permutation_and_shares_are_shares(name: str, size: tuple[int, ...], seed: int) -> None:
    mixed = MIXINGS[name](pictures(*size, seed=seed), generator(seed))
    assert mixed.images.shape == size
    assert mixed.partner.dtype == torch.int64
    assert sorted(mixed.partner.tolist()) == list(range(size[0]))
    assert mixed.share.dtype == torch.float32
    assert mixed.share.shape == size[:1]
    assert ((mixed.share >= 0) & (mixed.share <= 1)).all()


@given(SIZES, st.integers(0, 999), st.floats(0.05, 5))
def test_mixup_is_torchvisions_with_the_same_share(size: tuple[int, ...], seed: int, alpha: float) -> None:
    images = pictures(*size, seed=seed)
    mixed = mixup(images, generator(seed), alpha=alpha)
    assert mixed.images.dtype == torch.float32
    for row, share in enumerate(mixed.share.tolist()):
        pair = images[[int(mixed.partner[row]), row]].float()
        expected = v2.MixUp().transform(pair, {"lam": share, "labels": LABELS, "batch_size": 2})[1]
        assert mixed.images[row].numpy() == pytest.approx(expected.numpy(), abs=1e-3)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_are_beta_distributed_and_each_picture_has_its_own(alpha: float) -> None:
    share = mixup(torch.zeros(5000, 1, 1, 1), generator(), alpha=alpha).share
    assert stats.kstest(share.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.01, 0.05, 100.0])
def test_shares_at_the_bounds_of_alpha_are_numbers(alpha: float) -> None:
    share = mixup(torch.zeros(2000, 1, 1, 1), generator(), alpha=alpha).share
    assert share.isfinite().all()
    assert float(share.mean()) == pytest.approx(0.5, abs=0.05)


@given(SIZES, st.integers(0, 999), st.floats(0.05, 5))
def test_cutmix_is_torchvisions_with_the_same_rectangle(size: tuple[int, ...], seed: int, alpha: float) -> None:
    b, _, h, w = size
    images = pictures(*size, seed=seed)
    mixed = cutmix(images, generator(seed), alpha=alpha)
    assert mixed.images.dtype == torch.uint8
    places, share = pasted(b, h, w, seed, alpha)
    assert share.equal(mixed.share)
    for row, place in enumerate(places):
        if int(mixed.partner[row]) == row:
            assert mixed.images[row].equal(images[row])
            continue
        where = place.nonzero()
        top, left = where.amin(0).tolist() if len(where) else (0, 0)
        bottom, right = (where.amax(0) + 1).tolist() if len(where) else (0, 0)
        settings = {"box": (left, top, right, bottom), "labels": LABELS, "batch_size": 2}
        expected = v2.CutMix().transform(images[[int(mixed.partner[row]), row]], settings)[1]
        assert mixed.images[row].equal(expected)
        assert float(mixed.share[row]) == pytest.approx(1 - (bottom - top) * (right - left) / (h * w))


@pytest.mark.parametrize(("alpha", "h", "w"), [(0.3, 32, 32), (1.0, 20, 45)])
def test_the_rectangles_of_cutmix_are_distributed_as_torchvisions(alpha: float, h: int, w: int) -> None:
    n = 2000
    places, share = pasted(n, h, w, seed=1, alpha=alpha)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = v2.CutMix(alpha=alpha)
        drawn = [theirs.make_params([torch.zeros(1, 1, h, w)]) for _ in range(n)]
    assert stats.ks_2samp(share.numpy(), [each["lam_adjusted"] for each in drawn]).pvalue > 0.001
    covered = torch.zeros(h, w)
    for left, top, right, bottom in (each["box"] for each in drawn):
        covered[top:bottom, left:right] += 1 / n
    assert places.float().mean(0).numpy() == pytest.approx(covered.numpy(), abs=0.07)


@pytest.mark.parametrize("name", MIXINGS)
def test_the_loss_of_both_targets_is_the_loss_of_the_mixed_target(name: str) -> None:
    """For a loss that is linear in the target, as cross-entropy: Zhang et al. 2018 mix the targets themselves."""
    torch.manual_seed(0)
    mixed = MIXINGS[name](pictures(16, 1, 8, 8), generator())
    y, logits = torch.randint(0, 3, (16,)), torch.randn(16, 3)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    ours = mixed.share * loss(logits, y) + (1 - mixed.share) * loss(logits, y[mixed.partner])
    codes = torch.eye(3)[y]
    targets = mixed.share[:, None] * codes + (1 - mixed.share[:, None]) * codes[mixed.partner]
    assert ours.numpy() == pytest.approx(loss(logits, targets).numpy(), rel=1e-5)


@pytest.mark.parametrize("name", MIXINGS)
def test_the_generator_alone_decides(name: str) -> None:
    images, function = pictures(8, 1, 9, 9), MIXINGS[name]
    before, state = images.clone(), torch.get_rng_state()
    one, same, other = (function(images, generator(seed)) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(one, same, strict=True))
    assert not one.images.equal(other.images)
    assert images.equal(before)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name", MIXINGS)
def test_the_result_is_where_the_pictures_are(name: str) -> None:
    """Without a GPU, torch's ``meta`` device shows whether a function mixes devices."""
    assert {x.device.type for x in MIXINGS[name](pictures(8, 3, 9, 7).to("meta"), generator())} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MIXINGS)
def test_pictures_on_a_gpu_are_mixed_there(name: str) -> None:
    images = pictures(8, 3, 9, 7)
    here, there = MIXINGS[name](images, generator()), MIXINGS[name](images.cuda(), generator())
    for one, other in zip(here, there, strict=True):
        assert other.is_cuda
        assert other.cpu().float().numpy() == pytest.approx(one.float().numpy(), abs=1e-3)


@pytest.mark.parametrize(("name", "settings"), [("mixup", {"alpha": 0}), ("cutmix", {"alpha": 101}), ("cutmix", {"p": 1})])
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), MIXINGS, "members.0.mixing")
    assert f"members.0.mixing.{name}.{next(iter(settings))}" in sentence
