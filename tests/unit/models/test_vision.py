"""torchvision's models as backbones, against torchvision's own models with the same weights.

Large models are built on the meta device, where a tensor has a shape and no numbers.
"""

from __future__ import annotations

import ast
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.regnet import BlockParams

from fuseline.component import Component, complete
from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.models import vision
from fuseline.models.stems import FAMILIES, family, first_convolution, spread_channels
from fuseline.models.vision import Vision, torchvision_models

ALL = models.list_models(module=models)
SMALLEST = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenet": "mobilenet_v3_small",
    "regnet": "regnet_x_400mf",
    "resnet": "resnet18",
    "resnext": "resnext50_32x4d",
    "shufflenet": "shufflenet_v2_x0_5",
    "squeezenet1_0": "squeezenet1_0",
    "squeezenet1_1": "squeezenet1_1",
    "swin": "swin_t",
    "vgg": "vgg11",
    "vit": "vit_b_16",
    "wide_resnet": "wide_resnet50_2",
}
LIGHT = [*(SMALLEST[name] for name in SMALLEST if name not in ("vit", "wide_resnet")), "mobilenet_v2", "efficientnet_v2_s"]
"""A model or more of each family, but for two that are too large: one is a resnet, and the other has a test of its own."""
LIMITED = [SMALLEST[prefix] for prefix, its in FAMILIES.items() if its.original > 1] + ["resnet18", "mobilenet_v3_small"]
BODIES = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "regnet_x_400mf"]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that is built has no numbers; regnets compute their widths with tensors, which must have some."""
    widths = BlockParams.from_init_params.__func__

    def on_cpu(cls: type[BlockParams], **settings: Any) -> BlockParams:
        with torch.device("cpu"):
            made: BlockParams = widths(cls, **settings)
        return made

    monkeypatch.setattr(BlockParams, "from_init_params", classmethod(on_cpu))
    for name in vars(nn.init):
        if name.endswith("_") and not name.startswith("_"):  # there is nothing to fill, and it takes half of the time
            monkeypatch.setattr(nn.init, name, lambda tensor, *args, **settings: tensor)
    with torch.device("meta"), torch.no_grad():
        yield


def of(*shape: int) -> Schema:
    return Schema(image=shape, targets={})


def built(name: str, *shape: int, **settings: Any) -> Any:
    return torchvision_models()[name](of(*shape), **settings)


def features(backbone: nn.Module, x: Tensor) -> Tensor:
    """The features alone, without those of auxiliary branches."""
    out = backbone({"image": x})
    return out[0] if isinstance(out, tuple) else out


def moved(model: nn.Module) -> None:
    """Give batch norms statistics and scales that are not those of an untouched layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)


def test_every_classification_model_of_torchvision_is_there() -> None:
    assert list(torchvision_models()) == ALL
    assert len(ALL) >= 80
    assert [f.__name__ for f in torchvision_models().values()] == ALL
    assert torchvision_models() is torchvision_models()  # settings are checked by functions that stay the same
    assert {prefix for prefix in FAMILIES if family(SMALLEST[prefix]) is FAMILIES[prefix]} == set(FAMILIES)


@pytest.mark.usefixtures("meta")
@pytest.mark.parametrize("name", ALL)
def test_every_model_gives_as_many_features_as_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch_norm(x: Tensor, mean: Tensor, *settings: Any) -> Tensor:
        assert x.shape[1:2] == mean.shape
        return x

    monkeypatch.setattr(F, "batch_norm", batch_norm)  # a shape goes through unchanged, and torch takes long to say so
    backbone = built(name, 3, 32, 32).eval()
    assert backbone({"image": torch.empty(2, 3, 32, 32)}).shape == (2, backbone.features)


def light(name: str, *shape: int) -> Any:
    """A model with numbers. Those that are large before their classifier is taken off get theirs after that."""
    if name not in ("alexnet", "vgg11"):
        return built(name, *shape, dropout=0.0)
    with torch.device("meta"):
        backbone = built(name, *shape, dropout=0.0)
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to_empty(device="cpu").reset_parameters()
    return backbone


