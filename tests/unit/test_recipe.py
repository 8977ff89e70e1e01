"""The recipe: YAML 1.2, overrides, and one sentence for whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuseline.component import Component
from fuseline.errors import RecipeError
from fuseline.recipe import Limits, Recipe, dump_recipe, load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

PLAIN = """\
name: tea
data:
  source: {csv: {path: tea.csv}}
targets:
  taste: {kind: classification}
members:
  - name: leaf
    architecture: mlp
    augment: [shift, affine]
  - name: bag
    count: 3
    architecture: {mlp: {hidden: [8]}}
"""

Loader = Callable[..., Recipe]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Read a recipe from text, with overrides."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"

    def read(text: str = PLAIN, *overrides: str) -> Recipe:
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides)

    return read


@pytest.fixture(scope="session")
def refused(load: Loader, refusal: Callable[..., str]) -> Callable[..., str]:
    """Read a recipe that must be refused, and return the sentence."""
    return lambda text=PLAIN, *overrides: refusal(RecipeError, load, text, *overrides)


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read_and_written_again(path: Path, load: Loader) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert load(dump_recipe(recipe)) == recipe


def test_there_are_shipped_recipes() -> None:
    assert RECIPES


def test_a_missing_file_is_named(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert str(tmp_path / "none.yaml") in refusal(RecipeError, load_recipe, tmp_path / "none.yaml")


def test_a_folder_is_no_recipe(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert str(tmp_path) in refusal(RecipeError, load_recipe, tmp_path)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "r.yaml").write_bytes(b"name: \xff\n")
    assert "r.yaml" in refusal(RecipeError, load_recipe, tmp_path / "r.yaml")


def test_paths_are_relative_to_the_recipes_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    file = tmp_path / "a" / "b" / "r.yaml"
    file.write_text(PLAIN.replace("tea.csv", "../data/tea.csv"))
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(Path("a/b/r.yaml"))
    assert recipe.data.source.settings["path"] == str(tmp_path / "a" / "data" / "tea.csv")


def absolute(tmp_path: Path, text: str) -> Recipe:
    """Read a recipe that lies in a folder of its own."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "r.yaml").write_text(text)
    return load_recipe(tmp_path / "deep" / "r.yaml")


@pytest.mark.parametrize("key", ["path", "table", "checksums", "root"])
def test_every_file_of_a_source_is_relative_to_the_recipe(tmp_path: Path, key: str) -> None:
    recipe = absolute(tmp_path, PLAIN.replace("{path: tea.csv}", f"{{{key}: ../tea/leaves, name: ../plain, rows: 3}}"))
    settings = {key: str(tmp_path / "tea" / "leaves"), "name": "../plain", "rows": 3}
    assert recipe.data.source == Component(name="csv", settings=settings)


@pytest.mark.parametrize(
    "written", ["old/w.safetensors", "{path: old/w.safetensors}", "{path: old/w.safetensors, mean: [0.5], std: [0.25]}"]
)
def test_a_file_of_trained_weights_is_relative_to_the_recipe(tmp_path: Path, written: str) -> None:
    trained = absolute(tmp_path, PLAIN.replace("    augment: [shift, affine]", f"    trained: {written}")).members[0].trained
    assert trained is not None
    assert trained.path == str(tmp_path / "deep" / "old" / "w.safetensors")
    assert (trained.mean, trained.std) == (([0.5], [0.25]) if "mean" in written else (None, None))


@pytest.mark.parametrize(
    ("weights", "becomes"),
    [("w.pth", "deep/w.pth"), ("../w.safetensors", "w.safetensors"), ("DEFAULT", None), ("IMAGENET1K_V1", None), ("null", None)],
)
def test_weights_are_a_file_if_they_have_a_suffix(tmp_path: Path, weights: str, becomes: str | None) -> None:
    recipe = absolute(tmp_path, PLAIN.replace("architecture: mlp", f"architecture: {{resnet18: {{weights: {weights}}}}}"))
    given = recipe.members[0].architecture.settings["weights"]
    assert given == (None if weights == "null" else weights if becomes is None else str(tmp_path / becomes))


