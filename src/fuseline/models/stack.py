"""Networks of one shape as one: their tensors stacked, so that one operation does the work of all.

Shapes: K networks, B rows for each, D features. Layers that are known here act on (K, B, D) by themselves (a batched matrix
product takes the place of K small ones); networks with other layers are mapped over by ``torch.func.vmap``, which any layer
understands but which costs each operation some 20 µs more: little on a GPU, and on a CPU more than small layers take.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fuseline.models.heads import Head
from fuseline.models.network import Branch, Network
from fuseline.models.preprocessing import Batch
from fuseline.models.tabular import MLP, Skip

Features = tuple[Tensor, dict[str, Tensor]]


class Linear(nn.Linear):
    """Weights (K, in, out): the products of a step and their gradients then read and write them as they lie."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias[:, None], x, self.weight)


class LayerNorm(nn.LayerNorm):
    """Weights (K, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, eps=self.eps) * self.weight[:, None] + self.bias[:, None]


class BatchNorm(nn.BatchNorm1d):
    """Weights and statistics (K, D): K · D columns of one batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        k, b, d = x.shape
        flat = F.batch_norm(
            x.transpose(0, 1).reshape(b, k * d),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return flat.view(b, k, d).transpose(0, 1)


class Embedding(nn.Embedding):
    """Weights (K, words, D)."""

    def forward(self, codes: Tensor) -> Tensor:
        return self.weight[torch.arange(len(codes), device=codes.device)[:, None], codes]


class Dropout(nn.Dropout):
    """Each network's own draws, from a generator of its own: the very ones that it would take alone."""

    generators: Sequence[torch.Generator] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        noise = torch.empty_like(x)
        for part, generator in zip(noise, self.generators, strict=True):
            part.bernoulli_(1 - self.p, generator=generator)
        return x * noise.div_(1 - self.p)


STACKED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.LayerNorm: LayerNorm,
    nn.BatchNorm1d: BatchNorm,
    nn.Embedding: Embedding,
    nn.Dropout: Dropout,
}

AS_IT_IS = (Network, MLP, Skip, Head, nn.Sequential, nn.ModuleList, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity)
"""What holds other modules, or treats each number by itself."""

DRAWS = (nn.modules.dropout._DropoutNd, nn.RReLU)


def known(network: Network) -> bool:
    """Whether all that a network does after its preprocessing can be done on stacked tensors."""
    return network.copies is None and all(
        type(module) in STACKED or type(module) in AS_IT_IS
        for name, module in network.named_modules()
        if name.split(".")[0] != "preprocessing"
    )


def mappable(network: Network) -> bool:
    """Whether ``vmap`` can run it: it draws nothing at random, and has no branch that is only there while it trains."""
    return not len(network.auxiliary) and not any(isinstance(m, DRAWS) and getattr(m, "p", 1) > 0 for m in network.modules())


class Stack(nn.Module):
    """K networks of one shape; ``network`` is a copy of the first, whose parameters and buffers are those of all (K, …).

    Preprocessing stays with the networks themselves: what goes in here is preprocessed.

    Args:
        networks: of one specification, on one device.
        generators: for each network what its dropout draws from.

    Raises:
        ValueError: the networks can be neither stacked nor mapped.
    """

    def __init__(self, networks: Sequence[Network], generators: Sequence[torch.Generator] = ()) -> None:
        super().__init__()
        self.network = copy.deepcopy(networks[0])
        self.direct = known(self.network)
        if not self.direct and not mappable(self.network):
            raise ValueError("these networks have layers that can't be stacked")
        for module in self.network.modules() if self.direct else ():
            module.__class__ = STACKED.get(type(module), type(module))  # its settings are as they were
        _in_place(self.network)
        del self.network.preprocessing
        self.turned = {f"{name}.weight" for name, module in self.network.named_modules() if isinstance(module, Linear)}
        states = [network.state_dict() for network in networks]
        for name, tensor in [*self.network.named_parameters(), *self.network.named_buffers()]:
            stacked = torch.stack([state[name] for state in states])
            tensor.data = stacked.transpose(1, 2).contiguous() if name in self.turned else stacked
        self.draw_from(generators)

    def draw_from(self, generators: Sequence[torch.Generator]) -> None:
        for module in self.network.modules():
            if isinstance(module, Dropout):
                module.generators = generators

    def forward(self, ready: Batch) -> Features:
        """Features (K, B, D) and each head's raw output (K, B, ·), of preprocessed inputs (K, B, …)."""
        if self.direct:
            return self.network.after(ready)
        return self._mapped(ready)

    def branches(self, ready: Batch) -> list[Branch]:
        """What the heads say while training; see :meth:`fuseline.models.network.Network.branches`."""
        return [Branch(1.0, self(ready)[1])]

    def _mapped(self, ready: Batch) -> Features:
        tensors = dict([*self.network.named_parameters(), *self.network.named_buffers()])
        through = _Through(self.network)

        def one(own: dict[str, Tensor], batch: Batch) -> Features:
            said: Features = functional_call(through, own, (batch,))
            return said

        together: Features = torch.func.vmap(one)({f"network.{name}": t for name, t in tensors.items()}, ready)
        return together

    def state(self) -> dict[str, Tensor]:
        """All tensors (K, …) as the networks have them, by their own names."""
        tensors = {name: tensor.detach() for name, tensor in self.network.state_dict().items()}
        return {name: tensor.transpose(1, 2) if name in self.turned else tensor for name, tensor in tensors.items()}


def _in_place(network: nn.Module) -> None:
    """Let a ReLU overwrite what the linear layer before it gives, which nothing else looks at."""
    for module in network.modules():
        layers = list(module) if isinstance(module, nn.Sequential) else []
        for before, after in pairwise(layers):
            if isinstance(before, Linear) and isinstance(after, nn.ReLU):
                after.inplace = True


class _Through(nn.Module):
    """A network from its preprocessed inputs on, as the module that ``functional_call`` wants."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ready: Batch) -> Features:
        return self.network.after(ready)
