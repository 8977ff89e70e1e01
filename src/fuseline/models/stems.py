"""Stems of torchvision's models for small pictures and for any number of channels.

Most models halve a picture five times, twice of it in the stem: at 32×32 one pixel is left. The small stem spares the first two
halvings, so that 32×32 ends at 4×4: a first convolution of 3×3 with stride 1 (He et al. 2016, "Deep residual learning", section
4.2) and no early max pool. Where the first layers' kernels stay as they are, only their strides change, and trained weights fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from fuseline.errors import RecipeError

Stem = Literal["auto", "original", "small"]
Size = tuple[int, int]

SMALL = 64
"""Pictures whose shorter side is less get the small stem, if a recipe leaves the choice."""


def convolution(model: nn.Module, path: str) -> nn.Conv2d:
    """The convolution at a path."""
    return cast(nn.Conv2d, model.get_submodule(path))


def first_convolution(model: nn.Module) -> str:
    """The path of the layer that reads the picture."""
    return next(str(path) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))


def replace_convolution(model: nn.Module, path: str, kernel: int, stride: int, padding: int, channels: int | None = None) -> None:
    """Put a fresh convolution in the place of another, by default with as many channels.

    Its weights are drawn from N(0, 2 / (kernel² · channels out)), He et al. 2015, "Delving deep into rectifiers", equation 14.
    """
    old = convolution(model, path)
    bias = old.bias is not None
    new = nn.Conv2d(channels or old.in_channels, old.out_channels, kernel, stride, padding, bias=bias)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    model.set_submodule(path, new)


def set_channels(model: nn.Module, channels: int) -> None:
    """Let a model read pictures of so many channels; a model of three channels stays as it is."""
    path = first_convolution(model)
    old = convolution(model, path)
    if channels != old.in_channels:
        replace_convolution(model, path, old.kernel_size[0], old.stride[0], cast(int, old.padding[0]), channels)


def spread_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights (O, I, k, k) of a first convolution for another number of channels, so that what it gives keeps its scale.

    One channel reads Σᵢ W[:, i], so that a grey picture gives what it gave in I equal channels; otherwise channel j reads
    W[:, j mod I] · I / channels. Both as timm does (Wightman 2019, "PyTorch image models", ``adapt_input_conv``).

    >>> spread_channels(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), 4).flatten().tolist()
    [0.75, 1.5, 2.25, 0.75]
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    before = weight.shape[1]
    return weight[:, torch.arange(channels) % before] * (before / channels)


def keep_size(blocks: Iterable[nn.Module], halvings: int = 2) -> None:
    """Give stride 1 to the first ``halvings`` blocks that hold a convolution of stride 2."""
    for block in blocks:
        strided = [module for module in block.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
        for module in strided:
            module.stride = (1, 1)
        halvings -= bool(strided)
        if not halvings:
            return


def _remove(model: nn.Module, *paths: str) -> None:
    for path in paths:
        model.set_submodule(path, nn.Identity())


def _short_classifier(model: nn.Module) -> None:
    """Global average pooling and one layer instead of the hidden layers of 4096, which are for maps of 7×7."""
    width = [module for module in model.modules() if isinstance(module, nn.Conv2d)][-1].out_channels
    dropout = next(module.p for module in model.get_submodule("classifier").modules() if isinstance(module, nn.Dropout))
    model.set_submodule("avgpool", nn.AdaptiveAvgPool2d(1))
    model.set_submodule("classifier", nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 1)))


def _resnet(model: nn.Module) -> None:
    replace_convolution(model, "conv1", 3, 1, 1)
    _remove(model, "maxpool")


def _densenet(model: nn.Module) -> None:
    replace_convolution(model, "features.conv0", 3, 1, 1)
    _remove(model, "features.pool0")


def _alexnet(model: nn.Module) -> None:
    replace_convolution(model, "features.0", 3, 1, 1)
    _remove(model, "features.2")
    for pool in (module for module in model.modules() if isinstance(module, nn.MaxPool2d)):
        pool.padding = 1
    _short_classifier(model)


def _vgg(model: nn.Module) -> None:
    """The first convolution has stride 1 already; the five pools stay, and leave a pixel of any picture."""
    for pool in (module for module in model.modules() if isinstance(module, nn.MaxPool2d)):
        pool.ceil_mode = True
    _short_classifier(model)


def _squeezenet(model: nn.Module) -> None:
    replace_convolution(model, "features.0", 3, 1, 1)
    _remove(model, "features.2")


def _googlenet(model: nn.Module) -> None:
    replace_convolution(model, "conv1.conv", 3, 1, 1)
    _remove(model, "maxpool1", "maxpool2")


def _inception(model: nn.Module) -> None:
    """Its first convolutions have no padding; with it they keep a picture's size."""
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3"):
        layer = convolution(model, f"{name}.conv")
        layer.stride, layer.padding = (1, 1), (1, 1)
    _remove(model, "maxpool1", "maxpool2")


