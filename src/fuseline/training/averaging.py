"""Averages of a network's weights over its training: functions ``(*, settings) → Average``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from fuseline.training.checkpoint import put, tensors

Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """A mean of a network's weights. The trainer calls both hooks always, and each kind of average uses the one it needs.

    Attributes:
        fresh_statistics: whether the averaged network's batch norm statistics must be computed anew.
    """

    fresh_statistics = False

    def __init__(self) -> None:
        self._averaged: AveragedModel | None = None

    def after_step(self, network: nn.Module) -> None:
        """After every step of the optimizer."""

    def after_epoch(self, network: nn.Module, progress: float) -> None:
        """After every epoch; ``progress`` is the fraction of the epochs that is done, up to 1."""

    def module(self, batches: Iterable[Any]) -> nn.Module | None:
        """The averaged network in evaluation mode, or None before the first average.

        It is not a copy: the next update changes it.

        Args:
            batches: inputs of the network from its training rows, one batch or more; asked for only if ``fresh_statistics``.
        """
        if self._averaged is None:
            return None
        if self.fresh_statistics:
            statistics_anew(self._averaged.module, batches)
        return self._averaged.module.eval()

    def saved(self) -> dict[str, Any]:
        """What it has come to, for a checkpoint."""
        return {"averaged": None if self._averaged is None else tensors(self._averaged)}

    def restore(self, saved: dict[str, Any], network: nn.Module) -> None:
        """Go on from what was saved of an average of the same kind of network.

        Raises:
            ValueError: it was another kind.
        """
        self._averaged = None
        if saved["averaged"] is not None:
            self._averaged = self._begun(network)
            put(self._averaged, saved["averaged"])

    def _begun(self, network: nn.Module) -> AveragedModel:
        return AveragedModel(network)


class MovingAverage(Average):
    """After every step t: average ← d · average + (1 − d) · network, with d = min(decay, (1 + t) / (10 + t))."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.step = 0
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        if self._averaged is None:
            self._averaged = self._begun(network)
        self._averaged.update_parameters(network)  # the buffers are the network's now
        for name, buffer in self._averaged.module.named_buffers():
            if buffer.is_floating_point():
                old = self._buffers.get(name, buffer)
                # What did not change must come out bit by bit: lerp makes 0 of -0, and NaN of infinite entries.
                buffer.copy_(torch.where(old == buffer, buffer, old.lerp(buffer, self._weight())))
                self._buffers[name] = buffer.clone()
        self.step += 1

    def saved(self) -> dict[str, Any]:
        return {**super().saved(), "step": self.step}

    def restore(self, saved: dict[str, Any], network: nn.Module) -> None:
        super().restore(saved, network)
        self.step = saved["step"]
        buffers = [] if self._averaged is None else self._averaged.module.named_buffers()
        self._buffers = {name: buffer.clone() for name, buffer in buffers if buffer.is_floating_point()}

    def _begun(self, network: nn.Module) -> AveragedModel:
        return AveragedModel(network, multi_avg_fn=self._blend)

    def _blend(self, averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        torch._foreach_lerp_(averaged, current, self._weight())

    def _weight(self) -> float:
        return 1 - min(self.decay, (1 + self.step) / (10 + self.step))


class EpochAverage(Average):
    """The mean of the weights at the ends of the epochs from ``start`` on; buffers are those of the last epoch."""

    fresh_statistics = True

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start

    def after_epoch(self, network: nn.Module, progress: float) -> None:
        if progress >= self.start:
            self._averaged = self._averaged or self._begun(network)
            self._averaged.update_parameters(network)


@torch.no_grad()
def statistics_anew(network: nn.Module, batches: Iterable[Any]) -> None:
    """Batch norm statistics as means over batches, for weights that they were not gathered with.

    As torch's ``update_bn``, but batch norm whose parameters are frozen keeps what it has, and dropout is off as it is in use, so
    that nothing is drawn. Leaves the network in evaluation mode.
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and not _frozen(m)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _frozen(module: nn.Module) -> bool:
    own = list(module.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def ema(*, decay: Annotated[float, Field(gt=0, lt=1)] = 0.999) -> Average:
    """An exponential moving average over the steps, of parameters and of what batch norm has gathered.

    The decay is smaller in the first steps, as in TensorFlow's ``ExponentialMovingAverage``, so that the random start is soon
    forgotten.
    """
    return MovingAverage(decay)


def swa(*, start: Annotated[float, Field(ge=0, le=1)] = 0.75) -> Average:
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights at the ends of the last epochs."""
    return EpochAverage(start)


AVERAGES: dict[str, Callable[..., Average]] = {"ema": ema, "swa": swa}