def test_other_words_are_no_files(tmp_path: Path) -> None:
    """A target's settings name no files, whatever they are called."""
    text = PLAIN.replace(
        "{kind: classification}", "{kind: classification, class_weights: {given: {weights: {path: 2, root: 1}}}}"
    )
    rules = absolute(tmp_path, text).targets["taste"].class_weights
    assert rules == Component(name="given", settings={"weights": {"path": 2, "root": 1}})


def test_a_path_that_is_set_by_hand_is_relative_to_the_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(PLAIN)
    recipe = load_recipe(tmp_path / "r.yaml", ["data.source.csv.path=other.csv", "members.0.trained=w.pt"])
    assert recipe.data.source.settings["path"] == str(tmp_path / "other.csv")
    assert recipe.members[0].trained is not None
    assert recipe.members[0].trained.path == str(tmp_path / "w.pt")


def test_an_absolute_path_stays(load: Loader) -> None:
    assert load(PLAIN.replace("tea.csv", "/somewhere/tea.csv")).data.source.settings["path"] == "/somewhere/tea.csv"


# ----------------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y", "N"])
def test_a_word_is_a_word(load: Loader, word: str) -> None:
    recipe = load(PLAIN.replace("{kind: classification}", f"{{kind: classification, classes: [{word}, other]}}"))
    assert recipe.targets["taste"].classes == [word, "other"]


@pytest.mark.parametrize("written", [["true", "false"], ["1", "0"], ["'1'", "'0'"], ["'true'", "'1'"], ["0o10", "-3"]])
def test_classes_are_truths_whole_numbers_or_words_as_they_are_written(load: Loader, written: list[str]) -> None:
    classes = load(PLAIN, f"targets.taste.classes=[{', '.join(written)}]").targets["taste"].classes
    values = {"true": True, "false": False, "1": 1, "0": 0, "'1'": "1", "'0'": "0", "'true'": "true", "0o10": 8, "-3": -3}
    assert classes == [values[word] for word in written]
    assert [type(label) for label in classes or []] == [type(values[word]) for word in written]


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ("1E3", 1000.0), ("1.5e2", 150.0), (".5", 0.5), ("010", 10), ("0o10", 8), ("0x1F", 31), ("true", True)],
)
def test_numbers_are_those_of_yaml_1_2(load: Loader, written: str, value: float | bool) -> None:
    recipe = load(PLAIN.replace("architecture: mlp", f"architecture: {{mlp: {{dropout: {written}}}}}"))
    given = recipe.members[0].architecture.settings["dropout"]
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize("written", ["2024-01-31", "2024-13-45", "12:30:45", "1_000", "-_", "0x_"])
def test_what_yaml_1_2_does_not_know_is_a_word(load: Loader, written: str) -> None:
    assert load(PLAIN + f"description: {written}\n").description == written


@pytest.mark.parametrize(
    ("added", "line"),
    [("name: again\n", 13), ("seed: 1\nseed: 1\n", 14), ("training: {threads: 1, threads: 2}\n", 13)],
)
def test_a_key_given_twice_is_refused(refused: Callable[..., str], added: str, line: int) -> None:
    sentence = refused(PLAIN + added)
    assert "duplicate key" in sentence
    assert f"line {line}" in sentence


@pytest.mark.parametrize(
    "added",
    [
        "x: [1, 2\n",
        "x: 'open\n",
        "x: *nobody\n",
        "x:\n\t- 1\n",
        "---\na: 1\n",
        "? {a: b}\n: c\n",
        "? [a]\n: c\n",
        "<<: 1\n",
        "x: !!python/object:os.system ls\n",
        "description: !!int ten\n",
        "description: !!bool perhaps\n",
        'description: "\x00"\n',
        "x: &a [*a]\n",
    ],
)
def test_broken_or_dangerous_yaml_is_refused(refused: Callable[..., str], added: str) -> None:
    assert "recipe.yaml" in refused(PLAIN + added)


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "3\n", "# nothing\n"])
def test_a_recipe_is_a_mapping(refused: Callable[..., str], text: str) -> None:
    assert "mapping" in refused(text)