def _mobile(model: Any) -> None:
    """The first convolution is 3×3 already, and the second halving is in a block further on."""
    keep_size((model.layers if hasattr(model, "layers") else model.features).children())


def _regnet(model: nn.Module) -> None:
    keep_size([model.get_submodule("stem"), *model.get_submodule("trunk_output").children()])


def _shufflenet(model: nn.Module) -> None:
    keep_size([model.get_submodule("conv1")], halvings=1)
    _remove(model, "maxpool")


def _convnext(model: nn.Module) -> None:
    replace_convolution(model, "features.0.0", 3, 1, 1)


def _vit(model: Any) -> None:
    """Patches of 4×4. The number of patches was settled when the model was built (``vision.build_model``)."""
    patch: int = model.patch_size
    replace_convolution(model, "conv_proj", 4, 4, 0)
    weight = convolution(model, "conv_proj").weight
    nn.init.trunc_normal_(weight, std=weight[0].numel() ** -0.5)  # as torchvision draws it: no rectifier follows
    model.image_size, model.patch_size = model.image_size // patch * 4, 4


def _swin(model: Any) -> None:
    """Patches of 2×2 and windows of 4×4 instead of 7×7, which a map of 16×16 or less would not fill."""
    replace_convolution(model, "features.0.0", 2, 2, 0)
    for module in model.modules():
        if hasattr(module, "define_relative_position_index"):
            module.window_size = [4, 4]
            module.shift_size = [2 * (shift > 0) for shift in module.shift_size]
            module.define_relative_position_bias_table()
            module.define_relative_position_index()


def _maxvit(model: nn.Module) -> None:
    """The stem and the first block keep the size; the windows were settled when the model was built (``vision.build_model``)."""
    first = model.get_submodule("blocks.0.layers.0")
    keep_size([model.get_submodule("stem"), first])
    _remove(first, "layers.MBconv.proj.0")  # the shortcut's average pool


class Family(NamedTuple):
    """The sides of the smallest picture that a family takes, with its own stem and with the small one, which ``adapt`` makes."""

    original: int
    small: int
    adapt: Callable[[nn.Module], None]


FAMILIES: dict[str, Family] = {
    "alexnet": Family(63, 1, _alexnet),
    "convnext": Family(32, 8, _convnext),
    "densenet": Family(29, 8, _densenet),
    "efficientnet": Family(1, 1, _mobile),
    "googlenet": Family(15, 2, _googlenet),
    "inception": Family(75, 7, _inception),
    "maxvit": Family(1, 1, _maxvit),
    "mnasnet": Family(1, 1, _mobile),
    "mobilenet": Family(1, 1, _mobile),
    "regnet": Family(1, 1, _regnet),
    "resnet": Family(1, 1, _resnet),
    "resnext": Family(1, 1, _resnet),
    "shufflenet": Family(1, 1, _shufflenet),
    "squeezenet1_0": Family(21, 4, _squeezenet),
    "squeezenet1_1": Family(17, 4, _squeezenet),
    "swin": Family(4, 2, _swin),
    "vgg": Family(32, 1, _vgg),
    "vit": Family(1, 4, _vit),
    "wide_resnet": Family(1, 1, _resnet),
}


def family(name: str) -> Family | None:
    """The family of a model of torchvision, or none if it has none that is known here."""
    return next((its for prefix, its in FAMILIES.items() if name.startswith(prefix)), None)


def use_small_stem(name: str, size: Size, stem: Stem) -> bool:
    """Whether pictures (H, W) get the small stem.

    Raises:
        RecipeError: the model can't take pictures of this size.
    """
    its = family(name)
    assert its is not None
    side = min(size)
    small = stem == "small" or (stem == "auto" and side < max(SMALL, its.original))
    least = its.small if small else its.original
    if side < least:
        raise RecipeError(f"{name} needs pictures of {least}×{least} or more with this stem, and these have {size[0]}×{size[1]}.")
    if name.startswith("vit"):
        patch = 4 if small else int(name.rsplit("_")[-1])
        if size[0] != size[1] or side % patch:
            raise RecipeError(
                f"{name} needs square pictures whose side is a multiple of {patch}, and these have {size[0]}×{size[1]}."
            )
    return small