@pytest.mark.parametrize("name", LIGHT)
def test_gradients_reach_every_parameter_and_one_channel_is_enough(name: str) -> None:
    backbone = light(name, 1, 16, 16).train()
    for module in backbone.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if hasattr(module, "layer_scale"):
            nn.init.ones_(module.layer_scale)
    out = backbone({"image": torch.randn(2, 1, 16, 16)})
    parts = [out[0], *out[1]] if isinstance(out, tuple) else [out]
    assert all(bool(part.isfinite().all()) for part in parts)
    sum((part * torch.randn_like(part)).sum() for part in parts).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.parameters())
    first = backbone.model.get_submodule(first_convolution(backbone.model)).weight.grad
    assert float(first.abs().sum()) > 0


@pytest.mark.usefixtures("meta")
@pytest.mark.parametrize("name", SMALLEST.values())
def test_pictures_may_have_any_number_of_channels_and_any_sides(name: str) -> None:
    shape = (5, 20, 20) if name == "vit_b_16" else (5, 28, 44)
    backbone = built(name, *shape).train()
    assert features(backbone, torch.empty(2, *shape)).shape == (2, backbone.features)


@pytest.mark.parametrize("stem", ["small", "original"])
@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.usefixtures("meta")
def test_the_smallest_picture_is_the_one_that_the_message_says(refusal: Callable[..., str], name: str, stem: str) -> None:
    its = family(name)
    least = its.small if stem == "small" else its.original
    backbone = built(name, 3, least, least, stem=stem).train()
    assert features(backbone, torch.empty(2, 3, least, least)).shape == (2, backbone.features)
    if least > 1:
        assert str(least) in refusal(RecipeError, built, name, 3, least - 1, least, stem=stem)
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            features(
                Vision(name, (3, least - 1, least - 1), None, stem == "small", None), torch.empty(2, 3, least - 1, least - 1)
            )


@pytest.mark.usefixtures("meta")
@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mobilenet_v2", "efficientnet_b0", "regnet_x_400mf", "convnext_tiny"]
)
def test_the_small_stem_ends_with_a_map_an_eighth_as_wide(name: str) -> None:
    maps: list[Tensor] = []
    backbone = built(name, 3, 32, 32).eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda _m, _i, out: maps.append(out))
    features(backbone, torch.empty(2, 3, 32, 32))
    wide = [out for out in maps if out.shape[-1] > 1]  # squeeze and excitation has maps of one pixel
    assert wide[-1].shape[-2:] == (4, 4)


@pytest.mark.usefixtures("meta")
def test_the_stem_goes_by_the_size_unless_it_is_told() -> None:
    kernel = {
        (side, stem): built("resnet18", 3, side, side, stem=stem).model.conv1.kernel_size[0]
        for side in (63, 64)
        for stem in ("auto", "original", "small")
    }
    assert kernel == {(63, "auto"): 3, (64, "auto"): 7} | {
        (s, stem): k for s in (63, 64) for stem, k in [("original", 7), ("small", 3)]
    }
    assert built("inception_v3", 3, 70, 70).small  # its own stem can't take that
    assert not built("inception_v3", 3, 75, 75).small


