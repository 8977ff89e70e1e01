"""The recipe: one YAML file that says everything about a run, read into frozen parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, StrictBool, StrictInt, ValidationError, model_validator

from fuseline.component import Component, Part, explain
from fuseline.errors import RecipeError
from fuseline.terms import EXCLUSIVE, Kind, Name
from fuseline.yaml12 import NotYamlError, dump, parse

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]


def _refuse_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise ValueError(f"{what} {name!r} stands there twice; give each its own")


def _once(names: list[str]) -> list[str]:
    _refuse_twice(names, "the input")
    return names


class Split(Part):
    """How rows get their roles. ``train`` is what the other shares leave."""

    rule: Literal["stable", "stratified", "group", "time", "column"] = "stable"
    seed: int = Field(0, ge=0, lt=2**63)
    column: str | None = None
    fusion: Fraction = 0.15
    calibration: Fraction = 0.1
    test: float = Field(0.2, gt=0, lt=1)

    @property
    def train(self) -> float:
        return 1 - self.fusion - self.calibration - self.test

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train < 1e-9:
            raise ValueError("fusion, calibration and test together leave no rows to train on; make them smaller")
        if self.rule in ("group", "time", "column") and self.column is None:
            raise ValueError(f"the rule {self.rule!r} needs a 'column'")
        if self.rule == "stratified" and self.column is not None:
            raise ValueError("the rule 'stratified' takes no 'column'; use 'group' to keep groups together")
        return self


class Data(Part):
    """Where rows come from, which columns are inputs, and how rows are split.

    Attributes:
        fingerprint: what `fuseline check` says that the data are, so that other data, changed or damaged, are refused.
    """

    source: Component
    fingerprint: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    id: str | None = None
    inputs: Annotated[list[str], AfterValidator(_once)] | None = Field(None, min_length=1)
    categorical: list[str] = []
    missing: Literal["handle", "refuse"] = "handle"
    split: Split = Split()


class Target(Part):
    """One thing to predict: its kind, head, loss, metrics and fusion.

    Attributes:
        column: the column that holds it, if that is not called like the target.
        columns: for a multilabel target one column per label, of 0 and 1.
        classes: the classes in their order; needed for an ordinal target of words.
        levels: what a quantile target predicts.
        missing: whether rows without this target are refused, or left out of its loss, fusion and metrics.
        class_weights: how much the rows of each class count while members are trained.
        weight: how much this target's loss counts beside those of the others.
    """

    kind: Kind
    column: str | None = None
    columns: list[str] | None = Field(None, min_length=2)
    classes: list[StrictBool | StrictInt | str] | None = Field(None, min_length=2)
    levels: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.05, 0.25, 0.5, 0.75, 0.95], min_length=2)
    missing: Literal["refuse", "mask"] = "refuse"
    head: Component = Component(name="linear")
    loss: Component | None = None
    class_weights: Component | None = None
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    metrics: list[str] | None = Field(None, min_length=1)
    fusion: list[Component] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_twice([rule.name for rule in self.fusion or []], "the fusion rule")
        _refuse_twice([str(label) for label in self.classes or []], "the class")
        _refuse_twice(self.columns or [], "the column")
        if (self.kind == "multilabel") != (self.columns is not None):
            raise ValueError("'columns' names the labels of a target of the kind 'multilabel', and of no other kind")
        if self.columns is not None and (self.column is not None or self.classes is not None):
            raise ValueError("a multilabel target takes 'columns' alone; remove 'column' and 'classes'")
        if len({type(label) for label in self.classes or []}) > 1:
            raise ValueError("the 'classes' are of several kinds; give all as words, as whole numbers, or as true and false")
        if self.classes is not None and self.kind not in EXCLUSIVE:
            raise ValueError(f"'classes' are for the kinds {' and '.join(sorted(EXCLUSIVE))}; remove them")
        if self.kind != "quantile" and self.levels != type(self).model_fields["levels"].default:
            raise ValueError("'levels' are for the kind 'quantile'; remove them")
        if sorted(set(self.levels)) != self.levels:
            raise ValueError("the 'levels' must ascend")
        if 0.5 not in self.levels:
            raise ValueError("the 'levels' need 0.5 among them: it is the answer, and what calibration widens the others about")
        return self


class EarlyStopping(Part):
    """Stop when the loss on a member's own held-out rows has not improved for ``patience`` epochs; keep the best epoch."""

    holdout: float = Field(0.1, gt=0, lt=0.5)
    patience: int = Field(20, ge=1)


