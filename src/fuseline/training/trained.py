"""A member that was trained elsewhere: its weights are read from a file and nothing is trained."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fuseline.component import Part
from fuseline.errors import TrainingError
from fuseline.models.network import Network


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


def load_trained(network: Network, file: TrainedFile) -> None:
    """Read a member's weights into its network.

    Keys of the file that the network does not know are taken for those of the backbone alone; a last matrix and vector that
    are left over then belong to the head, if there is one target with a linear head.

    Raises:
        TrainingError: names the file, and the first key that is missing, left over or of another shape.
    """
    state, own = read_state(Path(file.path)), network.state_dict()
    found = {_place(key, own): tensor for key, tensor in state.items()}
    left = sorted(key for key in found if key not in own)
    if left and len(network.heads) == 1:
        for key in left:
            head = f"heads.0.module.{key.rsplit('.', 1)[-1]}"
            if head in own and head not in found:
                found[head] = found.pop(key)
    for key, tensor in found.items():
        if key not in own:
            raise TrainingError(f"{file.path}: the key {key!r} fits nothing in this architecture")
        if tensor.shape != own[key].shape:
            raise TrainingError(f"{file.path}: {key!r} has the shape {tuple(tensor.shape)}, not {tuple(own[key].shape)}")
    missing = [key for key in own if key not in found and not key.startswith("preprocessing.")]
    if missing:
        raise TrainingError(f"{file.path}: there is nothing for {missing[0]!r} (and {len(missing) - 1} more)")
    network.load_state_dict(own | found)
    _scale(network, file)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; nothing is unpickled but tensors and plain containers.

    Raises:
        TrainingError: the file can't be read, or holds something else.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise TrainingError(f"{path}: not readable as weights: {str(error).splitlines()[0].rstrip('.')}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise TrainingError(f"{path}: this is no state dict of tensors; save the model's state_dict()")
    return state


def _place(key: str, own: dict[str, Tensor]) -> str:
    """Where a key belongs: in the network as it stands, or as the only one of the backbone that ends in it."""
    if key in own:
        return key
    ends = [name for name in own if name.startswith("backbone.") and name.endswith(f".{key}")]
    return ends[0] if len(ends) == 1 else key


@torch.no_grad()
def _scale(network: Network, file: TrainedFile) -> None:
    for name, values in (("channel_mean", file.mean), ("channel_scale", file.std)):
        if values is not None:
            buffer = network.preprocessing.get_buffer(name)
            if len(buffer) != len(values):
                raise TrainingError(f"trained: 'mean' and 'std' need {len(buffer)} numbers, one per channel, not {len(values)}")
            buffer.copy_(255 * torch.tensor(values)[:, None, None])