@pytest.mark.parametrize("name", BODIES)
def test_features_are_what_torchvision_s_own_classifier_reads(tmp_path: Path, name: str) -> None:
    """With the same weights, which are read from a file of torchvision's own model."""
    own = models.get_model(name, weights=None).eval()
    moved(own)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    backbone = built(name, 3, 64, 64, weights=str(tmp_path / "own.safetensors"), stem="original").eval()
    backbone.load_pretrained()
    theirs = own.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in backbone.model.state_dict().items())
    seen: list[Tensor] = []
    last = [m for m in own.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        own(x)
        read = seen[0] if seen[0].ndim == 2 else seen[0].mean((2, 3))  # squeezenet's classifier is a convolution
        torch.testing.assert_close(features(backbone, x), read, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("meta")
@pytest.mark.parametrize("name", SMALLEST.values())
def test_the_original_stem_has_torchvision_s_weights_but_the_classifier(name: str) -> None:
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    whole = models.get_model(name, weights=None, **options)
    own = whole.state_dict()
    last = [m for m in whole.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    backbone = built(name, 3, 224, 224)
    assert backbone.features == (last.in_features if isinstance(last, nn.Linear) else last.in_channels)
    mine = backbone.model.state_dict()
    assert {key: value.shape for key, value in mine.items()}.items() <= {key: value.shape for key, value in own.items()}.items()
    assert not [key for key in set(own) - set(mine) if not key.startswith((*vision.CLASSIFIERS, "AuxLogits.", "aux"))]


@pytest.mark.usefixtures("meta")
def test_the_small_maxvit_is_torchvision_s_but_for_its_windows() -> None:
    own = models.maxvit_t(weights=None).state_dict()
    mine = built("maxvit_t", 3, 32, 32).model.state_dict()
    differ = {key for key in mine if mine[key].shape != own[key].shape}
    assert set(own) - set(mine) == {"classifier.5.weight"}
    assert differ
    assert all("relative_position" in key for key in differ)


@pytest.mark.parametrize(
    ("name", "shape", "branches"),
    [
        ("googlenet", (1, 28, 28), [(1024, 0.3), (1024, 0.3)]),
        ("inception_v3", (3, 32, 32), [(768, 0.4)]),
        ("inception_v3", (1, 11, 11), [(768, 0.4)]),
        ("inception_v3", (1, 10, 10), []),
        ("inception_v3", (3, 299, 299), [(768, 0.4)]),
        ("inception_v3", (3, 224, 224), [(768, 0.4)]),
        ("inception_v3", (3, 75, 75), []),
    ],
)
@pytest.mark.usefixtures("meta")
def test_auxiliary_branches(name: str, shape: tuple[int, int, int], branches: list[tuple[int, float]]) -> None:
    backbone = built(name, *shape)
    x = {"image": torch.empty(2, *shape)}
    assert getattr(backbone, "auxiliary", []) == branches
    out = backbone.train()(x)
    if branches:
        out, auxiliary = out
        assert [part.shape for part in auxiliary] == [(2, width) for width, _ in branches]
    assert out.shape == (2, backbone.features)
    assert backbone.eval()(x).shape == (2, backbone.features)


@pytest.mark.usefixtures("meta")
def test_inception_s_branch_is_its_own_at_its_own_size() -> None:
    assert built("inception_v3", 3, 299, 299).model.AuxLogits.conv1.conv.padding == (0, 0)
    assert built("inception_v3", 3, 224, 224).model.AuxLogits.conv1.conv.padding == (2, 2)


def test_googlenet_s_branches_stand_in_their_order() -> None:
    backbone = built("googlenet", 3, 32, 32).train()
    for branch, value in (("aux1", 1.0), ("aux2", 2.0)):
        layer = backbone.model.get_submodule(branch)
        nn.init.zeros_(layer.fc1.weight)
        nn.init.constant_(layer.fc1.bias, value)
        layer.dropout.p = 0.0
    _, auxiliary = backbone({"image": torch.randn(2, 3, 32, 32)})
    assert [part.unique().tolist() for part in auxiliary] == [[1.0], [2.0]]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "resnet18"])
def test_building_warns_of_nothing(name: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        built(name, 3, 32, 32)
    assert said == []


def test_maxvit_enlarges_pictures_that_its_windows_do_not_fill() -> None:
    with torch.device("meta"):
        small = built("maxvit_t", 1, 28, 40).eval()
        assert small.size == (64, 64)
        assert features(small, torch.empty(2, 1, 28, 40)).shape == (2, small.features)
    small.model = nn.Identity()  # what the model gets to see
    x = torch.randn(2, 1, 28, 40)
    assert small({"image": x}).equal(F.interpolate(x, (64, 64), mode="bilinear", align_corners=False))
    with torch.device("meta"):
        assert built("maxvit_t", 3, 96, 300).size == (448, 448)
        assert built("maxvit_t", 3, 32, 32).size == (32, 32)


@pytest.mark.usefixtures("meta")
def test_a_transformer_says_which_pictures_it_needs(refusal: Callable[..., str]) -> None:
    assert "multiple of 16" in refusal(RecipeError, built, "vit_b_16", 3, 100, 100)
    assert "multiple of 14" in refusal(RecipeError, built, "vit_h_14", 3, 225, 225)
    assert "multiple of 4" in refusal(RecipeError, built, "vit_b_16", 3, 30, 30)
    assert "square" in refusal(RecipeError, built, "vit_b_16", 3, 32, 28)
    backbone = built("vit_b_32", 3, 28, 28)
    assert backbone.model.encoder.pos_embedding.shape == (1, 7 * 7 + 1, 768)
    assert backbone.model.conv_proj.weight.shape == (768, 3, 4, 4)


def test_convolutional_weights_lie_channels_last() -> None:
    assert built("resnet18", 3, 32, 32).model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_dropout_is_the_classifier_s_or_of_the_features() -> None:
    assert built("mobilenet_v2", 3, 32, 32).model.classifier[0].p == 0.2
    assert built("mobilenet_v2", 3, 32, 32, dropout=0.6).model.classifier[0].p == 0.6
    assert built("googlenet", 3, 32, 32, dropout=0.6).model.dropout.p == 0.6
    with torch.device("meta"):
        assert built("vgg11", 3, 32, 32).model.classifier[0].p == 0.5
    x = torch.rand(4, 3, 32, 32)
    backbone = built("resnet18", 3, 32, 32, dropout=0.75).train()
    with torch.no_grad():
        assert 0.7 < float((features(backbone, x) == 0).float().mean()) < 0.8
        assert not bool((features(backbone.eval(), x) == 0).all())
    assert isinstance(built("resnet18", 3, 32, 32).dropout, nn.Identity)


@pytest.mark.usefixtures("meta")
@pytest.mark.parametrize("name", ["mnasnet0_5", "densenet121", "swin_t", "maxvit_t"])
def test_a_plain_state_dict_goes_back_in(name: str) -> None:
    """As a file of tensors gives it, without the metadata that a pickle would carry."""
    backbone = built(name, 3, 32, 32)
    assert not any(backbone.load_state_dict(dict(backbone.state_dict()), assign=True))


@pytest.fixture
def resnet_file(tmp_path: Path) -> Path:
    """torchvision's own weights of a resnet18, as a file."""
    own = models.resnet18(weights=None)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def test_a_file_is_read_when_it_is_asked_for_and_not_before(refusal: Callable[..., str], tmp_path: Path) -> None:
    backbone = built("resnet18", 3, 32, 32, weights=str(tmp_path / "later.safetensors"))
    assert "later.safetensors: there is no such file" in refusal(RecipeError, backbone.load_pretrained)
    before = backbone.model.layer1[0].conv1.weight.clone()
    nothing = built("resnet18", 3, 32, 32)
    nothing.load_state_dict(backbone.state_dict())
    nothing.load_pretrained()
    assert nothing.model.layer1[0].conv1.weight.equal(before)


def test_a_small_stem_stays_fresh_and_the_body_is_read(resnet_file: Path) -> None:
    backbone = built("resnet18", 3, 32, 32, weights=str(resnet_file))
    stem = backbone.model.conv1.weight.clone()
    body = backbone.model.layer4[1].conv2.weight.clone()
    backbone.load_pretrained()
    assert backbone.model.conv1.weight.equal(stem)
    assert not backbone.model.layer4[1].conv2.weight.equal(body)


@pytest.mark.parametrize("channels", [1, 6])
def test_pretrained_channels_are_spread(resnet_file: Path, channels: int) -> None:
    """A grey picture, or a picture twice, gives what it gives in three channels."""
    three = built("resnet18", 3, 64, 64, weights=str(resnet_file)).eval()
    other = built("resnet18", channels, 64, 64, weights=str(resnet_file)).eval()
    three.load_pretrained()
    other.load_pretrained()
    x = torch.randn(2, 1, 64, 64)
    colour = x.expand(-1, 3, -1, -1) if channels == 1 else torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        again = x if channels == 1 else torch.cat([colour, colour], 1)
        torch.testing.assert_close(features(other, again), features(three, colour), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 4), st.integers(2, 9))
def test_spread_weights_read_an_even_picture_alike(before: int, times: int) -> None:
    """With whole repeats, equal channels give the same sum."""
    weight = torch.arange(float(2 * before * 9)).reshape(2, before, 3, 3)
    torch.testing.assert_close(spread_channels(weight, before * times).sum(1), weight.sum(1))


def test_the_classifier_of_a_file_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file(models.squeezenet1_1(weights=None, num_classes=7).state_dict(), file)
    built("squeezenet1_1", 3, 64, 64, weights=str(file)).load_pretrained()
    body = {f"features.{key}": value for key, value in models.vgg.make_layers(models.vgg.cfgs["A"]).state_dict().items()}
    save_file(body | {"classifier.0.weight": torch.zeros(4096, 7)}, file)
    with torch.device("meta"):
        backbone = built("vgg11", 3, 32, 32, weights=str(file))
    backbone.to_empty(device="cpu").load_pretrained()
    assert backbone.model.features[0].weight.equal(body["features.0.weight"])


def test_googlenet_s_branches_may_be_missing(tmp_path: Path) -> None:
    own = models.googlenet(weights=None, aux_logits=False, init_weights=True)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    backbone = built("googlenet", 3, 64, 64, weights=str(tmp_path / "own.safetensors"))
    backbone.load_pretrained()
    assert backbone.model.inception5b.branch1.conv.weight.equal(own.inception5b.branch1.conv.weight)


def test_a_densenet_s_old_names_are_known(tmp_path: Path) -> None:
    """torchvision's files write ``norm.1`` where its models say ``norm1``."""
    own = models.densenet121(weights=None)
    moved(own)
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for key, value in own.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    backbone = built("densenet121", 3, 64, 64, weights=str(tmp_path / "old.pth"))
    backbone.load_pretrained()
    theirs = own.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in backbone.model.state_dict().items())


