"""The limit: same-shape MLPs as one stacked program and nothing else, in the 40 lines below."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


def train(x: Tensor, y: Tensor, widths: list[int], members: int, epochs: int, size: int, rate: float) -> list[Tensor]:
    """Members trained side by side on the rows x (N, D), y (N,), each in an order of its own: weights and biases by layer."""
    layers = list(pairwise(widths))
    tensors = []
    for before, after in layers:
        bound = before**-0.5
        tensors.append(torch.empty(members, before, after).uniform_(-bound, bound).requires_grad_())
        tensors.append(torch.empty(members, 1, after).uniform_(-bound, bound).requires_grad_())
    optimizer = torch.optim.AdamW(tensors, rate, fused=True)
    for _ in range(epochs):
        order = torch.stack([torch.randperm(len(x)) for _ in range(members)])
        for rows in order.tensor_split(len(x) // size, 1):
            index = rows.flatten()  # index_select copies rows four times as fast as x[rows] does
            out = forward(tensors, x.index_select(0, index).view(*rows.shape, -1))
            loss = F.cross_entropy(out.flatten(0, 1), y.index_select(0, index), reduction="sum") / rows.shape[1]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return tensors


def forward(tensors: list[Tensor], h: Tensor) -> Tensor:
    """Logits (M, B, C) of inputs (M, B, D)."""
    for i in range(0, len(tensors), 2):
        h = torch.baddbmm(tensors[i + 1], h, tensors[i])
        h = h.relu_() if i < len(tensors) - 2 else h
    return h


@torch.no_grad()
def predict(tensors: list[Tensor], x: Tensor) -> Tensor:
    """The members' mean probabilities (B, C)."""
    return forward(tensors, x.expand(tensors[0].shape[0], *x.shape)).softmax(-1).mean(0)
