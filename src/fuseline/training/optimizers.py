"""Optimizers: functions ``(parameters, *, settings) → optimizer``.

``parameters`` are parameters, or groups ``{"params": [...], "lr": rate}``; a group without a rate has the setting's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn, optim

Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Group = dict[str, Any]
Parameters = Iterable[nn.Parameter] | Iterable[Group]


def sgd(
    parameters: Parameters, *, lr: Rate = 0.05, momentum: Momentum = 0.9, weight_decay: Decay = 5e-4, nesterov: bool = True
) -> optim.Optimizer:
    """Stochastic gradient descent with (Nesterov) momentum."""
    nesterov = nesterov and momentum > 0
    return optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)


def adam(parameters: Parameters, *, lr: Rate = 1e-3, weight_decay: Decay = 0.0) -> optim.Optimizer:
    """Adam (Kingma and Ba 2015)."""
    return optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)


def adamw(parameters: Parameters, *, lr: Rate = 3e-3, weight_decay: Decay = 0.01) -> optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True)


def muon(parameters: Parameters, *, lr: Rate = 3e-3, momentum: Momentum = 0.95, weight_decay: Decay = 0.01) -> optim.Optimizer:
    """Muon (Jordan et al. 2024) for matrices, and AdamW for all else: vectors, convolutions, and groups marked ``outer``.

    Muon makes the singular values of a matrix's update about equal. The update is scaled by 0.2 √max(rows, columns), so that
    it is as large as AdamW's, and one rate and one decay serve both (Liu et al. 2025, section 2.2). A matrix does not tell
    that it is an embedding or an output layer, which Jordan et al. leave to AdamW: `outer_apart` marks those.
    """
    matrices, rest = _by_shape(_groups(parameters))
    parts: list[optim.Optimizer] = []
    if matrices:
        parts.append(optim.Muon(matrices, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"))
    if rest:
        parts.append(optim.AdamW(rest, lr, weight_decay=weight_decay, fused=True))
    return Joined(parts)


class Joined(optim.Optimizer):
    """Optimizers of different parameters, as one: one list of groups and one state, of which each part sees its own.

    The groups are the parts' own dicts, so that a rate which a scheduler sets here is the part's rate.
    """

    def __init__(self, parts: list[optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # torch puts a new list and a new state in the place of the old ones

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def outer_apart(parameters: Parameters, network: nn.Module, heads: Iterable[nn.Module]) -> list[Group]:
    """Groups in which the embeddings of ``network`` and the last linear layer of each head stand apart, marked ``outer``.

    Only `muon` heeds the mark. Every group keeps its rate, and none is empty.
    """
    modules: list[nn.Module] = [module for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    for head in heads:
        modules += [module for module in head.modules() if isinstance(module, nn.Linear)][-1:]
    outer = {id(module.weight) for module in modules}
    groups = []
    for group in _groups(parameters):
        for marked in (False, True):
            members = [p for p in group["params"] if (id(p) in outer) is marked]
            groups += [{**group, "params": members, "outer": marked}] if members else []
    return groups


def _groups(parameters: Parameters) -> list[Group]:
    """Groups, with their parameters in lists."""
    given: list[Any] = list(parameters)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    return [{**group, "params": list(group["params"])} for group in groups]


def _by_shape(groups: list[Group]) -> tuple[list[Group], list[Group]]:
    """The groups' matrices, but for groups marked ``outer``, and what else is in them; no group is empty."""
    parts: tuple[list[Group], list[Group]] = [], []
    for group in groups:
        for part, matrix in zip(parts, (True, False), strict=True):
            members = [p for p in group["params"] if (p.ndim == 2 and not group.get("outer", False)) is matrix]
            part.extend([{**group, "params": members}] if members else [])
    return parts


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {"adamw": adamw, "adam": adam, "sgd": sgd, "muon": muon}
