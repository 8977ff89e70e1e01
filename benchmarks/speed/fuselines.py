"""How the benchmarks call fuseline: the one place that knows how its data sets, specifications and trainer look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset, content_hash
from fuseline.data.schema import Schema, TargetSchema
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS
from fuseline.models.losses import LOSSES
from fuseline.models.network import Network, NetworkSpec
from fuseline.partition import Share
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.schedules import SCHEDULES
from fuseline.training.train import TrainSpec
from speed.plain import RATE

TARGET = "target"


def _dataset(schema: Schema, inputs: dict[str, NDArray[Any]], y: NDArray[np.int64]) -> Dataset:
    ids, content = np.arange(len(y)).astype(str), content_hash(schema, inputs)
    return Dataset("", "memory", "", schema, ids, content, inputs, {TARGET: y}, None)


def _classes(count: int) -> dict[str, TargetSchema]:
    return {TARGET: TargetSchema(kind="classification", classes=list(range(count)))}


def pictures(x: NDArray[np.uint8], y: NDArray[np.int64], classes: int) -> Dataset:
    """A data set of pictures (N, C, H, W)."""
    image = (x.shape[1], x.shape[2], x.shape[3])
    return _dataset(Schema(image=image, image_dtype="uint8", targets=_classes(classes)), {"image": x}, y)


def table(x: NDArray[np.float64], y: NDArray[np.int64], classes: int) -> Dataset:
    """A data set of numeric columns (N, P)."""
    schema = Schema(numeric=[f"x{j}" for j in range(x.shape[1])], targets=_classes(classes))
    return _dataset(schema, {"numeric": x}, y)


def network_spec(architecture: dict[str, Any]) -> NetworkSpec:
    made = complete(Component.model_validate(architecture), ARCHITECTURES, "architecture")
    return NetworkSpec(architecture=made, heads={TARGET: complete(Component(name="linear"), HEADS, "head")})


def spec(architecture: dict[str, Any], epochs: int, size: int, threads: int, **changes: Any) -> TrainSpec:
    """How a member is trained: AdamW at one rate throughout, no early stopping, no augmentation."""
    loss = LOSSES["classification"]
    return TrainSpec(
        **{
            "network": network_spec(architecture),
            "losses": {TARGET: complete(Component(name=next(iter(loss))), loss, "loss")},
            "weights": {TARGET: 1.0},
            "epochs": epochs,
            "batch_size": size,
            "optimizer": complete(Component(name="adamw", settings={"lr": RATE}), OPTIMIZERS, "optimizer"),
            "schedule": complete(Component(name="constant"), SCHEDULES, "schedule"),
            "augment": [],
            "patience": None,
            "device": "cpu",
            "threads": threads,
            **changes,
        }
    )


def share(rows: int) -> Share:
    """A member that is trained on the first ``rows`` rows."""
    return Share(np.arange(rows))


def together(dataset: Dataset, spec: TrainSpec, shares: Sequence[Share], seeds: Sequence[int]) -> list[Network]:
    """Members trained as one, in this process, with as many threads as the specification says."""
    from fuseline.training.train import train_together

    torch.set_num_threads(spec.threads)
    return [trained.network for trained in train_together(dataset, spec, shares, seeds)]


@torch.inference_mode()
def said(networks: Sequence[Network], x: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The members' mean probabilities of pictures (B, C)."""
    batch = {"image": torch.from_numpy(x)}
    return torch.stack([network.eval().say(batch).values[TARGET] for network in networks]).mean(0).numpy()