@given(st.text("abn01 :-_*&!?[]{}'\"#|>,.%@\n\t", max_size=24))
@example("2024-13-45")
def test_no_text_gets_through_but_as_a_recipe_or_a_refusal(load: Loader, text: str) -> None:
    said: str | None = None
    try:
        recipe = load(PLAIN + "description: " + text)
    except RecipeError as error:
        said = str(error)
    assert len(said.splitlines()) == 1 if said is not None else isinstance(recipe.description, str)


# --------------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("name: tea\n", "name: tea\ncolour: red\n", "colour: this key"),
        ("{path: tea.csv}}\n", "{path: tea.csv}}\n  sauce: 1\n", "data.sauce: this key"),
        ("kind: classification", "kind: classification, colour: red", "targets.taste.colour: this key"),
        ("    count: 3\n", "    counts: 3\n", "members.1.counts: this key"),
        ("    count: 3\n", "    count: 0\n", "members.1.count: "),
        ("    count: 3\n", "    count: 257\n", "members.1.count: "),
        ("    count: 3\n", "    count: 2.5\n", "members.1.count: "),
        ("    count: 3\n", "    epochs: 0\n", "members.1.epochs: "),
        ("    count: 3\n", "    batch_size: 0\n", "members.1.batch_size: "),
        ("    count: 3\n", "    early_stopping: {holdout: 0.5}\n", "members.1.early_stopping.holdout: "),
        ("    count: 3\n", "    early_stopping: {patience: 0}\n", "members.1.early_stopping.patience: "),
        ("kind: classification", "kind: classify", "targets.taste.kind: "),
        ("kind: classification", "column: x", "targets.taste.kind: this key is required"),
        ("kind: classification", "kind: classification, weight: 0", "targets.taste.weight: "),
        ("kind: classification", "kind: classification, weight: .inf", "targets.taste.weight: "),
        ("kind: classification", "kind: classification, weight: .nan", "targets.taste.weight: "),
        ("kind: classification", "kind: classification, classes: [a]", "targets.taste.classes: "),
        ("kind: classification", "kind: classification, metrics: []", "targets.taste.metrics: "),
        ("kind: classification", "kind: classification, fusion: []", "targets.taste.fusion: "),
        ("kind: classification", "kind: multilabel", "targets.taste: 'columns' names the labels"),
        ("kind: classification", "kind: multilabel, columns: [a]", "targets.taste.columns: "),
        ("kind: classification", "kind: multilabel, columns: [a, a]", "targets.taste: the column 'a' stands there twice"),
        ("kind: classification", "kind: multilabel, columns: [a, b], column: c", "targets.taste: a multilabel target takes"),
        (
            "kind: classification",
            "kind: multilabel, columns: [a, b], classes: [c, d]",
            "targets.taste: a multilabel target takes",
        ),
        ("kind: classification", "kind: classification, columns: [a, b]", "targets.taste: 'columns' names the labels"),
        ("kind: classification", "kind: classification, classes: [a, a]", "targets.taste: the class 'a' stands there twice"),
        ("kind: classification", "kind: classification, classes: [1, '1']", "targets.taste: the class '1' stands there twice"),
        ("kind: classification", "kind: classification, classes: [a, 1.5]", "targets.taste.classes.1."),
        ("kind: classification", "kind: classification, classes: [a, null]", "targets.taste.classes.1."),
        ("kind: classification", "kind: regression, classes: [a, b]", "targets.taste: 'classes' are for the kinds"),
        ("kind: classification", "kind: quantile, classes: [1, 2]", "targets.taste: 'classes' are for the kinds"),
        (
            "kind: classification",
            "kind: classification, levels: [0.1, 0.9]",
            "targets.taste: 'levels' are for the kind 'quantile'",
        ),
        ("kind: classification", "kind: ordinal, levels: [0.1, 0.9]", "targets.taste: 'levels' are for the kind 'quantile'"),
        ("kind: classification", "kind: regression, levels: [0.1, 0.9]", "targets.taste: 'levels' are for the kind 'quantile'"),
        (
            "kind: classification",
            "kind: multilabel, columns: [a, b], levels: [0.1, 0.9]",
            "targets.taste: 'levels' are for the kind 'quantile'",
        ),
        ("kind: classification", "kind: quantile, levels: [0.5]", "targets.taste.levels: "),
        ("kind: classification", "kind: quantile, levels: [0.5, 0.1]", "targets.taste: the 'levels' must ascend"),
        ("kind: classification", "kind: quantile, levels: [0.1, 0.1]", "targets.taste: the 'levels' must ascend"),
        ("kind: classification", "kind: quantile, levels: [0, 0.5]", "targets.taste.levels.0: "),
        ("kind: classification", "kind: quantile, levels: [0.5, 1]", "targets.taste.levels.1: "),
        ("kind: classification", "kind: quantile, levels: [0.5, .nan]", "targets.taste.levels.1: "),
        ("kind: classification", "kind: classification, missing: handle", "targets.taste.missing: "),
        ("kind: classification", "kind: classification, class_weights: [balanced]", "targets.taste.class_weights: "),
        ("kind: classification", "kind: classification, fusion: [mean, mean]", "targets.taste: the fusion rule 'mean'"),
        ("    count: 3\n", "    numbers: [standard]\n", "members.1.numbers: "),
        ("    count: 3\n", "    average: {ema: {}, swa: {}}\n", "members.1.average: "),
        ("    count: 3\n", "    freeze: backbone.*\n", "members.1.freeze: "),
        ("    count: 3\n", "    rates: {backbone.*: 0}\n", "members.1.rates.backbone.*: "),
        ("    count: 3\n", "    rates: {backbone.*: 1001}\n", "members.1.rates.backbone.*: "),
        ("    count: 3\n", "    rates: [1]\n", "members.1.rates: "),
        ("    count: 3\n", "    strategy: boosting\n", "members.1: a 'strategy' says how several members"),
        ("    count: 3\n", "    count: 3\n    trained: w.pt\n", "members.1: a 'trained' member is one set of weights"),
        ("    count: 3\n", "    trained: {mean: [0.5]}\n", "members.1.trained.path: this key is required"),
        ("    count: 3\n", "    trained: {path: w.pt, mean: []}\n", "members.1.trained.mean: "),
        ("    count: 3\n", "    trained: {path: w.pt, mean: [.nan]}\n", "members.1.trained.mean.0: "),
        ("    count: 3\n", "    trained: {path: w.pt, std: [0]}\n", "members.1.trained.std.0: "),
        ("    count: 3\n", "    trained: {path: w.pt, std: [.inf]}\n", "members.1.trained.std.0: "),
        ("    count: 3\n", "    trained: {path: w.pt, mean: [1]}\n", "members.1.trained: 'mean' and 'std' go together"),
        ("    count: 3\n", "    trained: {path: w.pt, std: [1]}\n", "members.1.trained: 'mean' and 'std' go together"),
        (
            "    count: 3\n",
            "    trained: {path: w.pt, mean: [1, 2, 3], std: [1]}\n",
            "members.1.trained: 'mean' and 'std' go together",
        ),
        ("    count: 3\n", "    trained: {path: w.pt, scale: 1}\n", "members.1.trained.scale: this key"),
        ("    count: 3\n", "    trained: 3\n", "members.1.trained: "),
        ("targets:\n", "targets:\n  other: {kind: multilabel, columns: [x, taste]}\n", "the target column 'taste'"),
        ("  taste:", "  bad name:", "targets.bad name"),
        ("name: tea\n", "name: a/b\n", "name: "),
        ("name: tea\n", "name: -tea\n", "name: "),
        ("name: tea\n", "name: tea\nseed: -1\n", "seed: "),
        ("name: tea\n", f"name: {'t' * 65}\n", "name: "),
        ("name: tea\n", "", "name: this key is required"),
        ("name: tea\n", "name: tea\ntraining: {device: gpu}\n", "training.device: "),
        ("name: tea\n", "name: tea\ntraining: {min_members: 0}\n", "training.min_members: "),
        ("name: tea\n", "name: tea\ntraining: {min_members: 5}\n", "training.min_members asks for 5 of 4 members; ask for fewer"),
        ("name: tea\n", "name: tea\ntraining: {checkpoint_minutes: 0}\n", "training.checkpoint_minutes: "),
        ("name: tea\n", "name: tea\ntraining: {limits: {minutes: 0}}\n", "training.limits.minutes: "),
        ("name: tea\n", "name: tea\ntraining: {limits: {silent_minutes: .inf}}\n", "training.limits.silent_minutes: "),
        ("name: tea\n", "name: tea\ntraining: {limits: {memory_gib: -1}}\n", "training.limits.memory_gib: "),
        ("name: tea\n", "name: tea\ntraining: {limits: {retries: 11}}\n", "training.limits.retries: "),
        ("name: tea\n", "name: tea\ntraining: {limits: {wait_seconds: -1}}\n", "training.limits.wait_seconds: "),
        ("name: tea\n", "name: tea\ntraining: {limits: {hours: 1}}\n", "training.limits.hours: this key"),
        ("name: tea\n", "name: tea\nevaluation: {level: 1}\n", "evaluation.level: "),
        ("name: tea\n", "name: tea\nevaluation: {resamples: 99}\n", "evaluation.resamples: "),
        ("name: tea\n", "name: tea\nfusion: {folds: 1}\n", "fusion.folds: "),
        ("name: tea\n", "name: tea\nfusion: {rules: [mean, {mean: {}}]}\n", "'mean'"),
        ("name: tea\n", "name: tea\ncalibration: {method: isotonic}\n", "calibration.method: "),
        ("name: tea\n", "name: tea\nregistry: {floors: {smell: {accuracy: 1}}}\n", "'smell'"),
        ("name: leaf", "name: bag-2", "'bag-2'"),
        ("name: leaf", "name: bag\n    count: 2", "'bag-1'"),
        ("targets:\n", "targets:\n  other: {kind: regression, column: taste}\n", "'taste'"),
        ("architecture: mlp\n", "architecture: [mlp]\n", "members.0.architecture: "),
        ("architecture: mlp\n", "architecture: {mlp: {}, cnn: {}}\n", "members.0.architecture: "),
    ],
)
def test_a_wrong_value_is_named_by_its_path(refused: Callable[..., str], old: str, new: str, path: str) -> None:
    assert PLAIN.count(old) == 1
    sentence = refused(PLAIN.replace(old, new))
    assert "recipe.yaml: " in sentence
    assert path in sentence


