"""Architectures of other packages, through an installed distribution with real entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.data.schema import FIRST, Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.family import _version, installed
from fuseline.models.architectures import ARCHITECTURES, mlp
from fuseline.models.network import Network, NetworkSpec, blank
from fuseline.models.plugins import Wrapped, adapt

TARGETS = {"y": TargetSchema(kind="classification", classes=["a", "b"]), "v": TargetSchema(kind="regression")}
TABLE = Schema(numeric=["a", "b", "d"], categorical={"c": ["x", "y"], "e": ["z"]}, targets=TARGETS)
PICTURES = Schema(image=(3, 8, 6), targets=TARGETS)
NUMBERS = 2 * 3 + (FIRST + 2) + (FIRST + 1)

SOURCE = '''
from typing import Annotated

from pydantic import Field
from torch import nn


class Stack(nn.Module):
    """Layers of one width on a row's numbers."""

    def __init__(self, in_features: int, width: Annotated[int, Field(ge=1, le=64)] = 5, *, layers: int = 1, untold=True) -> None:
        super().__init__()
        sizes = [in_features, *[width] * layers]
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])))
        self.untold = untold

    def forward(self, x):
        return self.layers(x)


class Filter(nn.Module):
    """One convolution of pictures, with batch norm; the map is not flattened."""

    def __init__(self, in_channels: int, filters: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, filters, 3), nn.BatchNorm2d(filters))

    def forward(self, x):
        return self.layers(x)


class Loose(nn.Module):
    """Parameters that a recipe can't say have a default, and stay at it."""

    def __init__(
        self,
        in_features: int,
        width: int = 3,
        act: type[nn.Module] = nn.Tanh,
        norm: nn.Module | None = None,
        other: nn.Module = nn.Identity(),
        *rest: int,
        bias: bool = True,
        **more: int,
    ) -> None:
        super().__init__()
        assert not rest and not more and norm is None
        self.layers = nn.Sequential(nn.Linear(in_features, width, bias=bias), act(), other)

    def forward(self, x):
        return self.layers(x)


class Greedy(nn.Module):
    """It needs a module, which no recipe can say."""

    def __init__(self, in_features: int, body: nn.Module) -> None:
        super().__init__()


class Untold(nn.Module):
    """What it needs has no annotation."""

    def __init__(self, in_features: int, width) -> None:
        super().__init__()


def plain(schema, *, width: Annotated[int, Field(ge=1)] = 4):
    """A function like fuseline's own."""
    from fuseline.models.architectures import mlp

    return mlp(schema, hidden=(width,))


