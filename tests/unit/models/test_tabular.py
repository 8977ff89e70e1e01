"""Backbones for tables against the same networks put together by hand, and against the package of TabM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tabm as package
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.data.schema import FIRST, MISSING, Schema
from fuseline.errors import RecipeError
from fuseline.models.preprocessing import NUMBERS, Batch, Preprocessing
from fuseline.models.tabular import TABULAR, ft_transformer, mlp, tabm

NUMERIC = Schema(numeric=["a", "b", "d"], targets={})
WORDS = Schema(categorical={"c": ["x", "y"], "e": [f"w{i}" for i in range(40)]}, targets={})
MIXED = Schema(numeric=NUMERIC.numeric, categorical=WORDS.categorical, targets={})
SCHEMAS = {"numbers": NUMERIC, "words": WORDS, "both": MIXED}

MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"hidden": (16, 8)}),
    "mlp, batch norm": ("mlp", {"hidden": (16, 8), "norm": "batch", "activation": "silu"}),
    "mlp, skips": ("mlp", {"hidden": (8, 8), "norm": "layer", "residual": True, "activation": "gelu"}),
    "mlp, linear": ("mlp", {"hidden": (16,), "numbers": {"linear": {"size": 3}}}),
    "mlp, periodic": ("mlp", {"hidden": (16,), "numbers": {"periodic": {"frequencies": 4}}}),
    "mlp, bins": ("mlp", {"hidden": (16,), "numbers": {"piecewise_linear": {"bins": 5}}}),
    "ft_transformer": ("ft_transformer", {"width": 8, "layers": 2, "heads": 2}),
    "ft_transformer, periodic": ("ft_transformer", {"width": 8, "layers": 1, "heads": 2, "numbers": "periodic"}),
    "ft_transformer, bins": ("ft_transformer", {"width": 8, "layers": 1, "heads": 2, "numbers": "piecewise_linear"}),
    "tabm": ("tabm", {"copies": 3, "width": 8, "layers": 2}),
    "tabm, bins": ("tabm", {"copies": 3, "width": 8, "layers": 2, "numbers": {"piecewise_linear": {"bins": 5}}}),
}


@pytest.fixture(autouse=True, scope="module")
def _own_chance() -> Iterator[None]:
    """Modules begin by the global generator; the tests after these find it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def raw(seed: int, count: int, schema: Schema = MIXED) -> Batch:
    """Rows as they are read: every column with missing values, and one that holds three values only."""
    generator = torch.Generator().manual_seed(seed)
    batch: Batch = {}
    if schema.numeric:
        x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        x[:, 1] = (x[:, 1] > 0).double() + (x[:, 1] > 1).double()
        batch["numeric"] = x.masked_fill(torch.rand(count, 3, generator=generator) < 0.2, torch.nan)
    if schema.categorical:
        sizes = torch.tensor([FIRST + len(words) for words in schema.categorical.values()])
        batch["categorical"] = (torch.rand(count, 2, generator=generator) * sizes).long()
    return batch


def network(member: str, schema: Schema, seed: int = 0, numbers: str = "standard") -> tuple[Preprocessing, nn.Module]:
    """As training builds it: the settings were completed and written down before."""
    torch.manual_seed(seed)
    name, chosen = MEMBERS[member]
    component = complete(Component(name=name, settings=chosen), TABULAR, "architecture")
    component = Component.model_validate_json(component.model_dump_json())
    return Preprocessing(schema, Component(name=numbers)), TABULAR[name](schema, **component.settings).eval()


def fitted(member: str, schema: Schema, seed: int = 0, numbers: str = "standard") -> tuple[Preprocessing, nn.Module]:
    preprocessing, backbone = network(member, schema, seed, numbers)
    train = raw(99, 60, schema)
    preprocessing.fit(train)
    backbone.fit(preprocessing(train), torch.Generator().manual_seed(0))  # type: ignore[operator]
    return preprocessing, backbone


