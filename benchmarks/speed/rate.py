"""How far the inner loop is from what the machine's matrix products reach, in one process, with the same threads."""

from __future__ import annotations

from itertools import pairwise

import torch

from speed import fuselines
from speed.clock import repeated, timed
from speed.material import digits
from speed.mlps import CLASSES, HIDDEN

WIDTHS = [64, *HIDDEN, CLASSES]
SQUARE = 2048


def measure(members: int, rows: int, epochs: int, size: int, round: int, threads: int) -> dict[str, float]:
    """In GFLOP/s: a large product, the stack's own products (forward, and backward by weights and inputs), and the training."""
    torch.set_num_threads(threads)
    big = torch.randn(SQUARE, SQUARE)
    peak = 2 * SQUARE**3 / repeated(lambda: big @ big)
    operands = shapes(members, size)
    stack = products(members, size) / repeated(lambda: multiply(operands))
    material = digits(rows)
    dataset = fuselines.pictures(material.x, material.y, CLASSES)
    spec = fuselines.spec({"mlp": {"hidden": HIDDEN, "dropout": 0.0}}, epochs, size, threads)
    fuselines.together(dataset, spec, [fuselines.share(256)] * 2, [0, 1])
    seeds = [1000 * round + member for member in range(members)]
    _, seconds = timed(lambda: fuselines.together(dataset, spec, [fuselines.share(rows)] * members, seeds))
    loop = products(members, rows) * epochs / seconds
    return {"peak": peak / 1e9, "stack": stack / 1e9, "loop": loop / 1e9, "share": loop / peak}


def products(members: int, rows: int) -> float:
    """The operations of the matrix products of one pass over some rows, forward and backward: each layer multiplies once forward
    and twice backward, but the first needs no gradient of its inputs."""
    layers = [2.0 * members * rows * a * b for a, b in pairwise(WIDTHS)]
    return 3 * sum(layers) - layers[0]


Operands = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def shapes(members: int, size: int) -> Operands:
    """Per layer the inputs (M, B, D), the weights (M, D, E), and the outputs' gradient (M, B, E)."""
    pairs = pairwise(WIDTHS)
    return [(torch.randn(members, size, a), torch.randn(members, a, b), torch.randn(members, size, b)) for a, b in pairs]


def multiply(operands: Operands) -> None:
    for number, (inputs, weights, gradient) in enumerate(operands):
        torch.bmm(inputs, weights)
        torch.bmm(inputs.mT, gradient)
        if number:
            torch.bmm(gradient, weights.mT)