class Trained(Part):
    """A file of trained weights: ``path`` alone, or with the ``mean`` and ``std`` by which its pictures were normalised."""

    path: str
    mean: list[FiniteFloat] | None = Field(None, min_length=1)
    std: list[Annotated[FiniteFloat, Field(gt=0)]] | None = Field(None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_channels(self) -> Self:
        if (self.mean is None) != (self.std is None) or len(self.mean or []) != len(self.std or []):
            raise ValueError("'mean' and 'std' go together, one number each for every channel")
        return self


class Member(Part):
    """A sub-model: its architecture and how it is trained; ``count`` makes several that differ by their seed.

    Attributes:
        numbers: how numeric columns are brought to one scale.
        average: a mean of the weights over the training, in the place of the last ones.
        freeze: patterns over the parameters' names (``backbone.layer1.*``) that are not trained.
        rates: factors on the optimizer's rate by such patterns; the first that matches counts.
        strategy: how each of the ``count`` members follows from those before it.
        trained: a file of weights; the member is not trained at all.
    """

    name: Name
    count: int = Field(1, ge=1, le=256)
    architecture: Component
    numbers: Component = Component(name="standard")
    epochs: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=2)
    optimizer: Component = Component(name="adamw")
    schedule: Component = Component(name="one_cycle")
    augment: list[Component] = []
    average: Component | None = None
    freeze: list[str] = []
    rates: dict[str, Annotated[float, Field(gt=0, le=1000)]] = {}
    strategy: Component | None = None
    trained: Trained | None = None
    early_stopping: EarlyStopping | None = EarlyStopping()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.strategy is not None and self.count < 2:
            raise ValueError("a 'strategy' says how several members follow each other; set 'count' to 2 or more")
        if self.trained is not None and (self.count > 1 or self.strategy is not None):
            raise ValueError("a 'trained' member is one set of weights; remove 'count' and 'strategy'")
        return self


class Limits(Part):
    """What the training of a unit, which is what shares a worker process, may take, and how often it is tried.

    Attributes:
        minutes: a unit that is trained for longer, all attempts together, has timed out.
        silent_minutes: a worker that makes no step for so long hangs.
        memory_gib: a worker that holds more anonymous memory than this is ended.
        retries: so many further attempts have members whose worker was killed, ran out of memory, hung or raised what fuseline
            did not foresee; each goes on from the last checkpoint.
        wait_seconds: how long to wait before the first of these; twice as long before each that follows.
    """

    minutes: Positive | None = None
    silent_minutes: Positive = 30
    memory_gib: Positive | None = None
    retries: int = Field(1, ge=0, le=10)
    wait_seconds: float = Field(5, ge=0, le=3600)


class Training(Part):
    """Where members are trained. ``processes`` run side by side, each with ``threads`` threads.

    ``stack`` says whether members of one shape are trained as one stacked program: ``auto`` where that is faster. ``tune`` lets
    a short timing decide about precision, the order of memory and compilation; without it nothing but float32 is used.

    Attributes:
        min_members: the ensemble goes on without members that have failed if so many are left; half of them, rounded up, where
            nothing is said.
        checkpoint_minutes: inside an epoch a checkpoint is saved so often; at its end anyway.
    """

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    processes: int | None = Field(None, ge=1)
    threads: int = Field(1, ge=1)
    stack: Literal["auto", "always", "never"] = "auto"
    tune: bool = True
    min_members: int | None = Field(None, ge=1)
    checkpoint_minutes: Positive = 5
    limits: Limits = Limits()

    def quorum(self, members: int) -> int:
        """How many of some members must be trained for the ensemble to go on.

        >>> Training().quorum(5), Training(min_members=4).quorum(5)
        (3, 4)
        """
        return self.min_members or -(-members // 2)


class Fusion(Part):
    """The fusion rules to compare, by cross-fitting over ``folds``."""

    rules: list[Component] = Field([Component(name=n) for n in ("mean", "weights", "greedy", "stacking")], min_length=1)
    folds: int = Field(5, ge=2)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _refuse_twice([rule.name for rule in self.rules], "the fusion rule")
        return self


class Calibration(Part):
    """How outputs are calibrated on the calibration rows."""

    method: Literal["temperature", "none"] = "temperature"


class Drift(Part):
    """When new rows count as drifted from the test rows: see :mod:`fuseline.evaluation.drift`.

    Attributes:
        level: the false discovery rate over all tests of an evaluation.
        correction: ``bh`` (Benjamini and Hochberg 1995), or ``by`` (Benjamini and Yekutieli 2001), which holds whatever the
            columns' dependence and finds less.
        bins: for the population stability index of numbers.
        moderate, large: what is significant drifts moderately, or much, from this index on.
    """

    level: float = Field(0.01, gt=0, lt=1)
    correction: Literal["bh", "by"] = "bh"
    bins: int = Field(10, ge=2, le=100)
    moderate: Positive = 0.1
    large: Positive = 0.25

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.large < self.moderate:
            raise ValueError("'large' must not be below 'moderate'")
        return self


class Evaluation(Part):
    """How the test rows are scored: bootstrap ``resamples`` and the ``level`` of the intervals.

    ``coverage`` is how often the sets of classes and the intervals that a package gives with its predictions hold the truth;
    ``drift`` says when new rows have drifted from the test rows.
    """

    resamples: int = Field(1000, ge=100)
    level: float = Field(0.95, gt=0.5, lt=1)
    coverage: float = Field(0.9, gt=0, lt=1)
    drift: Drift = Drift()


class Registry(Part):
    """Where the package is registered. ``floors`` says, per target and metric, what the first champion must reach."""

    name: Name | None = None
    floors: dict[str, dict[str, FiniteFloat]] = {}


class Recipe(Part):
    """Everything about a run."""

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0)
    data: Data
    targets: dict[Name, Target] = Field(min_length=1)
    partition: Component = Component(name="full")
    members: list[Member] = Field(min_length=1)
    training: Training = Training()
    fusion: Fusion = Fusion()
    calibration: Calibration = Calibration()
    evaluation: Evaluation = Evaluation()
    registry: Registry = Registry()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_twice(self.member_names, "the member name")
        _refuse_twice([column for name in self.targets for column in self.columns(name)], "the target column")
        for name in self.registry.floors:
            if name not in self.targets:
                raise ValueError(f"registry.floors names the target {name!r}, which is not among the targets")
        if (self.training.min_members or 0) > len(self.member_names):
            text = f"training.min_members asks for {self.training.min_members} of {len(self.member_names)} members"
            raise ValueError(f"{text}; ask for fewer")
        return self

    @property
    def member_names(self) -> list[str]:
        """The members' names: ``cnn`` alone, or ``cnn-1``, ``cnn-2``, … where ``count`` asks for several."""
        return [entry.name if entry.count == 1 else f"{entry.name}-{i + 1}" for entry in self.members for i in range(entry.count)]

    @property
    def registered_name(self) -> str:
        return self.registry.name or self.name

    def columns(self, target: str) -> list[str]:
        """The columns of the data that hold a target."""
        its = self.targets[target]
        return its.columns or [its.column or target]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply ``path=value`` overrides, and check it.

    File paths inside the recipe are meant relative to the recipe's folder, and come out absolute.

    Raises:
        RecipeError: names the file and the field.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: there is no such recipe; give the path of a YAML file.")
    try:
        tree = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{path}: not readable as YAML 1.2: {error}.") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, with 'name', 'data', 'targets' and 'members'.")
    for override in overrides:
        _override(tree, override)
    _absolute(tree, path.parent)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error)}") from None


def overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A recipe with some ``path=value`` overrides.

    Raises:
        RecipeError: names the field.
    """
    tree = recipe.model_dump(mode="json")
    for override in overrides:
        _override(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{', '.join(overrides)}: {explain(error)}") from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    return dump(recipe.model_dump(mode="json"))


def _override(tree: dict[str, Any], text: str) -> None:
    """Set one value: ``members.0.epochs=5``. Missing mappings on the way are made; list positions must exist."""
    path, sep, raw = text.partition("=")
    if not sep or not path:
        raise RecipeError(f"--set {text}: write it as path=value, like members.0.epochs=5.")
    try:
        value = parse(raw)
    except NotYamlError as error:
        raise RecipeError(f"--set {text}: the value is not YAML: {error}.") from None
    *parents, last = path.split(".")
    place: Any = tree
    for part in parents:
        place = _step(place, part, text)
    if isinstance(place, list):
        place[_position(place, last, text)] = value
    else:
        place[last] = value


def _step(place: Any, part: str, text: str) -> Any:
    """One step into the tree. A component given by its bare name gets room for settings; a missing mapping is made."""
    where: Any = _position(place, part, text) if isinstance(place, list) else part
    child = place[where] if isinstance(place, list) else place.get(where)
    if child is None:
        child = place[where] = {}
    elif isinstance(child, str):
        child = place[where] = {child: {}}
    elif not isinstance(child, dict | list):
        raise RecipeError(f"--set {text}: {part!r} holds a plain value and has nothing inside.")
    return child


def _position(place: list[Any], part: str, text: str) -> int:
    if not part.isdecimal() or int(part) >= len(place):
        raise RecipeError(f"--set {text}: {part!r} is not a position of that list; it has {len(place)} (counted from 0).")
    return int(part)


FILES = frozenset({"path", "table", "checksums", "weights", "trained", "root"})
"""Settings that name a file or a folder."""


def _absolute(tree: Any, folder: Path) -> None:
    """Turn the file names inside the data's source and the members into absolute ones."""
    data = tree.get("data")
    members = tree.get("members")
    for part in [data.get("source") if isinstance(data, dict) else None, *(members if isinstance(members, list) else [])]:
        _resolve(part, folder)


def _resolve(tree: Any, folder: Path) -> None:
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key in FILES and isinstance(value, str) and (key != "weights" or Path(value).suffix):
            tree[key] = str((folder / value).resolve())
        else:
            _resolve(value, folder)
