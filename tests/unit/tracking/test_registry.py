"""Versions and aliases, against a real MLflow database; what a version holds is tested with the whole command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuseline.data.schema import Schema, TargetSchema
from fuseline.tracking import registry
from fuseline.tracking.delivery import Registered
from fuseline.tracking.records import Start, Version
from fuseline.tracking.registry import CHALLENGER, CHAMPION, PACKAGE, register, signature
from fuseline.tracking.runs import Tracker
from fuseline.tracking.tags import MANIFEST

SCHEMA = Schema(
    numeric=["x"],
    categorical={"color": ["red"]},
    targets={"kind": TargetSchema(kind="classification", classes=["a", "b"]), "size": TargetSchema(kind="regression")},
)


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


@pytest.fixture
def registers(
    common_tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., Registered]:
    """Register a package by its key, under a name of this test; the model's files are a word."""

    def apart(function: str, package: Path, plan: Path, place: Path) -> None:
        assert function == "fuseline.tracking.registry:save_model"
        assert plan == Path("the plan")
        place.mkdir(parents=True)
        (place / "MLmodel").write_text(package.name)

    monkeypatch.setattr(registry, "apart", apart)
    monkeypatch.setattr(registry, "seal_model", lambda place, package, plan, key: f"manifest of {package.name}")
    test = request.node.name.replace("[", " ").replace("]", "")
    run = common_tracker.start(test, Start(name="run", kind="train", key=test), None, {}, 1000, False)

    def go(key: str, may_lead: bool = True, name: str = test, **tags: str) -> Registered:
        wanted = Version(name=name, package=str(tmp_path / key), plan="the plan", tags=tags, may_lead=may_lead)
        return register(common_tracker, run, wanted)

    return go


def holders(tracker: Tracker, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in tracker.client.get_registered_model(name).aliases.items()}


def test_the_first_that_may_lead_is_champion_and_a_later_one_only_challenger(
    registers: Callable[..., Registered], common_tracker: Tracker
) -> None:
    first, second = registers("one"), registers("two")
    assert first == Registered(first.name, 1, [CHALLENGER, CHAMPION], False)
    assert second == Registered(first.name, 2, [CHALLENGER], False)
    assert holders(common_tracker, first.name) == {CHAMPION: 1, CHALLENGER: 2}


def test_one_that_may_not_lead_leaves_the_place_to_the_first_that_may(
    registers: Callable[..., Registered], common_tracker: Tracker
) -> None:
    low = registers("low", may_lead=False)
    assert low.aliases == [CHALLENGER]
    assert registers("high").aliases == [CHALLENGER, CHAMPION]
    assert holders(common_tracker, low.name) == {CHAMPION: 2, CHALLENGER: 2}


def test_a_package_that_is_registered_gets_no_new_version_but_its_tags(
    registers: Callable[..., Registered], common_tracker: Tracker
) -> None:
    first = registers("one", floors="cleared", recipe="a")
    again = registers("one", floors="cleared", recipe="b")
    assert again == Registered(first.name, 1, first.aliases, True)
    (version,) = common_tracker.client.search_model_versions(f"name = '{first.name}'")
    assert version.tags == {PACKAGE: "one", MANIFEST: "manifest of one", "floors": "cleared", "recipe": "b"}


def test_a_registered_package_becomes_champion_once_it_may_lead(registers: Callable[..., Registered]) -> None:
    assert registers("one", may_lead=False).aliases == [CHALLENGER]
    assert registers("one", may_lead=True) == Registered(registers("one").name, 1, [CHALLENGER, CHAMPION], True)


def test_an_old_package_does_not_take_the_challengers_place_back(
    registers: Callable[..., Registered], common_tracker: Tracker
) -> None:
    name = registers("one").name
    registers("two")
    assert registers("one").aliases == [CHAMPION]
    assert holders(common_tracker, name) == {CHAMPION: 1, CHALLENGER: 2}


def test_aliases_that_were_taken_away_are_given_again(registers: Callable[..., Registered], common_tracker: Tracker) -> None:
    name = registers("one").name
    for alias in (CHAMPION, CHALLENGER):
        common_tracker.client.delete_registered_model_alias(name, alias)
    assert registers("one").aliases == [CHALLENGER, CHAMPION]