@pytest.mark.parametrize("key", ["data", "targets", "members"])
def test_the_main_parts_are_required(refused: Callable[..., str], key: str) -> None:
    lines = PLAIN.split("\n")
    start = lines.index(f"{key}:")
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith(" "))
    assert f"{key}: this key is required" in refused("\n".join(lines[:start] + lines[end:]))


def test_a_key_with_a_line_break_still_gives_one_sentence(refused: Callable[..., str]) -> None:
    refused(PLAIN + '"a\\nb": 1\n')


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("{rule: group}", "'column'"),
        ("{rule: time}", "'column'"),
        ("{rule: column}", "'column'"),
        ("{rule: stratified, column: x}", "'column'"),
        ("{rule: random}", "data.split.rule"),
        ("{test: 0}", "data.split.test"),
        ("{fusion: -0.1}", "data.split.fusion"),
        ("{calibration: 1.0}", "data.split.calibration"),
        ("{fusion: 0.5, calibration: 0.3, test: 0.2}", "no rows to train on"),
        ("{fusion: 0.7, calibration: 0.1, test: 0.2}", "no rows to train on"),
        ("{fusion: 0.8, calibration: 0.3, test: 0.2}", "no rows to train on"),
    ],
)
def test_a_split_must_be_consistent(refused: Callable[..., str], split: str, words: str) -> None:
    sentence = refused(PLAIN.replace("tea.csv}}\n", f"tea.csv}}}}\n  split: {split}\n"))
    assert "data.split" in sentence
    assert words in sentence