# ------------------------------------------------------------------------------------------------------------------ all


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("member", MEMBERS)
def test_as_many_features_come_out_as_a_backbone_says(member: str, kind: str) -> None:
    preprocessing, backbone = fitted(member, SCHEMAS[kind])
    for rows in (1, 7):
        out = backbone(preprocessing(raw(1, rows, SCHEMAS[kind])))
        copies = (backbone.copies,) if hasattr(backbone, "copies") else ()
        assert out.shape == (rows, *copies, backbone.features)
        assert out.dtype == torch.float32
        assert out.isfinite().all()


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("member", MEMBERS)
def test_a_rebuilt_network_says_the_same_to_the_last_bit(member: str, numbers: str) -> None:
    preprocessing, backbone = fitted(member, MIXED, 0, numbers)
    again, other = network(member, MIXED, 1, numbers)  # other weights, and not fitted
    batch = raw(1, 20)
    assert not other(again(batch)).equal(backbone(preprocessing(batch)))
    again.load_state_dict(preprocessing.state_dict())
    other.load_state_dict(backbone.state_dict())
    assert other(again(batch)).equal(backbone(preprocessing(batch)))


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("member", MEMBERS)
def test_gradients_reach_every_parameter(member: str, kind: str) -> None:
    preprocessing, backbone = fitted(member, SCHEMAS[kind])
    batch = preprocessing(raw(1, 64, SCHEMAS[kind]))
    out = backbone.train()(batch)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("member", ["mlp", "mlp, bins", "ft_transformer, bins", "tabm"])
