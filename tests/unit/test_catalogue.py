"""Everything that a recipe may name, as the command lists it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from fuseline.catalogue import FAMILIES, Entry, entries
from fuseline.errors import RecipeError
from fuseline.fusion.rules import FUSIONS
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.losses import LOSSES
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.mixing import MIXINGS

EACH = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def listed(plain: Callable[[str], str]) -> Callable[..., str]:
    """What ``fuseline components`` prints."""

    def call(*arguments: str) -> str:
        from flows.cli import app

        done = CliRunner().invoke(app, ["components", *arguments])
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        return plain(done.stdout)

    return call


# --------------------------------------------------------------------------------------------------------------- entries


@EACH
def test_a_family_has_an_entry_for_each_function(family: str) -> None:
    assert [entry.name for entry in entries(family)] == list(FAMILIES[family]) != []


@EACH
def test_every_function_says_what_it_does(family: str) -> None:
    for entry in entries(family):
        assert entry.says.endswith("."), entry
        assert len(entry.says.split()) >= 3, entry
        assert entry.says == " ".join(entry.says.split())
        assert "Args:" not in entry.says
        assert inspect.getdoc(FAMILIES[family][entry.name]).startswith(entry.says.split()[0])  # type: ignore[union-attr]


@EACH
def test_the_settings_of_an_entry_are_what_may_be_set(family: str) -> None:
    for entry in entries(family):
        parameters = inspect.signature(FAMILIES[family][entry.name]).parameters
        by_keyword = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
        assert list(entry.settings) == by_keyword
        for name, said in entry.settings.items():
            default = parameters[name].default
            assert said == ("required" if default is inspect.Parameter.empty else str(default))


def test_families_are_those_that_a_recipe_uses() -> None:
    assert FAMILIES["architectures"] is ARCHITECTURES
    assert FAMILIES["fusions"] is FUSIONS
    assert {name.removeprefix("losses.") for name in FAMILIES if name.startswith("losses.")} == set(LOSSES)
    assert set(FAMILIES["augmentations"]) == {*AUGMENTATIONS, *MIXINGS}


def test_a_function_is_described_by_its_first_paragraph() -> None:
    huber = next(entry for entry in entries("losses.regression") if entry.name == "huber")
    assert huber.settings == {"delta": "1.0"}
    assert huber.says.startswith("½(y − m)² up to a distance of δ standard deviations")
    given = next(entry for entry in entries("class_weights") if entry.name == "given")
    assert given == Entry("given", {"weights": "required"}, "A weight for each class by its name; 1 for one that is not named.")


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("fusion", "did you mean 'fusions'?"),
        ("losses.ordnal", "did you mean 'losses.ordinal'?"),
        ("xyz", "choose from sources, "),
    ],
)
def test_an_unknown_family_is_told_what_is_near(refusal: Callable[..., str], family: str, words: str) -> None:
    sentence = refusal(RecipeError, entries, family)
    assert sentence.startswith(f"the family {family!r} is not known; ")
    assert words in sentence


# --------------------------------------------------------------------------------------------------------------- command


def test_the_command_lists_the_names_of_all_families(listed: Callable[..., str]) -> None:
    words = listed().replace(",", " ").split()
    for family in FAMILIES:
        assert family in words
        assert len([name for name in FAMILIES[family] if name in words]) > len(FAMILIES[family]) / 2  # a long one may be broken


def test_the_command_lists_one_family_with_its_settings(listed: Callable[..., str]) -> None:
    text = listed("losses.regression")
    assert all(words in text for words in ("losses.regression", "squared_error", "huber", "delta: 1.0", "gaussian_nll"))
    assert "cross_entropy" not in text


def test_the_command_says_all_of_it_as_json(listed: Callable[..., str]) -> None:
    found: dict[str, list[dict[str, Any]]] = json.loads(listed("--json"))
    assert list(found) == list(FAMILIES)
    for family, its in found.items():
        assert [Entry(**entry) for entry in its] == entries(family)


def test_the_command_says_one_family_as_json(listed: Callable[..., str]) -> None:
    assert json.loads(listed("heads", "--json")) == {"heads": [entry._asdict() for entry in entries("heads")]}


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_command_refuses_an_unknown_family_in_one_sentence(plain: Callable[[str], str], as_json: list[str]) -> None:
    from flows.cli import app

    done = CliRunner().invoke(app, ["components", "head", *as_json])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert plain(done.stderr) == "error: the family 'head' is not known; did you mean 'heads'?\n"