def test_another_name_is_another_model(registers: Callable[..., Registered], common_tracker: Tracker) -> None:
    registers("one")
    other = registers("one", name="elsewhere")
    assert (other.version, other.reused) == (1, False)
    assert holders(common_tracker, "elsewhere") == {CHAMPION: 1, CHALLENGER: 1}


def test_a_version_belongs_to_its_run_and_holds_the_model(registers: Callable[..., Registered], common_tracker: Tracker) -> None:
    made = registers("one")
    version = common_tracker.client.get_model_version(made.name, "1")
    assert common_tracker.client.get_run(version.run_id).data.tags["fuseline.kind"] == "train"
    assert (Path(version.source.removeprefix("file://")) / "MLmodel").read_text() == "one"


CALLS = (
    "create_registered_model",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_model_version",
    "set_registered_model_alias",
    "delete_model_version_tag",
)


@pytest.mark.parametrize("last", CALLS)
def test_who_was_killed_after_a_call_registers_once_all_the_same(
    registers: Callable[..., Registered], common_tracker: Tracker, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """The new version becomes the challenger in the place of an earlier one, and no model is left over."""
    earlier = registers("one")
    its = getattr(common_tracker.client, last)

    def dies(*args: Any, **settings: Any) -> None:
        its(*args, **settings) if last != "create_registered_model" else None  # that one is there already
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(common_tracker.client, last, dies)
        with pytest.raises(Killed):
            registers("two")
    version = registers("two")
    assert (version.version, version.aliases) == (2, [CHALLENGER])
    assert holders(common_tracker, earlier.name) == {CHAMPION: 1, CHALLENGER: 2}
    versions = common_tracker.client.search_model_versions(f"name = '{earlier.name}'")
    assert sorted((str(v.version), v.tags) for v in versions) == [("1", {PACKAGE: "one"}), ("2", {PACKAGE: "two"})]
    models = common_tracker.client.search_logged_models([common_tracker.experiment], f"name = '{earlier.name}'")
    assert len(models) == 2


def test_a_signature_takes_anything_in_a_column_and_says_what_is_answered() -> None:
    signed = signature(SCHEMA)
    assert signed.inputs.input_names() == ["x", "color"]
    assert signed.outputs.input_names() == SCHEMA.answers
    kinds = {column.name: column.type.name for column in signed.outputs}
    assert kinds.pop("kind") == "string"
    assert set(kinds.values()) == {"double"}


def test_a_signature_has_the_columns_of_every_kind() -> None:
    targets = {
        "grade": TargetSchema(kind="ordinal", classes=[1, 2, 5]),
        "signs": TargetSchema(kind="multilabel", classes=["u", "v"]),
        "range": TargetSchema(kind="quantile", levels=[0.05, 0.5]),
    }
    signed = {column.name: column.type.name for column in signature(Schema(numeric=["x"], targets=targets)).outputs}
    doubles = ["grade_proba_1", "grade_proba_2", "grade_proba_5", "signs_proba_u", "signs_proba_v"]
    doubles += [f"{target}_{what}" for target in targets for what in ("uncertainty", "epistemic")]
    doubles += ["range", "range_q0.05", "range_q0.5"]
    expected = {"grade": "long", "signs_u": "boolean", "signs_v": "boolean"} | dict.fromkeys(doubles, "double")
    assert signed == expected
    assert list(signed) == Schema(numeric=["x"], targets=targets).answers


@pytest.mark.parametrize(("classes", "kind"), [([0, 1], "long"), ([False, True], "boolean"), (["a", "b"], "string")])
def test_a_class_is_answered_by_its_own_type(classes: list[Any], kind: str) -> None:
    schema = Schema(numeric=["x"], targets={"t": TargetSchema(kind="classification", classes=classes)})
    assert signature(schema).outputs.inputs[0].type.name == kind


def test_pictures_are_signed_by_their_shape() -> None:
    schema = Schema(image=(3, 8, 9), image_dtype="float32", targets={"t": TargetSchema(kind="regression")})
    (pictures,) = signature(schema).inputs.inputs
    assert (pictures.shape, pictures.type) == ((-1, 3, 8, 9), np.dtype("float32"))
