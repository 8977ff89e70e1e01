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
    assert loaded.on_inputs == ("gate" in kinds.values())
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
    assert [len(member.replicas) for member in loaded.members] == [2, 1, 1]


def test_each_replica_has_its_own_weights(ensemble_of: Callable[..., Any], tmp_path: Path) -> None:
    made = ensemble_of()
    loaded = load_ensemble(made.save(tmp_path))
    for member, networks in zip(loaded.members, made.networks, strict=True):
        for replica, network in zip(member.replicas, networks, strict=True):
            state = network.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in replica.state_dict().items())


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
