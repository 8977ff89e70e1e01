"""Which parameters learn, and how fast: frozen ones and layer-wise rates, by patterns over their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fuseline.errors import TrainingError


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters whose names match a pattern (``backbone.layer1.*``) out of training.

    Raises:
        TrainingError: a pattern matches nothing, or nothing is left that learns.
    """
    for pattern in patterns:
        matched = [parameter for name, parameter in network.named_parameters() if fnmatchcase(name, pattern)]
        if not matched:
            raise TrainingError(f"freeze: no parameter's name matches {pattern!r}; they are called like {_names(network)}")
        for parameter in matched:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise TrainingError("freeze: nothing is left that learns; take a pattern out")


def rest_frozen(network: nn.Module) -> None:
    """Keep modules in evaluation mode whose own parameters are all frozen: batch norm would gather new statistics otherwise."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def groups(network: nn.Module, rates: Mapping[str, float], lr: float) -> list[nn.Parameter] | list[dict[str, Any]]:
    """The parameters that learn; in groups, if some of them have a rate of their own.

    Args:
        rates: factors on the optimizer's rate by pattern; the first that matches counts.
        lr: the optimizer's rate.

    Raises:
        TrainingError: a pattern matches no parameter that learns.
    """
    learning = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if not rates:
        return [parameter for _, parameter in learning]
    found: dict[str | None, list[nn.Parameter]] = {pattern: [] for pattern in rates}
    for name, parameter in learning:
        found.setdefault(next((p for p in rates if fnmatchcase(name, p)), None), []).append(parameter)
    for pattern in rates:
        if not found[pattern]:
            raise TrainingError(f"rates: no parameter that learns matches {pattern!r}; they are called like {_names(network)}")
    return [{"params": its, "lr": lr * (1.0 if p is None else rates[p])} for p, its in found.items()]


def _names(network: nn.Module) -> str:
    names = [name for name, _ in network.named_parameters()]
    return ", ".join([*names[:2], "…", names[-1]])
