"""Architectures: every shape of data goes in, and as many features come out as the backbone says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.data.schema import FIRST, Schema
from fuseline.errors import RecipeError
from fuseline.models.architectures import ARCHITECTURES, cnn, mlp
from fuseline.models.network import parameters

TABLE = Schema(numeric=["a", "b", "d"], categorical={"c": ["x", "y"], "e": [f"w{i}" for i in range(100)]}, targets={})


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def table(rows: int) -> dict[str, Tensor]:
    """A preprocessed batch of ``TABLE``: each number has its indicator beside it."""
    codes = torch.stack([torch.arange(rows) % (FIRST + 2), torch.arange(rows) % (FIRST + 100)], 1)
    return {"numeric": pictures(rows, 6), "categorical": codes}


@pytest.mark.parametrize("hidden", [(), (7,), (16, 5)])
def test_an_mlp_gives_as_many_features_as_it_says(hidden: tuple[int, ...]) -> None:
    backbone = mlp(TABLE, hidden=hidden)
    embedded = 6 + 2 + 16  # (4 + 1) // 2 and at most 16
    assert backbone.features == (hidden[-1] if hidden else embedded)
    assert backbone(table(5)).shape == (5, backbone.features)


def test_no_hidden_layer_is_a_linear_model() -> None:
    schema = Schema(numeric=["a", "b"], targets={})
    backbone = mlp(schema, hidden=()).train()
    x = pictures(4, 4)
    assert backbone({"numeric": x}).equal(x)
    assert list(backbone.parameters()) == []


def test_an_mlp_takes_numbers_categories_or_pictures_alone() -> None:
    numbers, words = Schema(numeric=["a"], targets={}), Schema(categorical={"c": ["x"]}, targets={})
    assert mlp(numbers, hidden=(3,))({"numeric": pictures(2, 2)}).shape == (2, 3)
    assert mlp(words, hidden=(3,))({"categorical": torch.tensor([[0], [2]])}).shape == (2, 3)
    backbone = mlp(Schema(image=(3, 5, 7), targets={}), hidden=())
    assert backbone({"image": pictures(2, 3, 5, 7)}).shape == (2, 105)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (3, 7, 5), (3, 1, 9), (1, 8, 8), (3, 32, 32), (4, 2, 3)])
@pytest.mark.parametrize("channels", [(4,), (4, 6), (2, 3, 4, 5, 6, 7)])
def test_a_cnn_takes_pictures_of_any_size(shape: tuple[int, int, int], channels: tuple[int, ...]) -> None:
    backbone = cnn(Schema(image=shape, targets={}), channels=channels, convolutions=1, features=9).eval()
    out = backbone({"image": pictures(2, *shape)})
    assert backbone.features == 9
    assert out.shape == (2, 9)
    assert out.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5)])
def test_gradients_reach_every_parameter_of_a_cnn(shape: tuple[int, int, int]) -> None:
    backbone = cnn(Schema(image=shape, targets={}), channels=(4, 6), features=8, dropout=0.0).train()
    backbone({"image": pictures(6, *shape)}).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_a_cnn_has_as_many_convolutions_as_it_is_told() -> None:
    backbone = cnn(Schema(image=(1, 8, 8), targets={}), channels=(4, 6, 8), convolutions=3)
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) == 9


def test_a_cnn_needs_pictures(refusal: Callable[..., str]) -> None:
    assert "'cnn'" in refusal(RecipeError, cnn, TABLE)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mlp", {"hidden": [0]}),
        ("mlp", {"hidden": 3}),
        ("mlp", {"hidden": [65537]}),
        ("mlp", {"dropout": 1}),
        ("mlp", {"dropout": -0.1}),
        ("mlp", {"width": 3}),
        ("cnn", {"channels": []}),
        ("cnn", {"convolutions": 0}),
        ("cnn", {"convolutions": 9}),
        ("cnn", {"features": 0}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, settings: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), ARCHITECTURES, "members.0.architecture")
    assert f"members.0.architecture.{name}.{next(iter(settings))}" in sentence


OF_PICTURES = {"cnn", "resnet"}
GREY = Schema(image=(1, 8, 8), targets={})


@pytest.mark.parametrize("name", ARCHITECTURES.own)
def test_every_own_architecture_does_without_settings(name: str) -> None:
    schema = GREY if name in OF_PICTURES else TABLE
    with torch.device("meta"):  # the defaults are large
        backbone = ARCHITECTURES[name](schema, **complete(Component(name=name), ARCHITECTURES, "f").settings).eval()
    rows = {"image": pictures(2, 1, 8, 8)} if name in OF_PICTURES else table(2)
    copies = [backbone.copies] if hasattr(backbone, "copies") else []
    out = backbone({key: value.to("meta") for key, value in rows.items()})
    assert out.shape == (2, *copies, backbone.features)
    assert parameters(backbone) > 0


@pytest.mark.parametrize("name", sorted(OF_PICTURES))
def test_pictures_are_needed_by_what_convolves(refusal: Callable[..., str], name: str) -> None:
    assert repr(name) in refusal(RecipeError, ARCHITECTURES[name], TABLE)


def test_torchvisions_models_are_found_after_our_own() -> None:
    names = list(ARCHITECTURES)
    own = list(ARCHITECTURES.own)
    assert names[: len(own)] == own
    assert {"resnet18", "vit_b_16", "convnext_tiny"} <= set(names)
    assert ARCHITECTURES.borrowed("resnet18")
    assert not ARCHITECTURES.borrowed("resnet")
    assert (ARCHITECTURES.version("resnet18"), ARCHITECTURES.requirement("resnet18")) == ("", None)


def test_an_unknown_architecture_is_told_what_is_near(refusal: Callable[..., str]) -> None:
    sentence = refusal(RecipeError, complete, Component(name="ft_transfomer"), ARCHITECTURES, "members.0.architecture")
    assert sentence == "members.0.architecture: 'ft_transfomer' is not known; did you mean 'ft_transformer'?"


def test_own_architectures_are_found_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> dict[str, Any]:
        raise AssertionError("torchvision takes seconds to import")

    monkeypatch.setattr(ARCHITECTURES, "more", slow)
    assert complete(Component(name="mlp"), ARCHITECTURES, "f").settings["hidden"] == (128, 64)


def test_completed_settings_build_the_network() -> None:
    settings = complete(Component(name="mlp", settings={"hidden": []}), ARCHITECTURES, "f").settings
    assert mlp(TABLE, **settings)(table(2)).shape == (2, 24)