def test_train_is_what_the_other_shares_leave(load: Loader) -> None:
    split = load(PLAIN, "data.split.fusion=0.25", "data.split.calibration=0.125", "data.split.test=0.5").data.split
    assert split.train == 0.125


def test_member_names_count_from_one(load: Loader) -> None:
    assert load().member_names == ["leaf", "bag-1", "bag-2", "bag-3"]
    assert load(PLAIN, "members.1.count=1").member_names == ["leaf", "bag"]


def test_columns_and_the_registered_name_follow_the_names(load: Loader) -> None:
    recipe = load()
    assert (recipe.columns("taste"), recipe.registered_name) == (["taste"], "tea")
    recipe = load(PLAIN, "targets.taste.column=t", "registry.name=other")
    assert (recipe.columns("taste"), recipe.registered_name) == (["t"], "other")
    recipe = load(PLAIN, "targets.taste={kind: multilabel, columns: [sweet, bitter]}")
    assert recipe.columns("taste") == ["sweet", "bitter"]


EVERYTHING = """\
name: tea
data: {source: digits}
targets:
  grade: {kind: ordinal, classes: [low, high], missing: mask, class_weights: {effective_number: {beta: 0.9}}}
  notes: {kind: multilabel, columns: [sweet, bitter], loss: focal}
  price: {kind: quantile, levels: [0.1, 0.5], column: euros}
members:
  - {name: a, count: 2, architecture: mlp, numbers: {quantile: {quantiles: 9}}, average: ema, strategy: {snapshots: {cycles: 2}}}
  - {name: b, architecture: mlp, freeze: [backbone.*], rates: {heads.*: 10, "*": 0.1}}
  - {name: c, architecture: mlp, trained: {path: /w.pt, mean: [0.5, 0], std: [0.2, 1]}}
training: {min_members: 4, checkpoint_minutes: 0.5, limits: {minutes: 90, memory_gib: 1.5, wait_seconds: 0}}
"""


