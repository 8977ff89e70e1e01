"""The small residual network: any picture goes in, and it computes what its docstring says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.component import Component, complete
from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.models.resnet import Residual, resnet


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def of(*shape: int) -> Schema:
    return Schema(image=shape, targets={})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (5, 64, 48), (3, 7, 5), (1, 1, 1), (2, 1, 9)])
@pytest.mark.parametrize("features", [None, 9])
def test_as_many_features_as_it_says(shape: tuple[int, int, int], features: int | None) -> None:
    backbone = resnet(of(*shape), widths=(4, 6, 8, 10), features=features).train()
    out = backbone({"image": pictures(3, *shape)})
    assert out.shape == (3, backbone.features)
    assert backbone.features == (features or 10)
    assert out.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_gradients_reach_every_parameter(shape: tuple[int, int, int]) -> None:
    backbone = resnet(of(*shape), widths=(4, 6, 8), blocks=(2, 1), features=5).train()
    backbone({"image": pictures(8, *shape)}).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in backbone.parameters())


def test_the_default_is_page_s_network_of_nine_layers() -> None:
    """Eight convolutions; with a classifier of 512 × 10 it has 6.57 million weights, which is the sum of its layers by hand."""
    backbone = resnet(of(3, 32, 32))
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    pairs = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == pairs
    assert sum(p.numel() for p in backbone.parameters()) == sum(9 * a * b + 2 * b for a, b in pairs)


def test_it_computes_what_its_source_says() -> None:
    """The same network written out by hand, in training mode, with batch statistics."""
    backbone = resnet(of(3, 16, 16), widths=(4, 6, 8), blocks=(1, 0)).train()
    kernels = [module.weight for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    x = pictures(5, 3, 16, 16)

    def layer(x: Tensor, kernel: Tensor) -> Tensor:
        out = F.conv2d(x, kernel, padding=1)
        mean, variance = out.mean((0, 2, 3), keepdim=True), out.var((0, 2, 3), unbiased=False, keepdim=True)
        return ((out - mean) / (variance + 1e-5).sqrt()).clamp(min=0)

    first = F.max_pool2d(layer(layer(x, kernels[0]), kernels[1]), 2)
    first = first + layer(layer(first, kernels[2]), kernels[3])
    second = F.max_pool2d(layer(first, kernels[4]), 2)
    torch.testing.assert_close(backbone({"image": x}), second.amax((2, 3)), rtol=1e-4, atol=1e-5)


def test_a_block_whose_branch_is_shut_changes_nothing() -> None:
    block, x = Residual(4), pictures(2, 4, 3, 3)
    nn.init.zeros_(block.branch[4].weight)  # the scale of its last batch norm
    assert block(x).equal(x)


def test_dropout_is_of_the_features_and_in_training_only() -> None:
    backbone = resnet(of(1, 8, 8), widths=(4, 64), blocks=(0,), features=4096, dropout=0.5)
    x = {"image": pictures(4, 1, 8, 8)}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        dropped = (backbone.train()(x) == 0).float().mean() - (backbone.eval()(x) == 0).float().mean()
    assert 0.15 < dropped < 0.35  # about half of those that the rectifier let through
    assert backbone(x).equal(backbone(x))


@pytest.mark.parametrize("blocks", [(), (1,), (1, 0, 1)])
def test_blocks_are_one_number_a_stage(refusal: Callable[..., str], blocks: tuple[int, ...]) -> None:
    assert "resnet.blocks" in refusal(RecipeError, resnet, of(1, 8, 8), widths=(4, 6, 8), blocks=blocks)


def test_it_needs_pictures(refusal: Callable[..., str]) -> None:
    assert "'resnet'" in refusal(RecipeError, resnet, Schema(numeric=["a"], targets={}))


@pytest.mark.parametrize("settings", [{"widths": []}, {"widths": [0]}, {"blocks": [17]}, {"features": 0}, {"dropout": 1}])
def test_settings_have_bounds(refusal: Callable[..., str], settings: dict[str, Any]) -> None:
    component = Component(name="resnet", settings=settings)
    assert f"a.resnet.{next(iter(settings))}" in refusal(RecipeError, complete, component, {"resnet": resnet}, "a")


def test_completed_settings_build_it() -> None:
    component = complete(Component(name="resnet", settings={"widths": [4, 6], "blocks": [1]}), {"resnet": resnet}, "a")
    assert resnet(of(1, 8, 8), **component.settings).features == 6
