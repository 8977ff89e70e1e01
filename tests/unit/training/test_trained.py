"""Members that were trained elsewhere: files of weights, and what they are refused for."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms.v2.functional import normalize

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.errors import TrainingError
from fuseline.models.architectures import ARCHITECTURES
from fuseline.partition import Share
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.train import Trained, say_all, train
from fuseline.training.trained import TrainedFile, load_trained, read_state

CPU = torch.device("cpu")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Trainer = Callable[..., Trained]


@pytest.fixture
def table(dataset_of: Callable[..., Dataset]) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(3, 2, size=(40, 3))
    return dataset_of(x, {"y": (x[:, 0] > 3).astype(np.int64), "v": x[:, 1] * 5})


@pytest.fixture
def pictures(dataset_of: Callable[..., Dataset]) -> Dataset:
    random = np.random.default_rng(0)
    return dataset_of(random.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8), {"y": np.array([0, 1, 2, 1, 0])})


@pytest.fixture
def trainer(spec_of: Callable[..., Any]) -> Trainer:
    def go(dataset: Dataset, architecture: str | dict[str, Any] = "mlp", seed: int = 0, **changes: Any) -> Trained:
        settings = {
            "optimizer": complete(Component(name="adamw"), OPTIMIZERS, "optimizer"),
            "schedule": Component(name="constant"),
        }
        named = complete(Component.model_validate(architecture), ARCHITECTURES, "architecture").model_dump()
        return train(dataset, spec_of(dataset, named, **settings | changes), Share(np.arange(len(dataset))), seed)

    return go


def written(state: dict[str, Tensor], place: Path) -> Path:
    if place.suffix == ".safetensors":
        save_file(state, place)
    else:
        torch.save(state, place)
    return place


def drawn_model(name: str, pictures: Tensor | None = None) -> nn.Module:
    """A model of torchvision as it starts, but with the batch norm statistics of some pictures."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: nn.Module = get_model(name, weights=None, num_classes=3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.5
        for _ in range(0 if pictures is None else 10):
            model.train()(pictures)
    return model.eval()


# --------------------------------------------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_whole_network_says_what_it_said_and_nothing_is_trained(
    table: Dataset, trainer: Trainer, tmp_path: Path, suffix: str
) -> None:
    first = trainer(table, {"mlp": {"hidden": [5]}}, epochs=2)
    place = written(first.network.state_dict(), tmp_path / f"weights{suffix}")
    second = trainer(table, {"mlp": {"hidden": [5]}}, seed=9, epochs=50, trained=TrainedFile(path=str(place)))
    assert (second.curve, second.best) == ([], 0)
    assert not second.network.training
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor), name
    one, other = (say_all(t.network, table, CPU) for t in (first, second))
    for target in ("y", "v"):
        assert torch.equal(one.values[target], other.values[target])
    assert torch.equal(one.variances["v"], other.variances["v"])


def test_a_whole_network_brings_its_own_scale(table: Dataset, trainer: Trainer, tmp_path: Path) -> None:
    """It was trained on other rows than those which are here."""
    first = trainer(table, epochs=1).network.state_dict()
    shifted = {name: t + 1 if name == "preprocessing.mean" else t for name, t in first.items()}
    file = TrainedFile(path=str(written(shifted, tmp_path / "weights.safetensors")))
    network = trainer(table, trained=file).network
    assert network.preprocessing.get_buffer("mean").numpy() == pytest.approx(table.inputs["numeric"].mean(0) + 1, rel=1e-6)


# ------------------------------------------------------------------------------------------------------- state dicts alone


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_s_state_dict_says_what_torchvision_s_model_says(
    pictures: Dataset, trainer: Trainer, tmp_path: Path, name: str
) -> None:
    scaled = normalize(torch.from_numpy(pictures.inputs["image"]).float() / 255, MEAN, STD)
    model = drawn_model(name, scaled)
    file = TrainedFile(path=str(written(model.state_dict(), tmp_path / "model.pt")), mean=MEAN, std=STD)
    trained = trainer(pictures, {name: {"stem": "original"}}, trained=file)
    said = say_all(trained.network, pictures, CPU).values["y"]
    with torch.inference_mode():
        expected = model(scaled).softmax(1)
    assert trained.curve == []
    assert said.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert expected.std(0).max() > 1e-3, "the pictures make no difference"


def test_a_classifier_that_is_no_matrix_is_refused_by_its_key(pictures: Dataset, trainer: Trainer, tmp_path: Path) -> None:
    place = written(drawn_model("squeezenet1_1").state_dict(), tmp_path / "model.pt")
    with pytest.raises(TrainingError, match=r"model\.pt: .*classifier\.1\.weight.*\(3, 512, 1, 1\)"):
        trainer(pictures, {"squeezenet1_1": {"stem": "original"}}, trained=TrainedFile(path=str(place)))