def test_position_embeddings_are_resized() -> None:
    """By the same bicubic rule as torchvision's, written out here; the class token stays."""
    positions = torch.randn(1, 1 + 4 * 4, 6)
    resized = vision._resized_positions(positions, 1 + 6 * 6)
    grid = positions[:, 1:].reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (6, 6), mode="bicubic", align_corners=True).permute(0, 2, 3, 1).reshape(1, 36, 6)
    torch.testing.assert_close(resized, torch.cat([positions[:, :1], expected], 1))


def test_a_vit_reads_positions_of_another_size(refusal: Callable[..., str]) -> None:
    with torch.device("meta"):
        original, small = built("vit_b_32", 3, 128, 128, weights="own.pt"), built("vit_b_32", 3, 32, 32)
    key, given = "encoder.pos_embedding", torch.randn(1, 10, 768)
    fitted = original._fitted(key, given, original.model.encoder.pos_embedding)
    assert fitted.shape == (1, 17, 768)
    assert fitted[:, 0].equal(given[:, 0])
    torch.testing.assert_close(fitted[0, [1, -1]], given[0, [1, -1]])  # corners stay where they are
    assert key in refusal(RecipeError, original._fitted, key, torch.zeros(1, 12, 768), original.model.encoder.pos_embedding)
    assert small._fitted(key, given, small.model.encoder.pos_embedding) is None


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x04]\x94.", b"PK\x03\x04" + bytes(60), bytes(range(256))])
def test_files_that_are_no_weights_are_refused(refusal: Callable[..., str], tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"bad.{suffix}"
    file.write_bytes(content)
    assert f"bad.{suffix}: " in refusal(RecipeError, vision.read_state, "resnet18", str(file))


class Malicious:
    """What is unpickled makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("writer", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))])
def test_nothing_is_unpickled(refusal: Callable[..., str], tmp_path: Path, writer: Callable[..., None]) -> None:
    trace, file = tmp_path / "trace", tmp_path / "evil.pt"
    writer({"conv1.weight": Malicious(trace)}, file)
    assert "evil.pt" in refusal(RecipeError, vision.read_state, "resnet18", str(file))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malicious(trace)))
    assert trace.exists()  # it would have been made


def test_weights_of_another_model_are_refused(refusal: Callable[..., str], resnet_file: Path, tmp_path: Path) -> None:
    file = str(resnet_file)
    with torch.device("meta"):
        for name in ("resnet34", "resnet50", "mobilenet_v2", "wide_resnet50_2"):
            backbone = built(name, 3, 64, 64, weights=file)
            assert refusal(RecipeError, backbone.load_pretrained).startswith(f"{file}: '" if name != "mobilenet_v2" else file)
    state = models.resnet18(weights=None).state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pt")
    backbone = built("resnet18", 3, 64, 64, weights=str(tmp_path / "checkpoint.pt"))
    assert "state dict" in refusal(RecipeError, backbone.load_pretrained)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"features.4.squeeze.bias": None}, "features.4.squeeze.bias"),
        ({"extra.weight": torch.zeros(1)}, "extra.weight"),
        ({"features.4.squeeze.bias": torch.zeros(65)}, "features.4.squeeze.bias"),
        ({"features.0.weight": torch.zeros(64, 3, 5, 5)}, "features.0.weight"),
    ],
)
def test_a_key_that_does_not_fit_is_named(
    refusal: Callable[..., str], tmp_path: Path, change: dict[str, Tensor | None], key: str
) -> None:
    state = models.squeezenet1_1(weights=None).state_dict() | change
    save_file({name: value for name, value in state.items() if value is not None}, tmp_path / "own.safetensors")
    backbone = built("squeezenet1_1", 3, 64, 64, weights=str(tmp_path / "own.safetensors"))
    sentence = refusal(RecipeError, backbone.load_pretrained)
    assert "own.safetensors" in sentence
    assert repr(key) in sentence


def test_weights_of_torchvision_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]) -> None:
    """Its own loader is asked for the hash to be checked and for nothing to be unpickled."""
    asked: list[dict[str, Any]] = []
    state = models.squeezenet1_1(weights=None).state_dict()

    def load(url: str, **options: Any) -> dict[str, Tensor]:
        asked.append({"url": url, **options})
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    backbone = built("squeezenet1_1", 3, 64, 64, weights="DEFAULT")
    assert asked == []
    backbone.load_pretrained()
    assert asked[0]["check_hash"]
    assert asked[0]["weights_only"]
    assert asked[0]["url"] == models.SqueezeNet1_1_Weights.DEFAULT.url
    assert backbone.model.features[0].weight.equal(state["features.0.weight"])

    def fail(url: str, **options: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    assert "no route to host" in refusal(RecipeError, backbone.load_pretrained)


def test_unknown_weights_are_refused_at_once(refusal: Callable[..., str]) -> None:
    sentence = refusal(RecipeError, built, "resnet50", 3, 32, 32, weights="IMAGENET1K_V9")
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in sentence
    assert "weights.bin" in refusal(RecipeError, built, "resnet18", 3, 32, 32, weights="weights.bin")


def test_pictures_are_needed(refusal: Callable[..., str]) -> None:
    assert "'resnet18'" in refusal(RecipeError, torchvision_models()["resnet18"], Schema(numeric=["a"], targets={}))


@pytest.mark.parametrize("settings", [{"dropout": 1.0}, {"stem": "large"}, {"weights": 3}, {"num_classes": 3}])
def test_settings_have_bounds(refusal: Callable[..., str], settings: dict[str, Any]) -> None:
    component = Component(name="vit_h_14", settings=settings)
    assert f"a.vit_h_14.{next(iter(settings))}" in refusal(RecipeError, complete, component, torchvision_models(), "a")


def test_completed_settings_build_it() -> None:
    settings = complete(Component(name="shufflenet_v2_x0_5"), torchvision_models(), "a").settings
    assert settings == {"weights": None, "stem": "auto", "dropout": None}
    assert built("shufflenet_v2_x0_5", 3, 32, 32, **settings).features == 1024


def test_tables_do_not_pay_for_torchvision() -> None:
    """It is imported within functions only."""
    tree = ast.parse(Path(vision.__file__).read_text(encoding="utf-8"))
    names = [name for node in tree.body if isinstance(node, ast.Import) for name in (alias.name for alias in node.names)]
    names += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert "torch" in names
    assert not [name for name in names if name.startswith("torchvision")]
