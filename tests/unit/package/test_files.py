"""An ensemble as files: what is loaded is what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from fuseline.errors import PackageError
from fuseline.fusion.combiners import COMBINERS
from fuseline.package.files import DESCRIPTION, FORMAT, WEIGHTS, load_description, load_ensemble
from fuseline.package.predict import predict
from fuseline.store import Store

TARGETS = ["kind", "grade", "signs", "size", "range"]
KINDS = [
    *({"kind": kind, "grade": kind} for kind in ("logistic", "vote")),
    {"size": "linear", "signs": "entrywise", "range": "entrywise"},
    {"kind": "product", "signs": "product", "size": "product"},
    {"size": "neighbours", "range": "neighbours", "kind": "pruned"},
    *(dict.fromkeys(TARGETS, kind) for kind in ("mixture", "trimmed", "gate", "feature_head", "attention_head")),
]


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_what_is_loaded_answers_as_what_was_saved(
    ensemble_of: Callable[..., Any], raw: pd.DataFrame, tmp_path: Path, kinds: dict[str, str]
) -> None:
    made = ensemble_of(kinds)
    loaded = load_ensemble(made.save(tmp_path))
    assert [type(combiner) for combiner in loaded.combiners] == [type(combiner) for combiner in made.combiners.values()]
    assert loaded.looks == {thing for target in made.description.targets.values() for thing in target.looks}
    pd.testing.assert_frame_equal(predict(loaded, raw, 16), predict(made.ensemble, raw, 16), check_exact=True)


def test_pictures_too(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    made = ensemble_of(pictures=True)
    pictures = np.random.default_rng(0).integers(0, 256, (9, 1, 4, 4), dtype=np.uint8)
    loaded = load_ensemble(made.save(tmp_path))
    pd.testing.assert_frame_equal(predict(loaded, pictures, 4), predict(made.ensemble, pictures, 4), check_exact=True)


def test_two_files_and_the_description_opens_as_it_was(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    made = ensemble_of()
    made.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {DESCRIPTION, WEIGHTS}
    assert load_description(tmp_path) == made.description
    assert load_description(tmp_path).format == FORMAT


def test_a_loaded_ensemble_does_not_train(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    loaded = load_ensemble(ensemble_of().save(tmp_path))
    assert not any(module.training for module in loaded.modules())
    assert loaded.members.counts == [2, 1, 1]


def test_each_replica_has_its_own_weights(ensemble_of: Callable[..., Any], raw: pd.DataFrame, tmp_path: Path) -> None:
    made = ensemble_of()
    loaded = load_ensemble(made.save(tmp_path))
    given = {name: torch.from_numpy(array) for name, array in made.description.schema_.encode(raw).items()}
    (group,) = loaded.members.groups
    with torch.inference_mode():
        found, _, _ = group(given)
        for one, network in zip(found["kind"], (network for replicas in made.networks for network in replicas), strict=True):
            values, _, _ = network.say(given)
            torch.testing.assert_close(one, values["kind"])
    assert len({tuple(one.flatten().tolist()) for one in found["kind"]}) == 4


@pytest.mark.parametrize("number", [0, FORMAT + 1])
def test_another_format_is_refused(ensemble_of: Callable[..., Any], tmp_path: Path, number: int) -> None:
    file = ensemble_of().save(tmp_path) / DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": number}))
    with pytest.raises(PackageError, match=f"format {number} .*this is {FORMAT}"):
        load_ensemble(tmp_path)


def test_a_description_with_a_field_that_nobody_knows_is_refused(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    file = ensemble_of().save(tmp_path) / DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"surprise": 1}))
    with pytest.raises(PackageError, match="surprise"):
        load_ensemble(tmp_path)


def test_weights_that_lack_a_tensor_are_refused(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    file = ensemble_of().save(tmp_path) / WEIGHTS
    tensors = load_file(file)
    lost = next(name for name in tensors if name.startswith("members/1/0/backbone"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    with pytest.raises(PackageError, match="backbone"):
        load_ensemble(tmp_path)


def test_a_later_format_is_named_whatever_else_it_holds(tmp_path: Path) -> None:
    later = {"format": FORMAT + 1, "schema_": {"targets": {}}, "members": [], "targets": {}, "new": 1}
    (tmp_path / "ensemble.json").write_text(json.dumps(later), encoding="utf-8")
    with pytest.raises(PackageError, match=f"format {FORMAT + 1} of ensemble"):
        load_description(tmp_path)


def test_every_combiner_is_saved_and_loaded_somewhere() -> None:
    assert {kind for kinds in KINDS for kind in kinds.values()} >= set(COMBINERS)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_package_of_the_store_is_refused_where_its_files_are_not_those_of_its_manifest(
    ensemble_of: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    folder, _ = Store(tmp_path).make("package", "key", lambda place: ensemble_of().save(place))
    load_ensemble(folder)
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PackageError, match=f"refused: {name} has changed"):
        load_ensemble(folder)