def test_without_mean_and_std_pictures_are_scaled_by_the_training_rows(
    pictures: Dataset, trainer: Trainer, tmp_path: Path
) -> None:
    cnn = {"cnn": {"channels": [2], "convolutions": 1, "features": 4}}
    first = trainer(pictures, cnn, epochs=1).network.state_dict()
    alone = {key.removeprefix("backbone."): t for key, t in first.items() if key.startswith("backbone.")}
    top = {"fc.weight": first["heads.0.module.weight"], "fc.bias": first["heads.0.module.bias"]}
    network = trainer(pictures, cnn, trained=TrainedFile(path=str(written(alone | top, tmp_path / "model.pt")))).network
    pixels = pictures.inputs["image"].astype(np.float64)
    scale = network.preprocessing
    assert scale.get_buffer("channel_mean").flatten().numpy() == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-4)
    assert scale.get_buffer("channel_scale").flatten().numpy() == pytest.approx(pixels.std((0, 2, 3)), rel=1e-4)
    assert torch.equal(network.state_dict()["heads.0.module.weight"], top["fc.weight"])


def test_mean_and_std_are_of_pixels_between_0_and_1_whatever_they_are_stored_as(
    dataset_of: Callable[..., Dataset], trainer: Trainer, tmp_path: Path
) -> None:
    """A picture of floats between 0 and 1 is the same picture as one of bytes."""
    bytes_ = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    kinds = {"y": np.array([0, 1, 0, 1, 0, 1])}
    as_bytes, as_floats = dataset_of(bytes_, kinds), dataset_of((bytes_ / 255).astype(np.float32), kinds)
    cnn = {"cnn": {"channels": [2], "convolutions": 1, "features": 4}}
    place = written(trainer(as_bytes, cnn, epochs=1).network.state_dict(), tmp_path / "weights.pt")
    file = TrainedFile(path=str(place), mean=[0.4], std=[0.2])
    one, other = (say_all(trainer(d, cnn, trained=file).network, d, CPU).values["y"] for d in (as_bytes, as_floats))
    assert one.numpy() == pytest.approx(other.numpy(), abs=1e-5)


# ---------------------------------------------------------------------------------------------------------------- refusals


def refused(table: Dataset, trainer: Trainer, place: Path, **settings: Any) -> str:
    with pytest.raises(TrainingError) as caught:
        trainer(table, {"mlp": {"hidden": [5]}}, trained=TrainedFile(path=str(place), **settings))
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    assert sentence.isprintable(), f"control characters: {sentence!r}"
    return sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("heads.0.module.bias"), ["heads.0.module.bias"]),
        (lambda s: s.pop("heads.1.center"), ["heads.1.center"]),
        (lambda s: s.update({"heads.0.module.bias": torch.zeros(7)}), ["heads.0.module.bias", "(7,)", "(2,)"]),
        (lambda s: s.update({"extra.weight": torch.zeros(7)}), ["extra.weight"]),
        (lambda s: s.clear(), []),
    ],
    ids=["missing", "no centre", "shape", "left over", "empty"],
)
def test_weights_that_do_not_fit_are_refused_by_their_key(
    table: Dataset, trainer: Trainer, tmp_path: Path, change: Callable[[Any], Any], words: list[str]
) -> None:
    state = dict(trainer(table, {"mlp": {"hidden": [5]}}, epochs=1).network.state_dict())
    change(state)
    sentence = refused(table, trainer, written(state, tmp_path / "weights.pt"))
    assert [word for word in ["weights.pt", *words] if word not in sentence] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.pt", b"hello, I am no file of weights"),
        ("empty.pt", b""),
        ("cut.pt", b"PK\x03\x04junk"),
        ("number.pt", pickle.dumps(1, protocol=2)),
        ("text.safetensors", b"hello, I am no file of weights"),
        ("empty.safetensors", b""),
    ],
)
def test_files_that_hold_no_weights_are_refused(
    table: Dataset, trainer: Trainer, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refused(table, trainer, tmp_path / name)


@pytest.mark.parametrize("held", [{"a": 1}, [torch.zeros(1)], {"state_dict": {"a": torch.zeros(1)}}], ids=str)
def test_tensors_that_are_no_state_dict_are_refused(table: Dataset, trainer: Trainer, tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "held.pt")
    assert "state_dict()" in refused(table, trainer, tmp_path / "held.pt")


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_s_code_is_not_run(table: Dataset, trainer: Trainer, tmp_path: Path, zipped: bool) -> None:
    place, mark = tmp_path / "evil.pt", tmp_path / "mark"
    torch.save({"a": Malicious(mark)}, place, _use_new_zipfile_serialization=zipped)
    assert "evil.pt" in refused(table, trainer, place)
    assert not mark.exists()
    with pytest.raises(TrainingError):
        read_state(place)
    torch.load(place, weights_only=False)  # it would have run
    assert mark.exists()


def test_a_mean_for_another_number_of_channels_is_refused(pictures: Dataset, trainer: Trainer, tmp_path: Path) -> None:
    network = trainer(pictures, {"cnn": {"channels": [2]}}, epochs=1).network
    file = TrainedFile(path=str(written(network.state_dict(), tmp_path / "weights.pt")), mean=[0.5])
    with pytest.raises(TrainingError, match="3 numbers"):
        load_trained(network, file)


def test_two_targets_share_no_classifier(table: Dataset, trainer: Trainer, tmp_path: Path) -> None:
    state = trainer(table, {"mlp": {"hidden": [5]}}, epochs=1).network.state_dict()
    alone = {key.removeprefix("backbone."): t for key, t in state.items() if key.startswith("backbone.")}
    alone |= {"fc.weight": state["heads.0.module.weight"], "fc.bias": state["heads.0.module.bias"]}
    assert "fc." in refused(table, trainer, written(alone, tmp_path / "model.pt"))
