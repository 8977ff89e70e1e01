"""Networks of one shape as one: what each says, how it learns and what its layers draw is what it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fuseline.component import Component, complete
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS
from fuseline.models.network import Network, NetworkSpec
from fuseline.models.preprocessing import Batch
from fuseline.models.stack import Stack, known, mappable

TARGETS = {
    "kind": TargetSchema(kind="classification", classes=["a", "b", "c"]),
    "size": TargetSchema(kind="regression"),
}
TABLE = Schema(numeric=["x0", "x1"], categorical={"c": ["u", "v"]}, targets=TARGETS)
PICTURES = Schema(image=(1, 6, 6), targets=TARGETS)
K, B = 3, 8


def network(seed: int, schema: Schema = TABLE, architecture: Any = "mlp", head: Any = "linear") -> Network:
    component = complete(Component.model_validate(architecture), ARCHITECTURES, "architecture")
    heads = {name: complete(Component.model_validate(head), HEADS, "head") for name in schema.targets}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(schema, NetworkSpec(architecture=component, heads=heads))


def batch(schema: Schema, seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    if schema.image:
        return {"image": torch.rand(B, *schema.image, generator=random)}
    numbers = torch.randn(B, 2, generator=random, dtype=torch.float64)
    numbers[0, 0] = torch.nan
    return {"numeric": numbers, "categorical": torch.randint(0, 4, (B, 1), generator=random)}


def ready(networks: list[Network], schema: Schema = TABLE) -> list[Batch]:
    return [net.preprocessing(batch(schema, k)) for k, net in enumerate(networks)]


def together(parts: list[Batch]) -> Batch:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


SHAPES: list[Any] = [
    {"mlp": {"hidden": []}},
    {"mlp": {"hidden": [5, 4], "dropout": 0.0}},
    {"mlp": {"hidden": [5], "dropout": 0.4, "activation": "gelu", "norm": "layer"}},
    {"mlp": {"hidden": [5, 5], "dropout": 0.2, "activation": "tanh", "norm": "batch", "residual": True}},
]
MAPPED: list[Any] = [
    ({"cnn": {"channels": [3], "features": 4, "dropout": 0.0}}, PICTURES),
    ({"mlp": {"hidden": [4], "dropout": 0.0, "numbers": "linear"}}, TABLE),
]


def gradient(stack: Stack, name: str) -> Tensor | None:
    """Of a parameter, in the order of the networks' own."""
    found = stack.network.get_parameter(name).grad
    return found.transpose(1, 2) if found is not None and name in stack.turned else found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("head", ["linear", {"hidden": {"width": 3, "dropout": 0.3}}])
@pytest.mark.parametrize("schema", [TABLE, PICTURES], ids=["table", "pictures"])
def test_each_says_and_learns_what_it_would_alone(shape: Any, head: Any, schema: Schema) -> None:
    """Outputs and gradients of training, dropout's draws among them, and what batch norm has gathered."""
    networks = [network(seed, schema, shape, head).train() for seed in range(K)]
    parts = ready(networks, schema)
    stack = Stack(networks, [torch.Generator().manual_seed(10 + k) for k in range(K)]).train()
    assert stack.direct
    raw = stack.branches(together(parts))[0].raw
    sum((x**2).sum() for x in raw.values()).backward()  # type: ignore[union-attr]
    tensors = stack.state() | {f"{n}.grad": gradient(stack, n) for n, _ in stack.network.named_parameters()}
    for k, net in enumerate(networks):
        with torch.random.fork_rng():
            torch.manual_seed(10 + k)
            alone = net.branches(parts[k])[0].raw
        sum((x**2).sum() for x in alone.values()).backward()  # type: ignore[union-attr]
        for name, x in alone.items():
            assert torch.allclose(raw[name][k], x, atol=1e-5)
        for name, parameter in net.named_parameters():
            assert torch.allclose(tensors[f"{name}.grad"][k], parameter.grad, atol=1e-4), name  # type: ignore[index, arg-type]
        for name, buffer in net.named_buffers():
            if not name.startswith("preprocessing."):
                assert torch.allclose(tensors[name][k], buffer, atol=1e-5), name  # type: ignore[index]