@given(seed=st.integers(0, 999))
@settings(max_examples=8)
def test_what_a_member_does_not_see_never_changes_what_it_says(member: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    view = {"numeric": torch.rand(3, generator=generator) < 0.5, "categorical": torch.rand(2, generator=generator) < 0.5}
    preprocessing, backbone = network(member, MIXED)
    preprocessing.see(view)
    train, one, other = raw(seed, 40), raw(seed + 1, 9), raw(seed + 2, 9)
    preprocessing.fit(train)
    backbone.fit(preprocessing(train), generator)  # type: ignore[operator]
    changed = {name: torch.where(view[name], one[name], other[name]) for name in one}
    assert backbone(preprocessing(one)).equal(backbone(preprocessing(changed)))


@pytest.mark.parametrize("member", MEMBERS)
def test_a_missing_number_is_told_from_the_mean(member: str) -> None:
    _, backbone = fitted(member, NUMERIC)
    if hasattr(backbone, "missing"):
        nn.init.ones_(backbone.missing[:, :4])  # type: ignore[index]  # it begins as 0
    mean, missing = torch.zeros(1, 6), torch.tensor([[0.0, 0, 0, 0, 1, 0]])
    assert not backbone({"numeric": mean}).equal(backbone({"numeric": missing}))


@pytest.mark.parametrize("member", MEMBERS)
def test_rows_do_not_look_at_each_other(member: str) -> None:
    preprocessing, backbone = fitted(member, MIXED)
    batch = preprocessing(raw(1, 12))
    alone = torch.cat([backbone({name: x[i : i + 1] for name, x in batch.items()}) for i in range(12)])
    assert backbone(batch).detach().numpy() == pytest.approx(alone.detach().numpy(), abs=1e-5)


# ------------------------------------------------------------------------------------------------------------------ mlp


@pytest.mark.parametrize("hidden", [(), (7,), (128, 64)])
def test_a_plain_mlp_is_what_is_put_together_by_hand(hidden: tuple[int, ...]) -> None:
    """The same modules under the same names, made in the same order, so from the same seed the same weights and dropout."""
    torch.manual_seed(5)
    backbone = mlp(MIXED, hidden=hidden, dropout=0.3)
    torch.manual_seed(5)
    embeddings = nn.ModuleList([nn.Embedding(4, 2), nn.Embedding(42, 16)])
    layers, width = nn.Sequential(), 6 + 2 + 16
    for size in hidden:
        layers.extend([nn.Linear(width, size), nn.ReLU(), nn.Dropout(0.3)])
        width = size
    expected = {f"embeddings.{n}": x for n, x in embeddings.state_dict().items()}
    expected |= {f"layers.{n}": x for n, x in layers.state_dict().items()}
    state = backbone.state_dict()
    assert list(state) == list(expected)
    assert all(state[name].equal(expected[name]) for name in state)
    batch = {"numeric": torch.rand(5, 6), "categorical": torch.tensor([[0, 41], [1, 5], [2, 0], [3, 1], [0, 7]])}
    parts = [batch["numeric"], embeddings[0](batch["categorical"][:, 0]), embeddings[1](batch["categorical"][:, 1])]
    torch.manual_seed(6)
    out = backbone.train()(batch)
    torch.manual_seed(6)
    assert out.equal(layers.train()(torch.cat(parts, 1)))
    assert backbone.features == width


def test_an_mlp_flattens_pictures() -> None:
    torch.manual_seed(0)
    backbone = mlp(Schema(image=(2, 3, 4), targets={}), hidden=(5,)).eval()
    x = torch.rand(6, 2, 3, 4)
    assert backbone({"image": x}).equal(backbone.layers(x.reshape(6, 24)))  # type: ignore[operator]
    assert mlp(Schema(image=(2, 3, 4), targets={}), hidden=(), numbers=Component(name="periodic"))({"image": x}).shape == (6, 24)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_the_layers_of_an_mlp_stand_in_order(norm: Any, activation: Any) -> None:
    backbone = mlp(NUMERIC, hidden=(4,), dropout=0.0, norm=norm, activation=activation).train()
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    weight, bias = backbone.get_parameter("layers.0.weight"), backbone.get_parameter("layers.0.bias")
    z = x @ weight.T + bias
    if norm != "none":
        axis = 0 if norm == "batch" else 1
        z = (z - z.mean(axis, keepdim=True)) / (z.var(axis, correction=0, keepdim=True) + 1e-5).sqrt()
    z = torch.tanh(z) if activation == "tanh" else getattr(nn.functional, activation)(z)
    assert backbone({"numeric": x}).detach().numpy() == pytest.approx(z.detach().numpy(), abs=1e-5)


def test_skips_add_a_layers_input() -> None:
    backbone = mlp(NUMERIC, hidden=(5, 5), dropout=0.0, residual=True).eval()
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    p = dict(backbone.named_parameters())
    assert set(p) == {"layers.0.shortcut.weight", *(f"layers.{i}.layer.0.{n}" for i in (0, 1) for n in ("weight", "bias"))}
    first = x @ p["layers.0.shortcut.weight"].T + (x @ p["layers.0.layer.0.weight"].T + p["layers.0.layer.0.bias"]).relu()
    second = first + (first @ p["layers.1.layer.0.weight"].T + p["layers.1.layer.0.bias"]).relu()
    assert backbone({"numeric": x}).detach().numpy() == pytest.approx(second.detach().numpy(), abs=1e-5)


def test_embedded_numbers_stand_before_their_flags() -> None:
    backbone = mlp(NUMERIC, hidden=(), numbers=Component(name="linear", settings={"size": 4}))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    out = backbone({"numeric": x})
    assert out.shape == (5, 3 * 4 + 3)
    assert out[:, 12:].equal(x[:, 3:])
    assert out[:, :12].equal(backbone.numbers(x[:, :3]).flatten(1))  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------- ft_transformer


def test_an_ft_transformer_is_what_is_put_together_by_hand() -> None:
    backbone = ft_transformer(MIXED, width=8, layers=2, heads=2, dropout=0.0).eval()
    nn.init.normal_(backbone.missing)  # type: ignore[arg-type]
    oracle = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True), 2, enable_nested_tensor=False
    ).eval()
    oracle.load_state_dict({f"layers.{n}": x for n, x in backbone.layers.state_dict().items()})  # type: ignore[union-attr]
    batch = Preprocessing(MIXED)(raw(0, 9))
    batch["numeric"][:, 3:] = (torch.arange(27).reshape(9, 3) % 2).float()
    p = dict(backbone.named_parameters())
    tokens = [p["cls"].expand(9, 8)]
    for j in range(3):
        token = batch["numeric"][:, j, None] * p["numbers.weight"][j] + p["numbers.bias"][j]
        tokens.append(token + batch["numeric"][:, 3 + j, None] * p["missing"][j])
    tokens += [p[f"embeddings.{j}.weight"][batch["categorical"][:, j]] for j in range(2)]
    expected = nn.functional.layer_norm(oracle(torch.stack(tokens, 1))[:, 0], (8,)).relu()
    assert backbone(batch).detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_the_blocks_of_an_ft_transformer_begin_apart() -> None:
    backbone = ft_transformer(NUMERIC, width=8, layers=2, heads=2)
    assert not backbone.get_parameter("layers.0.linear1.weight").equal(backbone.get_parameter("layers.1.linear1.weight"))


@pytest.mark.parametrize(
    ("schema", "chosen", "word"),
    [
        (Schema(image=(1, 2, 2), targets={}), {}, "pictures"),
        (NUMERIC, {"width": 10, "heads": 4}, "10"),
        (NUMERIC, {"numbers": Component(name="linear", settings={"size": 5})}, "64"),
    ],
)
def test_an_ft_transformer_refuses_what_it_cannot_do(
    refusal: Callable[..., str], schema: Schema, chosen: dict[str, Any], word: str
) -> None:
    sentence = refusal(RecipeError, ft_transformer, schema, **chosen)
    assert "'ft_transformer'" in sentence
    assert word in sentence


