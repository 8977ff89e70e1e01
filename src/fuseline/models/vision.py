"""torchvision's classification models as backbones: pictures (B, C, H, W) of any number of channels → features (B, D).

The classifier is taken off, so that the features are what it reads. torchvision is imported where it is needed only, because that
takes seconds and a table needs none of it. A network is built many times and trained once, so weights are read by
``load_pretrained`` alone.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from math import ceil, isqrt
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fuseline.data.schema import Schema
from fuseline.errors import RecipeError
from fuseline.models.bounds import Dropout
from fuseline.models.preprocessing import Batch
from fuseline.models.stems import (
    SMALL,
    Size,
    Stem,
    convolution,
    family,
    first_convolution,
    set_channels,
    spread_channels,
    use_small_stem,
)

CLASSIFIERS = ("fc", "classifier", "head", "heads")
AUXILIARY = {"AuxLogits.fc": 0.4, "aux1.fc2": 0.3, "aux2.fc2": 0.3}
"""Auxiliary classifiers and the weights of their losses: Szegedy et al. 2016, "Rethinking the Inception architecture" (the weight
is that of its authors' code), and Szegedy et al. 2015, "Going deeper with convolutions", section 5."""
FILES = (".safetensors", ".pt", ".pth")


class Vision(nn.Module):
    """A model of torchvision without its classifier.

    Attributes:
        features: D.
        auxiliary: width and loss weight of each auxiliary branch; only there if the model has one. In training such a model
            gives the features and a list of the branches' features.
    """

    def __init__(self, name: str, image: tuple[int, int, int], weights: str | None, small: bool, dropout: float | None) -> None:
        super().__init__()
        self.name, self.weights, self.small = name, weights, small
        self.model, self.size = build_model(name, image[1:], small)
        set_channels(self.model, image[0])
        top = next(top for top in CLASSIFIERS if hasattr(self.model, top))
        self.dropout = _set_dropout(self.model, top, dropout)
        self.features = _take_off(self.model, top)
        branches = [(path, weight) for path, weight in AUXILIARY.items() if _has(self.model, path)]
        if branches:
            self.auxiliary = [(_take_off(self.model, path), weight) for path, weight in branches]
        if not name.startswith(("vit", "swin")):
            self.model.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> Tensor | tuple[Tensor, list[Tensor]]:
        x = batch["image"]
        if self.size is not None and x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        out = self.model(x)
        if isinstance(out, tuple):  # googlenet says its second branch first
            return self.dropout(out[0]), list(out[:0:-1])
        features: Tensor = self.dropout(out)
        return features

    @torch.no_grad()
    def load_pretrained(self) -> None:
        """Read ``weights``, if they are set; what the recipe changed in the model (classifier, stem) stays as it was drawn.

        Raises:
            RecipeError: the file can't be read without unpickling, or has other weights than this model's.
        """
        if self.weights is None:
            return
        state = read_state(self.name, self.weights)
        own = self.model.state_dict()
        for key in state:
            if key not in own and key.split(".")[0] not in (*CLASSIFIERS, *(path.split(".")[0] for path in AUXILIARY)):
                raise RecipeError(f"{self.weights}: {self.name} has no {key!r}; give the weights of this very model.")
        for key, tensor in own.items():
            if key in state:
                fitted = self._fitted(key, state[key], tensor)
                if fitted is not None:
                    tensor.copy_(fitted)
            elif not key.endswith("num_batches_tracked") and not key.startswith(("AuxLogits.", "aux1.", "aux2.")):
                raise RecipeError(f"{self.weights}: {key!r} of {self.name} is missing; give the weights of this very model.")

    def _fitted(self, key: str, given: Tensor, own: Tensor) -> Tensor | None:
        """A tensor of the file in the shape of the model's own, or none where the model keeps what it has."""
        first = key == f"{first_convolution(self.model)}.weight"
        if given.shape == own.shape:
            return given
        if first and given.ndim == 4 and _but_channels(given) == _but_channels(own):
            return spread_channels(given, own.shape[1])
        if self.small and (first or "relative_" in key or key.endswith("pos_embedding")):
            return None
        if key == "encoder.pos_embedding" and _is_grid(given, own.shape[2]):
            return _resized_positions(given, own.shape[1])
        raise RecipeError(
            f"{self.weights}: {key!r} has the shape {tuple(given.shape)}, and {self.name} needs {tuple(own.shape)}; "
            "give the weights of this very model."
        )


def build_model(name: str, size: Size, small: bool) -> tuple[nn.Module, Size | None]:
    """A model of torchvision for pictures (H, W), with the small stem if asked, and the size that it needs pictures to have.

    Only maxvit_t needs one: its windows fill the maps of every stage if pictures are square and their side is a multiple of 224,
    or of 32 with the small stem and windows of 4×4. Pictures are enlarged to the next such size.
    """
    from torchvision.models import MaxVit, get_model  # type: ignore[import-untyped]

    its = family(name)
    assert its is not None
    options: dict[str, Any] = {"num_classes": 1}
    needs: Size | None = None
    if name.startswith("vit"):  # the small stem's patches of 4 are as many as this model's of a picture that is larger
        patch = int(name.rsplit("_")[-1])
        options["image_size"] = size[0] // 4 * patch if small else size[0]
    elif name.startswith("maxvit"):
        side = 32 if small else 224
        options["input_size"] = needs = (ceil(max(size) / side) * side,) * 2
    elif name.startswith(("inception", "googlenet")):
        options |= {"init_weights": True, "transform_input": False, "aux_logits": True}
    if name == "maxvit_t" and small:
        assert needs is not None
        settings: dict[str, Any] = {"stem_channels": 64, "block_channels": [64, 128, 256, 512], "block_layers": [2, 2, 5, 2]}
        settings |= {"head_dim": 32, "stochastic_depth_prob": 0.2, "partition_size": 4, "num_classes": 1}
        model: nn.Module = MaxVit(input_size=(4 * needs[0], 4 * needs[1]), **settings)  # whose maps are as large as ours
    else:
        model = get_model(name, weights=None, **options)
    if small:
        its.adapt(model)
    if name.startswith("inception"):
        _fit_auxiliary(model, min(size), small)
    if name.startswith("mnasnet"):  # its own class refuses a state dict without the metadata that only a pickle has
        parts = {"layers": model.layers, "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        model = nn.Sequential(OrderedDict(parts, classifier=model.classifier))  # type: ignore[arg-type]
    return model, needs


def _fit_auxiliary(model: nn.Module, side: int, small: bool) -> None:
    """Inception's auxiliary branch pools its map by 5×5 with stride 3 and then reads 5×5: pad a smaller one, or do without."""
    before = side if small else _halved(_halved(_halved(side) - 2) - 2)
    across = _halved(before)
    if across < 5:
        model.AuxLogits, model.aux_logits = None, False  # type: ignore[assignment]
    elif (across - 5) // 3 + 1 < 5:
        convolution(model, "AuxLogits.conv1.conv").padding = (2, 2)


def _halved(side: int) -> int:
    """What is left of a side by 3×3 with stride 2 and no padding."""
    return (side - 3) // 2 + 1


def _has(model: nn.Module, path: str) -> bool:
    return getattr(model, path.split(".")[0], None) is not None


def _take_off(model: nn.Module, path: str) -> int:
    """Put nothing in the place of the last layer at a path, and return how many features it read."""
    layers = [
        (inner, module)
        for inner, module in model.get_submodule(path).named_modules(prefix=path)
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    place, last = layers[-1]
    model.set_submodule(place, nn.Identity())
    return last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _set_dropout(model: nn.Module, top: str, p: float | None) -> nn.Module:
    """Set the dropout of a model's classifier, or return one for its features if it has none."""
    if p is None:
        return nn.Identity()
    own = [m for m in (*model.get_submodule(top).modules(), getattr(model, "dropout", None)) if isinstance(m, nn.Dropout)]
    for layer in own:
        layer.p = p
    return nn.Identity() if own else nn.Dropout(p)


def _but_channels(weight: Tensor) -> tuple[int, ...]:
    return (weight.shape[0], *weight.shape[2:])


def _is_grid(positions: Tensor, width: int) -> bool:
    """Whether these are a class token's and n × n patches' embeddings (1, 1 + n², width)."""
    return positions.ndim == 3 and positions.shape[2] == width and isqrt(positions.shape[1] - 1) ** 2 == positions.shape[1] - 1


def _resized_positions(given: Tensor, length: int) -> Tensor:
    """A ViT's position embeddings (1, 1 + n², D) for another number of patches, bicubic: Dosovitskiy et al. 2021, section 3.2."""
    from torchvision.models.vision_transformer import interpolate_embeddings  # type: ignore[import-untyped]

    key = "encoder.pos_embedding"
    resized: Tensor = interpolate_embeddings(isqrt(length - 1), 1, OrderedDict({key: given}))[key]
    return resized


def read_state(name: str, weights: str) -> Mapping[str, Tensor]:
    """The state dict in a file, or torchvision's own weights of that name, which it downloads once and whose hash it checks.

    Nothing is unpickled: of a ``.pt`` or ``.pth`` file only tensors in plain containers are read.

    Raises:
        RecipeError: there is no such file, it can't be read, or it holds something else.
    """
    try:
        if weights.endswith(".safetensors"):
            state = load_file(weights)
        elif weights.endswith(FILES):
            with warnings.catch_warnings(action="ignore"):  # of old pickles, which the reader can do nothing about
                state = torch.load(weights, map_location="cpu", weights_only=True)
        else:
            from torchvision.models import get_model_weights

            options = {"progress": False, "check_hash": True, "map_location": "cpu", "weights_only": True}
            state = get_model_weights(name)[weights].get_state_dict(**options)
    except FileNotFoundError:
        raise RecipeError(f"{weights}: there is no such file; mend 'weights' of {name}.") from None
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError) as error:
        said = " ".join(str(error).split()).split(". ")[0][:120].rstrip(".")
        raise RecipeError(f"{weights}: the weights of {name} can't be read, or not safely ({said}).") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RecipeError(f"{weights}: this is no state dict of tensors; save the model's state_dict() alone.")
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")  # as torchvision's files of densenets write it
    return {old.sub(r"\1\2", key): value for key, value in state.items()}


def check_weights(name: str, weights: str | None) -> None:
    """Refuse weights that are neither a file nor known to torchvision, without reading them."""
    if weights is None or weights.endswith(FILES):
        return
    from torchvision.models import get_model_weights

    known = list(get_model_weights(name).__members__)
    if weights not in known:
        choices = ", ".join(known)
        raise RecipeError(f"{weights!r} are no weights of {name}; give a file ({', '.join(FILES)}) or choose from {choices}.")


def _architecture(name: str) -> Callable[..., nn.Module]:
    def build(
        schema: Schema,
        *,
        weights: str | None = None,
        stem: Stem = "auto",
        dropout: Dropout | None = None,
    ) -> nn.Module:
        if schema.image is None:
            raise RecipeError(f"{name!r} needs pictures, and the data are a table; use 'mlp'.")
        check_weights(name, weights)
        return Vision(name, schema.image, weights, use_small_stem(name, schema.image[1:], stem), dropout)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"""torchvision's ``{name}`` without its classifier.

    Args:
        weights: none to start from scratch, a file with a state dict (.safetensors, .pt, .pth), or the name of torchvision's own,
            such as DEFAULT; read by ``load_pretrained``.
        stem: the model's own, the small one for small pictures, or by size: small below {SMALL}×{SMALL}.
        dropout: of the classifier's dropout layers, none for the model's own; a model that has no such layer drops features.
    """
    return build


@cache
def torchvision_models() -> dict[str, Callable[..., nn.Module]]:
    """A function for each classification model of torchvision, by its name there."""
    from torchvision import models  # type: ignore[import-untyped]

    return {name: _architecture(name) for name in models.list_models(module=models) if family(name)}