def test_everything_that_may_be_said_is_kept(load: Loader) -> None:
    recipe = load(EVERYTHING)
    grade, notes, price = recipe.targets.values()
    assert (grade.classes, grade.missing) == (["low", "high"], "mask")
    assert grade.class_weights == Component(name="effective_number", settings={"beta": 0.9})
    assert (notes.columns, notes.missing, notes.class_weights) == (["sweet", "bitter"], "refuse", None)
    assert (price.levels, recipe.columns("price")) == ([0.1, 0.5], ["euros"])
    assert (recipe.training.quorum(4), recipe.training.checkpoint_minutes) == (4, 0.5)
    assert recipe.training.limits == Limits(minutes=90, silent_minutes=30, memory_gib=1.5, retries=1, wait_seconds=0)
    a, b, c = recipe.members
    assert a.numbers == Component(name="quantile", settings={"quantiles": 9})
    assert (a.average, a.strategy) == (Component(name="ema"), Component(name="snapshots", settings={"cycles": 2}))
    assert (b.freeze, list(b.rates.items())) == (["backbone.*"], [("heads.*", 10), ("*", 0.1)])
    assert (b.numbers, b.average, b.strategy, b.trained) == (Component(name="standard"), None, None, None)
    assert c.trained is not None
    assert c.trained.model_dump() == {"path": "/w.pt", "mean": [0.5, 0], "std": [0.2, 1]}
    assert load(dump_recipe(recipe)) == recipe


def test_a_trained_file_may_be_given_by_its_path_alone(load: Loader) -> None:
    short, long = (load(PLAIN, f"members.0.trained={written}") for written in ("/w.pt", "{path: /w.pt}"))
    assert short == long
    assert load(dump_recipe(short)) == short


def test_parts_are_frozen(load: Loader) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 3  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------------ overrides


def at(recipe: Recipe, path: str) -> Any:
    place: Any = recipe.model_dump()
    for part in path.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
    return place


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("name=other", "name", "other"),
        ("description=a=b", "description", "a=b"),
        ("members.0.epochs=5", "members.0.epochs", 5),
        ("members.1.count=2", "members.1.count", 2),
        ("members.0.early_stopping=null", "members.0.early_stopping", None),
        ("members.0.early_stopping.patience=3", "members.0.early_stopping.patience", 3),
        ("members.0.augment.1=shift", "members.0.augment.1", "shift"),
        ("members.0.augment.0={shift: {pixels: 2}}", "members.0.augment.0", {"shift": {"pixels": 2}}),
        ("members.0.augment.0.shift.pixels=2", "members.0.augment.0", {"shift": {"pixels": 2}}),
        ("members.0.architecture.mlp.hidden=[3, 4]", "members.0.architecture", {"mlp": {"hidden": [3, 4]}}),
        ("members.0.architecture=cnn", "members.0.architecture", "cnn"),
        ("members.1.architecture.mlp.hidden.0=9", "members.1.architecture", {"mlp": {"hidden": [9]}}),
        ("members.1.architecture.mlp.dropout=1e-1", "members.1.architecture.mlp.dropout", 0.1),
        ("data.split.rule=stratified", "data.split.rule", "stratified"),
        ("targets.taste.classes=[no, yes]", "targets.taste.classes", ["no", "yes"]),
        ("partition.kfold.folds=3", "partition", {"kfold": {"folds": 3}}),
        ("fusion.rules=[mean]", "fusion.rules", ["mean"]),
    ],
)
def test_an_override_sets_one_value(load: Loader, override: str, path: str, value: Any) -> None:
    assert at(load(PLAIN, override), path) == value


