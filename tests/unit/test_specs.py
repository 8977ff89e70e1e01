"""From a recipe's entry to how its members are trained: defaults filled in, and each mistake named by its field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fuseline.component import Component
from fuseline.data.schema import Schema, TargetSchema
from fuseline.errors import RecipeError
from fuseline.models.network import Network, blank
from fuseline.recipe import Recipe
from fuseline.specs import train_spec
from fuseline.store import sha256_of
from fuseline.training.train import TrainSpec

TARGETS = {"y": TargetSchema(kind="classification", classes=["a", "b"]), "v": TargetSchema(kind="regression")}
TABLE = Schema(numeric=["x0", "x1"], categorical={"c": ["red", "blue"]}, targets=TARGETS)
PICTURES = Schema(image=(1, 8, 8), targets=TARGETS)


def recipe(member: dict[str, Any] | None = None, targets: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "name": "r",
        "data": {"source": {"csv": {"path": "x.csv"}}},
        "targets": {"y": {"kind": "classification"}, "v": {"kind": "regression"}} | (targets or {}),
        "members": [{"name": "m", "architecture": "mlp"} | (member or {})],
        "training": {"device": "cpu"},
        **changes,
    }
    return Recipe.model_validate(tree)


def spec(schema: Schema = TABLE, **member: Any) -> TrainSpec:
    return train_spec(recipe(member), 0, schema)


# --------------------------------------------------------------------------------------------------------------- completing


def test_every_default_is_filled_in() -> None:
    made = spec()
    assert made.losses == {
        "y": Component(name="cross_entropy", settings={"smoothing": 0.0}),
        "v": Component(name="squared_error"),
    }
    assert made.weights == {"y": 1.0, "v": 1.0}
    assert made.optimizer == Component(name="adamw", settings={"lr": 3e-3, "weight_decay": 0.01})
    assert made.schedule == Component(name="one_cycle", settings={"warm_up": 0.3})
    assert (made.network.numbers, made.network.heads["y"]) == (Component(name="standard"), Component(name="linear"))
    assert (made.average, made.trained, made.augment, made.freeze, made.rates) == (None, None, [], [], {})
    assert (made.files, made.class_weights, made.patience, made.device) == ({}, {}, 20, "cpu")


def test_what_the_recipe_says_is_taken() -> None:
    targets = {
        "y": {"kind": "classification", "class_weights": "balanced", "loss": "focal", "weight": 2.0},
        "v": {"kind": "regression", "head": {"hidden": {"width": 5}}},
    }
    member = {
        "average": {"ema": {"decay": 0.9}},
        "freeze": ["backbone.*"],
        "rates": {"heads.0.*": 3.0},
        "numbers": {"quantile": {"quantiles": 10}},
        "early_stopping": None,
    }
    made = train_spec(recipe(member, targets), 0, TABLE)
    assert made.class_weights == {"y": Component(name="balanced")}
    assert made.losses["y"].settings == {"gamma": 2.0}
    assert made.weights["y"] == 2.0
    assert made.average == Component(name="ema", settings={"decay": 0.9})
    assert (made.freeze, made.rates, made.patience) == (["backbone.*"], {"heads.0.*": 3.0}, None)
    assert made.network.numbers.settings == {"quantiles": 10}
    assert made.network.heads["v"].settings == {"width": 5, "dropout": 0.1}


def test_it_survives_json() -> None:
    made = spec(average="swa", rates={"heads.*": 2.0})
    said = made.model_dump(mode="json")
    assert TrainSpec.model_validate(said).model_dump(mode="json") == said


@pytest.mark.parametrize(("schema", "architecture"), [(TABLE, "mlp"), (PICTURES, "cnn")])
def test_a_blank_network_has_the_shapes_and_for_pictures_no_memory(schema: Schema, architecture: str) -> None:
    made = spec(schema, architecture=architecture).network
    network = blank(schema, made)
    expected = {name: p.shape for name, p in Network(schema, made).named_parameters()}
    assert {name: p.shape for name, p in network.named_parameters()} == expected
    assert all(p.is_meta for p in network.parameters()) is (schema is PICTURES)


# ------------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    def write(seed: int = 0, schema: Schema = TABLE) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_file(Network(schema, train_spec(recipe(), 0, schema).network).state_dict(), tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    return write


def test_a_file_counts_by_what_is_in_it(weights: Callable[..., Path]) -> None:
    place = weights(0)
    one = spec(trained=str(place))
    assert one.files == {str(place): sha256_of(place)}
    assert one.trained is not None
    assert (one.trained.path, one.patience) == (str(place), None)
    weights(1)
    assert spec(trained=str(place)).files != one.files


def test_pretrained_weights_in_a_file_count_too(tmp_path: Path) -> None:
    place = tmp_path / "resnet.pt"
    torch.save(torchvision.models.get_model("resnet18").state_dict(), place)
    made = spec(PICTURES, architecture={"resnet18": {"weights": str(place)}})
    assert list(made.files) == [str(place)]
    place.write_bytes(b"no weights")
    with pytest.raises(RecipeError, match=r"resnet\.pt: the weights of resnet18 can't be read"):
        spec(PICTURES, architecture={"resnet18": {"weights": str(place)}})


# ---------------------------------------------------------------------------------------------------------------- mistakes

MEMBERS: list[tuple[str, Schema, dict[str, Any], list[str]]] = [
    ("architecture", TABLE, {"architecture": "mpl"}, ["members.0.architecture", "'mlp'"]),
    ("its setting", TABLE, {"architecture": {"mlp": {"hiden": [3]}}}, ["members.0.architecture.mlp.hiden"]),
    ("its bound", TABLE, {"architecture": {"mlp": {"dropout": 2}}}, ["members.0.architecture.mlp.dropout"]),
    ("pictures wanted", TABLE, {"architecture": "cnn"}, ["members.0.architecture", "'cnn' needs pictures"]),
    ("table wanted", PICTURES, {"architecture": "ft_transformer"}, ["members.0.architecture", "picture"]),
    ("too small", PICTURES, {"architecture": {"alexnet": {"stem": "original"}}}, ["members.0.architecture"]),
    ("unknown weights", PICTURES, {"architecture": {"resnet18": {"weights": "BEST"}}}, ["members.0.architecture", "'BEST'"]),
    ("numbers", TABLE, {"numbers": "minmax"}, ["members.0.numbers", "'minmax'"]),
    ("optimizer", TABLE, {"optimizer": "adamv"}, ["members.0.optimizer", "'adamv'", "did you mean"]),
    ("rate", TABLE, {"optimizer": {"sgd": {"lr": -1}}}, ["members.0.optimizer.sgd.lr"]),
    ("schedule", TABLE, {"schedule": "stepwise"}, ["members.0.schedule"]),
    ("average", TABLE, {"average": "emma"}, ["members.0.average", "'ema'"]),
    ("decay", TABLE, {"average": {"ema": {"decay": 1}}}, ["members.0.average.ema.decay"]),
    ("freeze", TABLE, {"freeze": ["heads.*", "encoder.*"]}, ["members.0", "freeze", "'encoder.*'"]),
    ("freeze all", TABLE, {"freeze": ["*"]}, ["members.0", "freeze"]),
    ("rates", TABLE, {"rates": {"encoder.*": 2.0}}, ["members.0", "rates", "'encoder.*'"]),
    ("frozen rates", TABLE, {"rates": {"heads.*": 2.0}, "freeze": ["heads.*"]}, ["members.0", "rates", "'heads.*'"]),
    ("augment a table", TABLE, {"augment": ["flip"]}, ["members.0.augment", "'flip'", "table"]),
    ("mix a table", TABLE, {"augment": ["mixup"]}, ["members.0.augment", "'mixup'", "table"]),
    ("augmentation", PICTURES, {"architecture": "cnn", "augment": ["flip", "flop"]}, ["members.0.augment.1", "'flop'"]),
    ("two mixings", PICTURES, {"architecture": "cnn", "augment": ["mixup", "cutmix"]}, ["members.0.augment", "mixup, cutmix"]),
    ("no trained file", TABLE, {"trained": "/nowhere/w.pt"}, ["members.0.trained", "/nowhere/w.pt"]),
    (
        "no weights",
        PICTURES,
        {"architecture": {"resnet18": {"weights": "/nowhere/w.pt"}}},
        ["members.0.architecture.resnet18.weights", "/nowhere/w.pt"],
    ),
]


@pytest.mark.parametrize(("schema", "member", "words"), [case[1:] for case in MEMBERS], ids=[case[0] for case in MEMBERS])
def test_a_member_s_mistake_is_named_by_its_field(
    refusal: Callable[..., str], schema: Schema, member: dict[str, Any], words: list[str]
) -> None:
    sentence = refusal(RecipeError, train_spec, recipe(member), 0, schema)
    assert [word for word in words if word not in sentence] == []
    assert sentence.isprintable()


WEIGHTS = [{"given": {"weights": {"z": 2.0}}}, {"effective_number": {"beta": 1.0}}, "even"]
TARGET_MISTAKES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("loss", {"y": {"kind": "classification", "loss": "squared_error"}}, ["targets.y.loss", "'squared_error'"]),
    ("setting", {"y": {"kind": "classification", "loss": {"focal": {"beta": 1}}}}, ["targets.y.loss.focal.beta"]),
    ("head", {"y": {"kind": "classification", "head": "conv"}}, ["targets.y.head", "'conv'"]),
    ("no classes", {"v": {"kind": "regression", "class_weights": "balanced"}}, ["targets.v.class_weights", "'regression'"]),
    ("class", {"y": {"kind": "classification", "class_weights": WEIGHTS[0]}}, ["targets.y.class_weights", "'z'", "a, b"]),
    ("beta", {"y": {"kind": "classification", "class_weights": WEIGHTS[1]}}, ["targets.y.class_weights.effective_number.beta"]),
    ("rule", {"y": {"kind": "classification", "class_weights": WEIGHTS[2]}}, ["targets.y.class_weights", "'even'"]),
]


@pytest.mark.parametrize(("targets", "words"), [case[1:] for case in TARGET_MISTAKES], ids=[case[0] for case in TARGET_MISTAKES])
def test_a_target_s_mistake_is_named_by_its_field(refusal: Callable[..., str], targets: dict[str, Any], words: list[str]) -> None:
    sentence = refusal(RecipeError, train_spec, recipe(targets=targets), 0, TABLE)
    assert [word for word in words if word not in sentence] == []


def test_the_second_entry_is_named_as_such(refusal: Callable[..., str]) -> None:
    members = [{"name": "a", "architecture": "mlp"}, {"name": "b", "architecture": "mlp", "schedule": "x"}]
    assert "members.1.schedule" in refusal(RecipeError, train_spec, recipe(members=members), 1, TABLE)


@pytest.mark.parametrize(
    ("schema", "member"),
    [
        (Schema(numeric=["x0"], targets=TARGETS), {}),
        (TABLE, {"architecture": {"mlp": {"hidden": [7]}}}),
        (TABLE, {"architecture": "ft_transformer"}),
        (TABLE, {"numbers": "quantile"}),
    ],
    ids=["columns", "widths", "architecture", "scale"],
)
def test_a_trained_file_that_does_not_fit_is_refused(
    refusal: Callable[..., str], weights: Callable[..., Path], schema: Schema, member: dict[str, Any]
) -> None:
    sentence = refusal(RecipeError, train_spec, recipe({"trained": str(weights())} | member), 0, schema)
    assert sentence.startswith("members.0")
    assert "weights.safetensors" in sentence


def test_a_mean_does_not_fit_a_table(refusal: Callable[..., str], weights: Callable[..., Path]) -> None:
    trained = {"path": str(weights()), "mean": [0.5], "std": [0.2]}
    sentence = refusal(RecipeError, train_spec, recipe({"trained": trained}), 0, TABLE)
    assert sentence.startswith("members.0")
    assert "'mean'" in sentence


def test_a_device_that_is_not_here(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "training.device" in refusal(RecipeError, train_spec, recipe(training={"device": "cuda"}), 0, TABLE)
    assert train_spec(recipe(training={"device": "auto"}), 0, TABLE).device == "cpu"
