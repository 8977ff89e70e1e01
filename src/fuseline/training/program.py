"""What is trained: one network, or several of one shape as one; to the trainer all have a first axis of K networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from fuseline.devices import autocast
from fuseline.models.network import Branch, Network
from fuseline.models.preprocessing import Batch
from fuseline.models.stack import Stack
from fuseline.training.checkpoint import put, tensors
from fuseline.training.pace import Pace


class Alone:
    """One network: K = 1."""

    def __init__(self, network: Network, pace: Pace) -> None:
        self.module: nn.Module = network
        self.network, self.pace = network, pace
        pace.apply(network)

    def branches(self, ready: Batch) -> list[Branch]:
        """What it says of preprocessed rows (1, B, …) while training (1, B, ·)."""
        with autocast(self._device, self.pace.precision):
            said = self.network.branches(self._its(ready))
        return [Branch(branch.weight, _float(branch.raw)) for branch in said]

    def raw(self, ready: Batch) -> dict[str, Tensor]:
        """What it says of preprocessed rows (1, B, …) in use (1, B, ·)."""
        with autocast(self._device, self.pace.precision):
            return _float(self.network.after(self._its(ready))[1])

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _its(self, ready: Batch) -> Batch:
        return self.pace.laid_out({name: x[0] for name, x in ready.items()})

    def state(self) -> dict[str, Tensor]:
        return {name: tensor[None] for name, tensor in self.network.state_dict().items()}

    def keep(self, index: Tensor, optimizer: optim.Optimizer) -> None:
        """The only one is kept, or nothing goes on."""

    def saved(self) -> dict[str, Any]:
        """All that steps have changed, for a checkpoint."""
        return {"tensors": tensors(self.module)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved of the same networks.

        Raises:
            ValueError: they were others.
        """
        put(self.module, saved["tensors"])


class Together:
    """K networks as a stack, of which some may leave."""

    def __init__(self, networks: Sequence[Network], generators: Sequence[torch.Generator]) -> None:
        self.stack = Stack(networks, generators)
        self.generators = list(generators)
        self.module: nn.Module = self.stack.network

    def branches(self, ready: Batch) -> list[Branch]:
        return self.stack.branches(ready)

    def raw(self, ready: Batch) -> dict[str, Tensor]:
        return self.stack(ready)[1]  # type: ignore[no-any-return]

    def state(self) -> dict[str, Tensor]:
        return self.stack.state()

    def keep(self, index: Tensor, optimizer: optim.Optimizer) -> None:
        """Go on with some of the networks alone, with what the optimizer knows of them; the others cost nothing more."""
        members = len(self.generators)
        for parameter in self.module.parameters():
            for name, known in optimizer.state.get(parameter, {}).items():
                if isinstance(known, Tensor) and known.shape[:1] == (members,):
                    optimizer.state[parameter][name] = known[index]
            parameter.data = parameter.data[index]
            parameter.grad = None
        for buffer in self.module.buffers():
            buffer.data = buffer.data[index]
        self.generators = [self.generators[i] for i in index.tolist()]
        self.stack.draw_from(self.generators)

    def saved(self) -> dict[str, Any]:
        """As :meth:`Alone.saved`."""
        return {"tensors": tensors(self.module), "generators": [generator.get_state() for generator in self.generators]}

    def restore(self, saved: dict[str, Any]) -> None:
        """As :meth:`Alone.restore`."""
        put(self.module, saved["tensors"])
        for generator, state in zip(self.generators, saved["generators"], strict=True):
            generator.set_state(state)


def _float(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    """In float32, as losses want it, with a first axis for the one network."""
    return {name: x.float()[None] for name, x in raw.items()}


Program = Alone | Together
"""What the trainer moves: ``branches`` to learn from, ``raw`` to be judged by, ``state`` to be kept."""
