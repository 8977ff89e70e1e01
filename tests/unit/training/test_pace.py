"""At what pace a network trains: what is tried, what is kept, and that every pace trains the same network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.network import Network, NetworkSpec
from fuseline.partition import Share
from fuseline.store import Store
from fuseline.timing import Decision
from fuseline.training import pace as paces
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.pace import PACES, Pace, Step, quickest
from fuseline.training.train import TrainSpec, train

TARGETS = {"y": TargetSchema(kind="classification", classes=["a", "b"])}
PICTURES = Schema(image=(1, 8, 8), targets=TARGETS)
TABLE = Schema(numeric=["x"], targets=TARGETS)
RESNET = {"resnet": {"widths": [4, 4], "blocks": [1]}}
CNN = {"cnn": {"channels": [4], "features": 4}}


def spec(architecture: Any) -> NetworkSpec:
    component = complete(Component.model_validate(architecture), ARCHITECTURES, "architecture")
    return NetworkSpec(architecture=component, heads={"y": Component(name="linear")})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Step]]:
    """What was to be timed; the last way is the fastest, and a row takes a second."""
    seen: list[dict[str, Step]] = []

    def decided(store: Store, what: Any, ways: dict[str, Step], **options: Any) -> Decision:
        seen.append(dict(ways))
        return Decision(chosen=list(ways)[-1], seconds=dict.fromkeys(ways, 1.0), why=f"{list(ways)[-1]} it is")

    monkeypatch.setattr(paces, "decided", decided)
    return seen


@pytest.fixture
def in_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """fuseline's own networks lie channels last from the start; others, as torchvision's, don't."""
    made = Network.__init__

    def contiguous(self: Network, *given: Any) -> None:
        made(self, *given)
        self.to(memory_format=torch.contiguous_format)

    monkeypatch.setattr(Network, "__init__", contiguous)


@pytest.mark.usefixtures("in_planes")
@pytest.mark.parametrize(("units", "more"), [(False, []), (True, ["bfloat16", "bfloat16, channels last"])])
def test_networks_in_planes_are_tried_channels_last(
    store: Store, asked: list[dict[str, Step]], monkeypatch: pytest.MonkeyPatch, units: bool, more: list[str]
) -> None:
    monkeypatch.setattr(paces, "has_bf16", lambda device: units)
    assert quickest(PICTURES, spec(RESNET), "cpu", 64, 100, store)[0] == PACES[["channels last", *more][-1]]
    assert [list(ways) for ways in asked] == [["plain", "channels last", *more]]
    step = asked[0]["channels last"]
    step()
    assert step.network is not None
    weights = [p for p in step.network.parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert any(not w.is_contiguous() for w in weights)


@pytest.mark.parametrize(
    ("architecture", "schema", "units", "expected"),
    [
        (CNN, PICTURES, True, ["plain", "bfloat16"]),  # its weights lie channels last already
        (CNN, PICTURES, False, None),
        ("mlp", PICTURES, True, None),
        ("mlp", TABLE, True, None),
    ],
)
def test_only_what_may_be_faster_is_tried(
    store: Store,
    asked: list[dict[str, Step]],
    monkeypatch: pytest.MonkeyPatch,
    architecture: Any,
    schema: Schema,
    units: bool,
    expected: list[str] | None,
) -> None:
    monkeypatch.setattr(paces, "has_bf16", lambda device: units)
    found, why = quickest(schema, spec(architecture), "cpu", 64, 100, store)
    assert [list(ways) for ways in asked] == ([] if expected is None else [expected])
    assert found == (Pace() if expected is None else PACES[expected[-1]])
    assert why == ("there is one way" if expected is None else f"{expected[-1]} it is")
    for ways in asked:
        for step in ways.values():
            assert step.rows == 16
            step()


@pytest.mark.usefixtures("in_planes")
def test_compiling_is_tried_where_training_is_long(store: Store, asked: list[dict[str, Step]]) -> None:
    found, why = quickest(PICTURES, spec(RESNET), "cpu", 64, 1801, store)
    assert [list(ways) for ways in asked] == [["plain", "channels last"], ["as it is", "compiled"]]
    assert asked[1]["compiled"].pace == found == Pace(channels_last=True, compiled=True)
    assert why == "channels last it is; compiled it is"


@pytest.mark.usefixtures("in_planes")
def test_what_was_timed_once_is_not_timed_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quickest(PICTURES, spec(RESNET), "cpu", 64, 100, store)
    monkeypatch.setattr(Step, "__call__", lambda self: pytest.fail("it was timed again"))
    assert quickest(PICTURES, spec(RESNET), "cpu", 64, 100, store) == first


def test_a_compiled_pace_compiles_the_backbone_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: compiled.append(self))
    step = Step(PICTURES, spec(RESNET), "cpu", 4, Pace(compiled=True))
    step()
    assert step.network is not None
    assert compiled == [step.network.backbone]


@pytest.mark.parametrize(("pace", "near"), [(Pace(channels_last=True), 1e-4), (Pace(precision="bfloat16"), 0.05)])
def test_every_pace_trains_the_same_network(
    dataset_of: Callable[..., Dataset], spec_of: Callable[..., TrainSpec], pace: Pace, near: float
) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (48, 1, 8, 8), dtype=np.uint8)
    dataset = dataset_of(images, {"y": (images.mean((1, 2, 3)) > 127).astype(np.int64)})
    plain = spec_of(dataset, RESNET, epochs=2, batch_size=16, patience=5)
    plain = plain.model_copy(update={"optimizer": complete(Component(name="sgd"), OPTIMIZERS, "optimizer")})
    share = Share(np.arange(36), np.arange(36, 48))
    one, other = (train(dataset, s, share, 0) for s in (plain, plain.model_copy(update={"pace": pace})))
    for name, tensor in one.network.state_dict().items():
        assert torch.allclose(other.network.state_dict()[name].double(), tensor.double(), atol=near), name
    assert other.curve[-1].holdout == pytest.approx(one.curve[-1].holdout, rel=near)
    assert all(tensor.dtype != torch.bfloat16 for tensor in other.network.state_dict().values())