mlp = plain
'''
ENTRY_POINTS = """
[fuseline.architectures]
acme_stack = acme_nets:Stack
acme_filter = acme_nets:Filter
acme_plain = acme_nets:plain
acme_loose = acme_nets:Loose
acme_greedy = acme_nets:Greedy
acme_untold = acme_nets:Untold
mlp = acme_nets:mlp
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution, acme-nets 1.2, that adds architectures; the folder of its package."""
    package, facts = tmp_path / "acme_nets", tmp_path / "acme_nets-1.2.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-nets\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    (facts / "RECORD").write_text("acme_nets/__init__.py,,\nacme_nets-1.2.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield package
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Nothing of an earlier distribution is remembered."""
    installed.cache_clear()
    _version.cache_clear()
    sys.modules.pop("acme_nets", None)


def build(schema: Schema, name: str, settings: dict[str, Any]) -> nn.Module:
    component = complete(Component(name=name, settings=settings), ARCHITECTURES, "members.0.architecture")
    module = ARCHITECTURES[component.name](schema, **component.settings)
    assert isinstance(module, nn.Module)
    return module


def spec(name: str, **settings: Any) -> NetworkSpec:
    return NetworkSpec(
        architecture=complete(Component(name=name, settings=settings), ARCHITECTURES, "f"),
        heads=dict.fromkeys(TARGETS, Component(name="linear")),
    )


def table(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    codes = [torch.arange(rows) % (FIRST + 2), torch.arange(rows) % (FIRST + 1)]
    return {"numeric": torch.randn(rows, 3, generator=generator, dtype=torch.float64), "categorical": torch.stack(codes, 1)}


def pictures(rows: int) -> dict[str, Tensor]:
    return {"image": torch.arange(rows * 144, dtype=torch.uint8).reshape(rows, 3, 8, 6)}


# -------------------------------------------------------------------------------------------------------------- settings


def test_the_annotated_parameters_of_a_class_are_its_settings(acme: Path) -> None:
    assert complete(Component(name="acme_stack"), ARCHITECTURES, "f").settings == {"width": 5, "layers": 1}
    given = Component(name="acme_stack", settings={"layers": 2})
    assert complete(given, ARCHITECTURES, "f").settings == {"width": 5, "layers": 2}
    assert complete(Component(name="acme_plain"), ARCHITECTURES, "f").settings == {"width": 4}


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("acme_stack", {"depth": 2}, "acme_stack.depth: this key is not known here"),
        ("acme_stack", {"untold": False}, "acme_stack.untold: this key is not known here"),
        ("acme_stack", {"in_features": 9}, "acme_stack.in_features: this key is not known here"),
        ("acme_stack", {"width": 0}, "acme_stack.width: "),
        ("acme_stack", {"width": 65}, "acme_stack.width: "),
        ("acme_stack", {"width": "wide"}, "acme_stack.width: "),
        ("acme_filter", {}, "acme_filter.filters: this key is required"),
        ("acme_filter", {"filters": 2, "in_channels": 1}, "acme_filter.in_channels: this key is not known here"),
        ("acme_plain", {"width": 0}, "acme_plain.width: "),
        ("acme_stak", {}, "did you mean 'acme_stack'?"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(
    acme: Path, refusal: Callable[..., str], name: str, settings: dict[str, Any], words: str
) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=settings), ARCHITECTURES, "members.0.architecture")
    assert sentence.startswith("members.0.architecture")
    assert words in sentence


def test_what_a_recipe_can_not_say_is_left_out(acme: Path) -> None:
    """A type, a module, further arguments."""
    assert complete(Component(name="acme_loose"), ARCHITECTURES, "f").settings == {"width": 3, "bias": True}
    backbone = build(TABLE, "acme_loose", {"width": 6, "bias": False})
    assert [type(layer) for layer in backbone.module.layers] == [nn.Linear, nn.Tanh, nn.Identity]
    assert backbone.module.layers[0].bias is None
    assert backbone.features == 6


@pytest.mark.parametrize("left_out", ["act", "norm", "other", "rest", "more"])
def test_what_is_left_out_is_not_known(acme: Path, refusal: Callable[..., str], left_out: str) -> None:
    wrong = Component(name="acme_loose", settings={left_out: 1})
    assert f"acme_loose.{left_out}: this key is not known here" in refusal(RecipeError, complete, wrong, ARCHITECTURES, "f")


@pytest.mark.parametrize(("name", "words"), [("acme_greedy", "Greedy"), ("acme_untold", "Untold")])
def test_a_class_that_needs_what_a_recipe_can_not_say_is_refused(
    acme: Path, refusal: Callable[..., str], name: str, words: str
) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name), ARCHITECTURES, "f")
    assert sentence.startswith(f"{words} can't be a member: its parameter ")
    assert repr("body" if name == "acme_greedy" else "width") in sentence


def test_a_class_of_pictures_is_not_for_a_table(acme: Path) -> None:
    with pytest.raises(RecipeError, match="Filter needs pictures, and the data are a table"):
        build(TABLE, "acme_filter", {"filters": 2})


# ------------------------------------------------------------------------------------------------------------- networks


def test_a_class_gets_a_rows_numbers_and_one_hot_categories(acme: Path) -> None:
    backbone = build(TABLE, "acme_stack", {"width": 7})
    assert isinstance(backbone, Wrapped)
    assert backbone.features == 7
    assert backbone.module.layers[0].in_features == NUMBERS
    assert backbone.module.untold is True
    codes = torch.tensor([[3, 0], [0, 2]])
    numbers = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0, 0.0], [1.5, 0.0, 0.0, 0.0, 0.0, 0.0]])
    row = torch.tensor([[0, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1]])
    expected = backbone.module(torch.cat([numbers, row], 1))
    assert backbone({"numeric": numbers, "categorical": codes}).equal(expected)


def test_a_class_gets_pictures_and_its_map_is_flattened(acme: Path) -> None:
    backbone = build(PICTURES, "acme_filter", {"filters": 4})
    assert backbone.features == 4 * 6 * 4
    x = torch.rand(5, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    out = backbone.eval()({"image": x})
    assert out.shape == (5, 96)
    assert out.equal(backbone.module(x).flatten(1))


@pytest.mark.parametrize("schema", [Schema(numeric=["a"], targets={}), Schema(categorical={"c": ["x"]}, targets={})])
def test_numbers_or_categories_may_be_alone(acme: Path, schema: Schema) -> None:
    backbone = build(schema, "acme_stack", {})
    rows = {"numeric": torch.zeros(2, 2)} if schema.numeric else {"categorical": torch.tensor([[0], [2]])}
    assert backbone(rows).shape == (2, 5)


def test_a_function_stays_as_it_is(acme: Path) -> None:
    import acme_nets  # type: ignore[import-not-found]

    assert ARCHITECTURES["acme_plain"] is acme_nets.plain
    assert build(TABLE, "acme_plain", {"width": 9}).features == 9


def test_finding_the_width_leaves_no_trace(acme: Path) -> None:
    """The batch norm has counted no rows, and the module is ready to train."""
    backbone = build(PICTURES, "acme_filter", {"filters": 2})
    state = backbone.state_dict()
    assert int(state["module.layers.1.num_batches_tracked"]) == 0
    assert state["module.layers.1.running_mean"].tolist() == [0, 0]
    assert all(module.training for module in backbone.modules())
    assert all(p.grad is None and p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "schema", "rows"),
    [
        ("acme_stack", {"layers": 2}, TABLE, table),
        ("acme_filter", {"filters": 3}, PICTURES, pictures),
        ("acme_plain", {}, TABLE, table),
        ("acme_plain", {}, PICTURES, pictures),
    ],
    ids=["class of a table", "class of pictures", "function of a table", "function of pictures"],
)
def test_a_network_is_built_saved_and_looked_at(
    acme: Path, name: str, settings: dict[str, Any], schema: Schema, rows: Callable[[int], dict[str, Tensor]]
) -> None:
    its = spec(name, **settings)
    net, other = Network(schema, its).eval(), Network(schema, its).eval()
    net.fit(rows(6), {"y": torch.tensor([0, 1] * 3), "v": torch.arange(6.0)}, torch.Generator())
    said = net.say(rows(5))
    assert {target: tuple(values.shape) for target, values in said.values.items()} == {"y": (5, 2), "v": (5, 1)}
    other.load_state_dict(net.state_dict())
    assert other.say(rows(5)).values["y"].equal(said.values["y"])
    empty = blank(schema, its)
    assert {key: value.shape for key, value in empty.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    device = next(empty.parameters()).device
    features, _ = empty({key: value.to(device) for key, value in rows(2).items()})
    assert features.shape == (2, net.backbone.features)


def test_the_input_that_a_class_can_not_take_is_named(acme: Path, refusal: Callable[..., str]) -> None:
    class Narrow(nn.Module):
        def __init__(self, in_features: int) -> None:
            super().__init__()
            self.layer = nn.Linear(in_features + 1, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    assert refusal(RecipeError, adapt(Narrow), TABLE).startswith(f"Narrow can't take rows of shape ({NUMBERS},): ")


def test_an_error_of_many_lines_is_told_by_its_first(refusal: Callable[..., str]) -> None:
    class Talkative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("this went wrong.\nand here is\nwhy")

    sentence = refusal(RecipeError, adapt(Talkative), TABLE)
    assert sentence == f"Talkative can't take rows of shape ({NUMBERS},): this went wrong."


# -------------------------------------------------------------------------------------------------------------- the family


def test_fuselines_own_come_first(acme: Path) -> None:
    assert ARCHITECTURES["mlp"] is mlp
    assert ARCHITECTURES.requirement("mlp") is None
    assert ARCHITECTURES.version("mlp") == ""


def test_all_names_are_listed_once(acme: Path) -> None:
    names = list(ARCHITECTURES)
    own = list(ARCHITECTURES.own)
    assert names[: len(own) + 3] == [*own, "acme_stack", "acme_filter", "acme_plain"]
    assert names[len(own) + 3 : len(own) + 6] == ["acme_loose", "acme_greedy", "acme_untold"]
    assert len(names) == len(set(names)) == len(ARCHITECTURES)


def test_a_package_that_is_gone_is_not_known(refusal: Callable[..., str]) -> None:
    assert "acme_stack" not in ARCHITECTURES
    assert "'acme_stack' is not known" in refusal(RecipeError, complete, Component(name="acme_stack"), ARCHITECTURES, "f")


@pytest.mark.parametrize("name", ["acme_stack", "acme_filter", "acme_plain"])
def test_what_must_be_installed_is_named(acme: Path, name: str) -> None:
    assert ARCHITECTURES.requirement(name) == "acme-nets==1.2"
    assert not ARCHITECTURES.borrowed(name)


def test_annotations_written_as_words_are_read() -> None:
    """This file's annotations are words, since it imports them from the future."""

    class Wide(nn.Module):
        def __init__(self, in_features: int, width: Annotated[int, Field(ge=2)] = 3) -> None:
            super().__init__()
            self.layer = nn.Linear(in_features, width)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x)
            return out

    family = {"wide": adapt(Wide)}
    assert complete(Component(name="wide"), family, "f").settings == {"width": 3}
    with pytest.raises(RecipeError, match=r"f\.wide\.width: "):
        complete(Component(name="wide", settings={"width": 1}), family, "f")
