"""A member that was trained elsewhere: its weights are read from a file and nothing is trained."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fuseline.component import Part
from fuseline.errors import TrainingError
from fuseline.models.network import Network
from fuseline.models.vision import CLASSIFIERS


class TrainedFile(Part):
    """A file of trained weights, and how its pictures were brought to one scale.

    Attributes:
        path: a ``.safetensors`` or ``.pt`` file that holds a state dict: of a whole network, as fuseline keeps them, or of the
            architecture alone with its own last layer, as torchvision's models have it.
        mean, std: per channel, of pixels between 0 and 1, as for torchvision's ``Normalize``; without them, and if the file
            does not hold them, the training rows' own.
    """

    path: str
    mean: list[float] | None = Field(None, min_length=1)
    std: list[float] | None = Field(None, min_length=1)


def load_trained(network: Network, file: TrainedFile, white: float = 255.0) -> None:
    """Read a member's weights into its network.

    Keys of the file that the network does not know are taken for those of the backbone alone; its classifier's last matrix and
    vector then belong to the head, if there is one target with a linear head. Auxiliary branches serve nothing: they are passed
    over on both sides.

    Args:
        white: the value of a pixel that ``mean`` and ``std`` call 1.

    Raises:
        TrainingError: names the file, and the first key that is missing, left over or of another shape.
    """
    state, own = read_state(Path(file.path)), network.state_dict()
    state = {key: tensor for key, tensor in state.items() if not _auxiliary(key)}
    places = _places(list(state), own, len(network.heads) == 1)
    for key, tensor in state.items():
        if (place := places[key]) not in own:
            raise TrainingError(f"{file.path}: the key {key!r} fits nothing in this architecture")
        if tensor.shape != own[place].shape:
            raise TrainingError(f"{file.path}: {key!r} has the shape {tuple(tensor.shape)}, not {tuple(own[place].shape)}")
    found = {places[key]: tensor for key, tensor in state.items()}
    missing = [key for key in own if key not in found and not (key.startswith("preprocessing.") or _auxiliary(key))]
    missing = [key for key in missing if key != "heads.0.own"]
    if missing:
        raise TrainingError(f"{file.path}: there is nothing for {missing[0]!r} (and {len(missing) - 1} more)")
    network.load_state_dict(own | found)
    _scale(network, file, white)


def _auxiliary(key: str) -> bool:
    return any(part.lower().startswith("aux") for part in key.split("."))


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; nothing is unpickled but tensors and plain containers.

    Raises:
        TrainingError: the file can't be read, or holds something else.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        said = " ".join(str(error).split()).split(". ")[0][:120].rstrip(".") or "it is cut off"
        raise TrainingError(f"{path}: not readable as weights, or not safely ({said})") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise TrainingError(f"{path}: this is no state dict of tensors; save the model's state_dict()")
    return state


def _places(keys: list[str], own: Mapping[str, Tensor], one_head: bool) -> dict[str, str]:
    """Where each key belongs: in the network as it stands, or below that module of the backbone where the most keys are; a last
    matrix and vector in the only head."""
    if any(key.startswith("backbone.") for key in keys):
        return {key: key for key in keys}
    modules = {name[:dot] for name in own if name.startswith("backbone.") for dot, sign in enumerate(name) if sign == "."}
    below = max(sorted(modules), key=lambda module: (sum(f"{module}.{key}" in own for key in keys), -len(module)))
    places = {key: f"{below}.{key}" if f"{below}.{key}" in own else key for key in keys}
    for key in keys:
        head = f"heads.0.module.{key.rsplit('.', 1)[-1]}"
        classifier = key.split(".")[0] in CLASSIFIERS
        if one_head and classifier and places[key] not in own and head in own and head not in places.values():
            places[key] = head
    return places


@torch.no_grad()
def _scale(network: Network, file: TrainedFile, white: float) -> None:
    for name, values in (("channel_mean", file.mean), ("channel_scale", file.std)):
        if values is not None:
            buffer = network.preprocessing.get_buffer(name)
            if len(buffer) != len(values):
                raise TrainingError(f"trained: 'mean' and 'std' need {len(buffer)} numbers, one per channel, not {len(values)}")
            buffer.copy_(white * torch.tensor(values)[:, None, None])
