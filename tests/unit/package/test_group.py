"""Networks that serve together say what each of them says alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.network import Network, NetworkSpec, Replicated, Said
from fuseline.package.group import Group, Member, Members, Spoken

TARGETS = {
    "kind": TargetSchema(kind="classification", classes=["up", "down", "still"]),
    "grade": TargetSchema(kind="ordinal", classes=[1, 2, 3, 5]),
    "signs": TargetSchema(kind="multilabel", classes=["u", "v"]),
    "size": TargetSchema(kind="regression"),
    "range": TargetSchema(kind="quantile", levels=[0.05, 0.5, 0.95]),
}
TABLE = Schema(numeric=["x", "y"], categorical={"color": ["blue", "red"], "shape": ["o"]}, targets=TARGETS)
PICTURES = Schema(image=(2, 6, 5), targets=TARGETS)
ROWS = 40

MLP = {"hidden": [5, 5], "dropout": 0.3}
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", MLP),
    "linear": ("mlp", {"hidden": []}),
    "batch norm": ("mlp", MLP | {"norm": "batch", "activation": "silu"}),
    "layer norm": ("mlp", MLP | {"norm": "layer", "activation": "tanh"}),
    "residual": ("mlp", MLP | {"residual": True, "norm": "batch", "activation": "gelu"}),
    "numbers": ("mlp", MLP | {"numbers": "piecewise_linear"}),
    "tabm": ("tabm", {"copies": 3, "width": 4}),
    "ft_transformer": ("ft_transformer", {"width": 8, "heads": 2, "layers": 1}),
}
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("cnn", {"channels": [3, 4], "convolutions": 2, "features": 5}),
    "resnet": ("resnet", {"widths": [3, 4], "blocks": [1], "features": 5}),
    "mlp of pictures": ("mlp", MLP),
}


def rows(schema: Schema, seed: int, count: int = ROWS) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    if schema.image is not None:
        return {"image": torch.randint(0, 256, (count, *schema.image), generator=random, dtype=torch.uint8)}
    x = 1e4 + torch.randn(count, 2, generator=random, dtype=torch.float64)
    x[torch.rand(count, 2, generator=random) < 0.2] = torch.nan
    return {"numeric": x, "categorical": torch.randint(0, 3, (count, 2), generator=random)}


def spec(name: str, settings: dict[str, Any], numbers: str = "standard") -> NetworkSpec:
    heads = dict.fromkeys(TARGETS, Component(name="linear")) | {"size": Component(name="hidden", settings={"width": 4})}
    return NetworkSpec(architecture=Component(name=name, settings=settings), heads=heads, numbers=Component(name=numbers))


def fitted(schema: Schema, its: NetworkSpec, seed: int, own_rows: bool = True) -> Network:
    """A network that knows its rows, has seen some batches in training, and whose values are far from standard units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(schema, its)
        network.fit(rows(schema, seed if own_rows else 0), {}, torch.Generator().manual_seed(seed))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, 0.3)
                nn.init.normal_(layer.bias)
        network(rows(schema, seed + 100))
    for target in ("size", "range"):
        network.head(target).center.fill_(5.0 * seed)
        network.head(target).spread.fill_(1.0 + seed)
    network.head("size").residual.fill_(0.5 * (seed % 2))
    return network.eval()


