"""How networks are computed while they train: in what precision, in what order of memory, compiled or not.

A short timing says which of these is faster on this machine, once for each kind of network; what it said is kept in the store
and is part of a replica's key.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fuseline.component import Part
from fuseline.data.schema import Schema
from fuseline.devices import autocast, has_bf16, seeded, synchronise
from fuseline.models.network import Network, NetworkSpec, blank, some_rows
from fuseline.models.preprocessing import Batch
from fuseline.store import Store
from fuseline.timing import decided

PIXELS = 1 << 14
"""A trial on a CPU takes as many pictures, up to ``ROWS``, as have so many pixels; two at least, for batch norm."""
ROWS = 16

WORTH_COMPILING = 1800.0
"""Compiling takes a minute or two: it is tried where training would take so many seconds without."""


class Pace(Part):
    """What was decided; as it stands here, the plain way.

    Attributes:
        stacked: whether the network is one of a stack, see :mod:`fuseline.training.units`.
        precision: of what autocast deems safe.
        channels_last: whether pictures lie in memory pixel by pixel.
    """

    stacked: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compiled: bool = False

    def apply(self, network: Network) -> None:
        """Make a network ready for this pace; its weights stay what they are."""
        if self.channels_last:
            network.backbone.to(memory_format=torch.channels_last)
        if self.compiled:
            network.backbone.compile(dynamic=True)

    def laid_out(self, ready: Batch) -> Batch:
        """Inputs (B, …) in the order of memory that the network wants."""
        if not self.channels_last or "image" not in ready:
            return ready
        return ready | {"image": ready["image"].contiguous(memory_format=torch.channels_last)}


PACES = {
    "plain": Pace(),
    "channels last": Pace(channels_last=True),
    "bfloat16": Pace(precision="bfloat16"),
    "bfloat16, channels last": Pace(precision="bfloat16", channels_last=True),
}


def quickest(schema: Schema, spec: NetworkSpec, device: str, batch_size: int, rows: int, store: Store) -> tuple[Pace, str]:
    """The pace at which a kind of network trains the fastest here, and why.

    Args:
        rows: how many rows it will be trained on in all its epochs, for whether compiling is worth its time.
    """
    convolutions = [module for module in blank(schema, spec).modules() if isinstance(module, nn.Conv2d)]
    names = ["plain"]
    names += ["channels last"] if any(_in_planes(module.weight) for module in convolutions) else []
    names += ["bfloat16"] if has_bf16(device) else []
    names += ["bfloat16, channels last"] if len(names) == 3 else []
    if len(names) == 1 or (not convolutions and device == "cpu"):
        return Pace(), "there is one way"
    size = batch_size if device != "cpu" else max(2, min(batch_size, ROWS, PIXELS // _pixels(schema)))
    what = {"what": "pace", "schema": schema, "network": spec, "device": device, "size": size}
    ways = {name: Step(schema, spec, device, size, PACES[name]) for name in names}
    decision = decided(store, what, ways, rounds=3, work=size, unit="a row")
    pace, why = PACES[decision.chosen], decision.why
    if decision.seconds[decision.chosen] * rows > WORTH_COMPILING:
        ways = {"as it is": ways[decision.chosen]}
        ways["compiled"] = Step(schema, spec, device, size, pace.model_copy(update={"compiled": True}))
        decision = decided(store, {**what, "pace": pace}, ways, rounds=3, work=size, unit="a row")
        pace = pace.model_copy(update={"compiled": decision.chosen == "compiled"})
        why = f"{why}; {decision.why}"
    return pace, why


class Step:
    """A forward and a backward pass over some rows, of a network that is built when it is first asked for."""

    def __init__(self, schema: Schema, spec: NetworkSpec, device: str, rows: int, pace: Pace) -> None:
        self.schema, self.spec, self.device, self.rows, self.pace = schema, spec, device, rows, pace
        self.network: Network | None = None
        self.ready: Batch = {}

    def __call__(self) -> None:
        if self.network is None:
            with seeded(0, self.device):
                self.network = Network(self.schema, self.spec).to(self.device).train()
            self.ready = self.network.preprocessing(some_rows(self.schema, self.rows, self.device))
            self.pace.apply(self.network)
        with autocast(self.device, self.pace.precision):
            said = self.network.branches(self.pace.laid_out(self.ready))
        loss = torch.stack([raw.float().square().mean() for branch in said for raw in branch.raw.values()]).sum()
        self.network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        synchronise(self.device)


def _in_planes(weight: Tensor) -> bool:
    """Whether a convolution's weights don't lie channels last already."""
    return not weight.is_contiguous(memory_format=torch.channels_last)


def _pixels(schema: Schema) -> int:
    return 1 if schema.image is None else schema.image[1] * schema.image[2]
