"""32 MLPs 64-64-64-10 on digits: torchensemble, a plain loop, a bare stack, and ours. All with AdamW, by the same settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from speed import bare_stack, plain
from speed.clock import timed
from speed.material import digits, scored, standardised

HIDDEN, CLASSES = [64, 64], 10


class MLP(nn.Module):
    """As torchensemble wants it: a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = plain.mlp(64, HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


def tensors(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
    material = digits(rows)
    x, test = standardised(material)
    return torch.from_numpy(x), torch.from_numpy(material.y), torch.from_numpy(test), material.test_y


def torchensemble(members: int, rows: int, epochs: int, size: int, round: int) -> dict[str, float]:
    from speed.peers import vote

    torch.manual_seed(round)
    x, y, test, truth = tensors(rows)
    vote(MLP, {}, 2, 1, size, x[:256].numpy(), y[:256].numpy())
    ensemble, seconds = timed(lambda: vote(MLP, {}, members, epochs, size, x.numpy(), y.numpy()))
    with torch.no_grad():
        return {"seconds": seconds, **scored(ensemble(test).numpy(), truth)}


def loop(members: int, rows: int, epochs: int, size: int, round: int, threads: int) -> dict[str, float]:
    """One network after the other, batches by index from tensors."""
    torch.set_num_threads(threads)
    torch.manual_seed(round)
    x, y, test, truth = tensors(rows)

    def train(count: int, rows: int, epochs: int) -> list[nn.Module]:
        return [plain.fit(plain.mlp(64, HIDDEN, CLASSES), x[:rows], y[:rows], epochs, size) for _ in range(count)]

    train(2, 256, 1)
    networks, seconds = timed(lambda: train(members, rows, epochs))
    return {"seconds": seconds, **scored(plain.predict(networks, test).numpy(), truth)}


def bare(members: int, rows: int, epochs: int, size: int, round: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(round)
    x, y, test, truth = tensors(rows)
    x, test, widths = x.flatten(1), test.flatten(1), [64, *HIDDEN, CLASSES]
    bare_stack.train(x[:256], y[:256], widths, 2, 1, size, plain.RATE)
    found, seconds = timed(lambda: bare_stack.train(x, y, widths, members, epochs, size, plain.RATE))
    return {"seconds": seconds, **scored(bare_stack.predict(found, test).numpy(), truth)}


def ours(members: int, rows: int, epochs: int, size: int, round: int, threads: int) -> dict[str, float]:
    from speed import fuselines

    material = digits(rows)
    dataset = fuselines.pictures(material.x, material.y, CLASSES)
    spec = fuselines.spec({"mlp": {"hidden": HIDDEN, "dropout": 0.0}}, epochs, size, threads)
    fuselines.together(dataset, spec, [fuselines.share(256)] * 2, [0, 1])
    shares, seeds = [fuselines.share(rows)] * members, [1000 * round + member for member in range(members)]
    networks, seconds = timed(lambda: fuselines.together(dataset, spec, shares, seeds))
    return {"seconds": seconds, **scored(fuselines.said(networks, material.test_x), material.test_y)}