def same(found: Spoken, expected: Sequence[Said]) -> None:
    for name in TARGETS:
        torch.testing.assert_close(found.values[name], torch.stack([s.values[name] for s in expected]), atol=1e-6, rtol=2e-6)
        assert found.values[name].dtype == torch.float32
    assert set(found.variances) == {"size"}
    torch.testing.assert_close(
        found.variances["size"], torch.stack([s.variances["size"] for s in expected]), atol=1e-6, rtol=2e-6
    )
    for ours, theirs in zip(found.features, [s.features for s in expected], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("own_rows", [True, False], ids=["own scales", "common scales"])
@pytest.mark.parametrize("numbers", ["standard", "quantile"])
@pytest.mark.parametrize("shape", TABLES)
@torch.inference_mode()
def test_a_group_says_what_its_networks_say_of_a_table(shape: str, numbers: str, own_rows: bool) -> None:
    networks = [fitted(TABLE, spec(*TABLES[shape], numbers), seed, own_rows) for seed in range(3)]
    group = Group(networks)
    for count in (1, 17):
        batch = rows(TABLE, 50, count)
        same(group(batch), [network.say(batch) for network in networks])
    assert (group.stack is not None) == (TABLES[shape][0] == "mlp" and shape != "numbers")
    assert len(group.preparation.distinct) == (3 if own_rows else 1)


@pytest.mark.parametrize("shape", IMAGES)
@torch.inference_mode()
def test_a_group_says_what_its_networks_say_of_pictures(shape: str) -> None:
    networks = [fitted(PICTURES, spec(*IMAGES[shape]), seed) for seed in range(3)]
    batch = rows(PICTURES, 50)
    same(Group(networks)(batch), [network.say(batch) for network in networks])


@pytest.mark.parametrize("shape", ["batch norm", "tabm"])
@torch.inference_mode()
def test_networks_that_serve_stay_as_they_were(shape: str) -> None:
    network = fitted(TABLE, spec(*TABLES[shape]), 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Group([network, network])(rows(TABLE, 50))
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@torch.inference_mode()
def test_masks_and_experts_are_each_networks_own() -> None:
    networks = [fitted(TABLE, spec("mlp", MLP), seed) for seed in range(3)]
    networks[0].preprocessing.see({"numeric": torch.tensor([True, False])})
    networks[2].preprocessing.see({"categorical": torch.tensor([False, True])})
    networks[0].head("kind").know(torch.tensor([1]))
    networks[1].head("grade").know(torch.tensor([0, 3]))
    batch = rows(TABLE, 50)
    same(Group(networks)(batch), [network.say(batch) for network in networks])


@torch.inference_mode()
def test_rows_that_lack_nothing_are_given_without_flags() -> None:
    networks = [fitted(TABLE, spec("mlp", MLP), seed) for seed in range(3)]
    group, batch = Group(networks), rows(TABLE, 50)
    batch["numeric"] = batch["numeric"].nan_to_num(1e4)
    assert group.preparation.stacked(batch)["numeric"].shape == (3, ROWS, 2)
    assert group.preparation.stacked(rows(TABLE, 50))["numeric"].shape == (3, ROWS, 4)
    same(group(batch), [network.say(batch) for network in networks])


@pytest.mark.parametrize(("name", "factor"), [("scale", 1e-7), ("mean", 1.01)])
@torch.inference_mode()
def test_scales_far_from_each_other_are_kept_apart(name: str, factor: float) -> None:
    """One of them in the units of another would be rounded away."""
    networks = [fitted(TABLE, spec("mlp", MLP), seed) for seed in range(3)]
    networks[1].preprocessing.get_buffer(name).mul_(factor)
    group, batch = Group(networks), rows(TABLE, 50)
    assert group.preparation.common is None
    same(group(batch), [network.say(batch) for network in networks])


@torch.inference_mode()
def test_networks_of_one_fold_share_their_preprocessing() -> None:
    networks = [fitted(TABLE, spec("mlp", MLP), seed) for seed in range(4)]
    networks[2].preprocessing.load_state_dict(networks[0].preprocessing.state_dict())
    group, batch = Group(networks), rows(TABLE, 50)
    assert group.preparation.places == [0, 1, 0, 2]
    same(group(batch), [network.say(batch) for network in networks])


@torch.inference_mode()
def test_members_of_mixed_shapes_and_replicas_keep_their_order() -> None:
    """Shapes in turn, so that no group's networks stand side by side."""
    shapes = [("mlp", 2), ("tabm", 1), ("mlp", 1), ("ft_transformer", 3), ("tabm", 2)]
    seeds = iter(range(9))
    members = [
        Member(spec(*TABLES[shape]), [fitted(TABLE, spec(*TABLES[shape]), next(seeds)) for _ in range(count)])
        for shape, count in shapes
    ]
    together, batch = Members(members), rows(TABLE, 50)
    assert len(together.groups) == 3
    assert together.counts == [2, 1, 1, 3, 2]
    assert together.widths == (10, 4, 5, 24, 8)
    assert not together.stacked
    alone = [Replicated(list(member.replicas))(batch) for member in members]
    found = together(batch)
    torch.testing.assert_close(
        torch.cat(list(found.features), 1), torch.cat([s.features for s in alone], 1), atol=2e-6, rtol=1e-5
    )
    for name in TARGETS:
        torch.testing.assert_close(found.values[name], torch.stack([s.values[name] for s in alone]), atol=1e-6, rtol=2e-6)
    torch.testing.assert_close(found.variances["size"], torch.stack([s.variances["size"] for s in alone]), atol=1e-6, rtol=2e-6)


def test_more_networks_or_larger_pictures_are_said_fewer_at_once() -> None:
    def rows_at_once(schema: Schema, settings: tuple[str, dict[str, Any]], count: int) -> int:
        its = spec(*settings)
        return Members([Member(its, [Network(schema, its).eval()]) for _ in range(count)]).rows(schema)

    wide = ("mlp", {"hidden": [128]})
    assert rows_at_once(TABLE, wide, 4) == 4 * rows_at_once(TABLE, wide, 16) == 1024
    assert rows_at_once(TABLE, wide, 200) == 64
    large = Schema(image=(1, 64, 64), targets=TARGETS)
    assert rows_at_once(large, ("cnn", {"channels": [2], "features": 3}), 2) == 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@torch.inference_mode()
def test_what_is_computed_in_bfloat16_is_near_and_said_in_float32(precision: str) -> None:
    networks = [fitted(PICTURES, spec(*IMAGES["cnn"]), seed) for seed in range(2)]
    batch = rows(PICTURES, 50)
    found, exact = Group(networks)(batch, precision), torch.stack([network.say(batch).values["kind"] for network in networks])
    gap = float((found.values["kind"] - exact).abs().max())
    assert gap < (1e-6 if precision == "float32" else 0.1)
    assert (gap > 1e-5) == (precision == "bfloat16")
    assert found.values["kind"].dtype == found.features[0].dtype == torch.float32