# ----------------------------------------------------------------------------------------------------------------- tabm


def test_tabm_of_numbers_is_the_packages() -> None:
    torch.manual_seed(2)
    ours = tabm(NUMERIC, copies=5, width=12, layers=3, dropout=0.2)
    torch.manual_seed(2)
    theirs = package.TabM.make(n_num_features=6, d_out=None, k=5, d_block=12, n_blocks=3, dropout=0.2)  # 3 flags beside
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        torch.manual_seed(4)
        out = ours.train(training)({"numeric": x})
        torch.manual_seed(4)
        assert out.equal(theirs.train(training)(x))


def test_a_copy_is_an_mlp_with_scaled_inputs_and_outputs() -> None:
    preprocessing, backbone = fitted("tabm, bins", MIXED)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in backbone.parameters():  # as if it were trained: no vector is 1 any more
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    batch = preprocessing(raw(1, 6))
    out, p = backbone(batch), dict(backbone.named_parameters())
    for k in range(3):
        x: Tensor = backbone.flat(batch)  # type: ignore[operator]
        for layer in (0, 1):
            r, s, weight, bias = (p[f"layers.blocks.{layer}.0.{name}"] for name in ("r", "s", "weight", "bias"))
            x = ((r[k] * x) @ weight.T * s[k] + bias[k]).relu()
        assert out[:, k].detach().numpy() == pytest.approx(x.detach().numpy(), rel=1e-4, abs=1e-4)


def test_the_copies_of_tabm_begin_apart_by_the_scale_of_whole_inputs() -> None:
    preprocessing, backbone = fitted("tabm, bins", MIXED)
    out = backbone(preprocessing(raw(1, 6)))
    assert not any(out[:, i].equal(out[:, j]) for i in range(3) for j in range(i))
    scales = backbone.get_parameter("layers.blocks.0.0.r")  # numbers of 16 each, their flags, embeddings of 2 and of 16
    parts = scales.split([16, 16, 16, 1, 1, 1, 2, 16], 1)
    assert all((part == part[:, :1]).all() for part in parts)
    assert len(torch.cat([part[0, :1] for part in parts]).unique()) == len(parts)
    assert all((backbone.get_parameter(f"layers.blocks.{i}.0.{n}") == 1).all() for i, n in ((0, "s"), (1, "r"), (1, "s")))


def test_tabm_flattens_pictures() -> None:
    backbone = tabm(Schema(image=(2, 3, 4), targets={}), copies=2, width=5)
    assert backbone({"image": torch.rand(6, 2, 3, 4)}).shape == (6, 2, 5)


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("mlp", {"hidden": [0]}),
        ("mlp", {"dropout": 1}),
        ("mlp", {"activation": "selu"}),
        ("mlp", {"norm": "group"}),
        ("mlp", {"residual": "maybe"}),
        ("mlp", {"numbers": 3}),
        ("ft_transformer", {"layers": 0}),
        ("ft_transformer", {"heads": 0}),
        ("tabm", {"copies": 1}),
        ("tabm", {"width": 0}),
    ],
)
def test_settings_have_bounds(refusal: Callable[..., str], name: str, chosen: dict[str, Any]) -> None:
    sentence = refusal(RecipeError, complete, Component(name=name, settings=chosen), TABULAR, "members.0.architecture")
    assert f"members.0.architecture.{name}.{next(iter(chosen))}" in sentence


@pytest.mark.parametrize("name", TABULAR)
def test_a_wrong_embedding_is_named(refusal: Callable[..., str], name: str) -> None:
    settings = complete(Component(name=name, settings={"numbers": "periodc"}), TABULAR, "f").settings
    assert "did you mean 'periodic'" in refusal(RecipeError, TABULAR[name], MIXED, **settings)


def test_a_hidden_category_is_a_missing_one() -> None:
    preprocessing, backbone = fitted("mlp", WORDS)
    preprocessing.see({"categorical": torch.tensor([False, True])})
    batch = raw(1, 9, WORDS)
    missing = {"categorical": batch["categorical"].clone()}
    missing["categorical"][:, 0] = MISSING
    assert backbone(preprocessing(batch)).equal(backbone(preprocessing(missing)))