def test_overrides_apply_in_order_and_leave_the_rest_alone(load: Loader) -> None:
    recipe = load(PLAIN, "seed=1", "seed=2")
    assert recipe == load(PLAIN + "seed: 2\n")


def test_a_source_path_may_be_set(load: Loader) -> None:
    source = load(PLAIN, "data.source.csv.separator=;").data.source
    assert source.settings["separator"] == ";"
    assert Path(source.settings["path"]).is_absolute()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "path=value"),
        ("=1", "path=value"),
        ("", "path=value"),
        ("seed=[1", "not YAML"),
        ("seed={a: 1, a: 2}", "not YAML"),
        ("seed=-1", "seed: "),
        ("seed.deeper=1", "seed: "),
        ("members.5.epochs=1", "'5' is not a position"),
        ("members.2=mlp", "'2' is not a position"),
        ("members.-1.epochs=1", "'-1' is not a position"),
        ("members.first.epochs=1", "'first' is not a position"),
        ("members.²=1", "not a position"),
        ("members.0.epochs.deeper=1", "members.0.epochs"),
        ("members.1.count.deeper=1", "'count' holds a plain value"),
        ("members.1.architecture.mlp.hidden.0.deeper=1", "--set members.1.architecture.mlp.hidden.0.deeper=1"),
        ("members.0.augment.0.pixels=2", "members.0.augment.0"),
        ("members.0.architecture.cnn.channels=[8]", "members.0.architecture"),
        ("colour=red", "colour: this key"),
        ("a..b=1", "a: this key"),
        ("description=!!int x", "description"),
        ("members=", "members: "),
        ("description=", "description: "),
        ("data=", "data: "),
    ],
)
def test_a_bad_override_is_refused(refused: Callable[..., str], override: str, words: str) -> None:
    assert words in refused(PLAIN, override)


# ----------------------------------------------------------------------------------------------------------- round trip

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn", "Co")) | st.sampled_from("\n\t"), max_size=40)
TRAPS = st.sampled_from(
    [
        "no",
        "1e-3",
        "1.0",
        "null",
        "~",
        "true",
        "2024-01-31",
        "2024-13-45",
        "-_",
        "",
        " ",
        "- a",
        "a: b",
        "#",
        "0o7",
        "=",
        "<<",
        "...",
        "1_0",
    ]
)
LABELS = st.lists(WORDS | TRAPS, min_size=2, max_size=4, unique_by=str) | st.lists(st.integers(), min_size=2, unique=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(WORDS | TRAPS, LABELS, st.dictionaries(WORDS | TRAPS, WORDS | TRAPS | FINITE | st.none() | LABELS, max_size=3))
def test_a_recipe_is_read_as_it_was_written(load: Loader, description: str, classes: list[Any], settings: dict[str, Any]) -> None:
    tree = load().model_dump()
    tree["description"] = description
    tree["targets"]["taste"]["classes"] = classes
    tree["members"][0]["architecture"] = Component(name="mlp", settings=settings)
    recipe = Recipe.model_validate(tree)
    again = load(dump_recipe(recipe))
    assert again == recipe
    assert [type(label) for label in again.targets["taste"].classes or []] == [type(label) for label in classes]


def test_every_default_is_written_out(load: Loader) -> None:
    text = dump_recipe(load())
    for key in Recipe.model_fields:
        assert f"\n{key}:" in f"\n{text}"
    assert "patience: 20" in text