@pytest.mark.parametrize("shape", SHAPES)
def test_in_use_features_and_outputs_are_those_of_each(shape: Any) -> None:
    networks = [network(seed, TABLE, shape).eval() for seed in range(K)]
    parts = ready(networks)
    features, raw = Stack(networks).eval()(together(parts))
    for k, net in enumerate(networks):
        its, own = net.after(parts[k])
        assert torch.allclose(features[k], its, atol=1e-6)
        assert all(torch.allclose(raw[name][k], own[name], atol=1e-6) for name in own)


@pytest.mark.parametrize(("shape", "schema"), MAPPED)
def test_other_layers_are_mapped_over(shape: Any, schema: Schema) -> None:
    networks = [network(seed, schema, shape).train() for seed in range(K)]
    parts = ready(networks, schema)
    stack = Stack(networks).train()
    assert not stack.direct
    raw = stack.branches(together(parts))[0].raw
    raw["kind"].square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in stack.network.named_parameters()}
    for k, net in enumerate(networks):
        alone = net.branches(parts[k])[0].raw
        alone["kind"].square().sum().backward()
        assert torch.allclose(raw["kind"][k], alone["kind"], atol=1e-5)
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:
                assert torch.allclose(gradients[name][k], parameter.grad, atol=1e-4), name  # type: ignore[index]
        for name, buffer in net.named_buffers():
            if "running" in name:
                assert torch.allclose(stack.state()[name][k], buffer, atol=1e-5), name


@given(seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=4, unique=True))
def test_the_stack_s_tensors_are_the_networks_own(seeds: list[int]) -> None:
    networks = [network(seed) for seed in seeds]
    state = Stack(networks).state()
    for k, net in enumerate(networks):
        mine = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("preprocessing.")}
        assert state.keys() == mine.keys()
        assert all(torch.equal(state[name][k], tensor) for name, tensor in mine.items())


def test_the_networks_are_left_as_they_are() -> None:
    networks = [network(seed) for seed in range(K)]
    before = {name: tensor.clone() for name, tensor in networks[0].state_dict().items()}
    stack = Stack(networks)
    with torch.no_grad():
        for parameter in stack.network.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in networks[0].state_dict().items())
    assert type(networks[0].backbone.layers[0]) is nn.Linear  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("shape", "schema", "expected"),
    [
        ("mlp", TABLE, (True, False)),  # of dropout, vmap would make other draws
        ({"mlp": {"dropout": 0.0}}, TABLE, (True, True)),
        ({"mlp": {"numbers": "linear"}}, TABLE, (False, False)),
        ({"mlp": {"numbers": "linear", "dropout": 0.0}}, TABLE, (False, True)),
        ({"cnn": {"channels": [3], "dropout": 0.0}}, PICTURES, (False, True)),
        ({"cnn": {"channels": [3]}}, PICTURES, (False, False)),
        ({"tabm": {"copies": 2, "width": 4, "layers": 1}}, TABLE, (False, False)),
    ],
)
def test_which_networks_can_be_stacked(shape: Any, schema: Schema, expected: tuple[bool, bool]) -> None:
    assert (known(network(0, schema, shape)), mappable(network(0, schema, shape))) == expected


def test_what_can_t_be_stacked_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be stacked"):
        Stack([network(seed, PICTURES, {"cnn": {"channels": [3]}}) for seed in range(2)])


def test_a_layer_without_a_bias_is_a_plain_product() -> None:
    layer: Callable[[Tensor], Tensor]
    networks = [network(seed, TABLE, {"mlp": {"hidden": [5, 3], "residual": True, "dropout": 0.0}}) for seed in range(2)]
    stack = Stack(networks)
    layer = stack.network.backbone.layers[0].shortcut  # type: ignore[index, union-attr]
    x = torch.randn(2, 4, networks[0].backbone.layers[0].shortcut.in_features, generator=torch.Generator().manual_seed(0))  # type: ignore[index, union-attr]
    for k, net in enumerate(networks):
        assert torch.allclose(layer(x)[k], net.backbone.layers[0].shortcut(x[k]), atol=1e-6)  # type: ignore[index, union-attr]
