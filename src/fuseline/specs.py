"""From an entry of the recipe to what training one of its members needs: checked against the data, every default filled in."""

from __future__ import annotations

from pathlib import Path

from fuseline.component import Component, complete
from fuseline.data.schema import Schema
from fuseline.devices import resolve
from fuseline.errors import RecipeError, TrainingError, first_line
from fuseline.models.architectures import ARCHITECTURES
from fuseline.models.heads import HEADS
from fuseline.models.losses import CLASS_WEIGHTS, LOSSES
from fuseline.models.network import Network, NetworkSpec, blank, parameters, some_rows
from fuseline.models.preprocessing import NUMBERS
from fuseline.models.vision import Vision
from fuseline.recipe import Member, Recipe, Target
from fuseline.store import sha256_of
from fuseline.training.augmentation import AUGMENTATIONS
from fuseline.training.averaging import AVERAGES
from fuseline.training.groups import freeze, groups
from fuseline.training.mixing import MIXINGS
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.schedules import SCHEDULES
from fuseline.training.train import TrainSpec
from fuseline.training.trained import TrainedFile, load_trained

SMALL = 20_000_000
"""Networks of at most so many numbers are tried with numbers in them."""


def train_spec(recipe: Recipe, position: int, schema: Schema) -> TrainSpec:
    """How the members of one entry of the recipe are trained.

    Raises:
        RecipeError: names the field that is wrong or does not fit the data.
    """
    entry: Member = recipe.members[position]
    field = f"members.{position}"
    targets = recipe.targets.items()
    average = None if entry.average is None else complete(entry.average, AVERAGES, f"{field}.average")
    spec = TrainSpec(
        network=NetworkSpec(
            architecture=complete(entry.architecture, ARCHITECTURES, f"{field}.architecture"),
            heads={name: complete(target.head, HEADS, f"targets.{name}.head") for name, target in targets},
            numbers=complete(entry.numbers, NUMBERS, f"{field}.numbers"),
        ),
        losses={name: _loss(name, target) for name, target in targets},
        weights={name: target.weight for name, target in targets},
        class_weights={n: _class_weights(n, t, t.class_weights, schema) for n, t in targets if t.class_weights is not None},
        epochs=entry.epochs,
        batch_size=entry.batch_size,
        optimizer=complete(entry.optimizer, OPTIMIZERS, f"{field}.optimizer"),
        schedule=complete(entry.schedule, SCHEDULES, f"{field}.schedule"),
        augment=_augment(entry, schema, field),
        average=average,
        freeze=entry.freeze,
        rates=entry.rates,
        trained=None if entry.trained is None else TrainedFile(**entry.trained.model_dump()),
        files=_files(entry, field),
        patience=None if entry.early_stopping is None or entry.trained else entry.early_stopping.patience,
        device=resolve(recipe.training.device),
        threads=recipe.training.threads,
    )
    _try(spec, schema, field)
    return spec


def _loss(name: str, target: Target) -> Component:
    family = LOSSES[target.kind]
    return complete(target.loss or Component(name=next(iter(family))), family, f"targets.{name}.loss")


def _class_weights(name: str, target: Target, rule: Component, schema: Schema) -> Component:
    field = f"targets.{name}.class_weights"
    if not (task := schema.targets[name]).exclusive:
        raise RecipeError(f"{field}: a target of the kind {target.kind!r} has no classes to weigh; remove it.")
    checked = complete(rule, CLASS_WEIGHTS, field)
    for label in checked.settings.get("weights", {}):
        if label not in map(str, task.classes):
            raise RecipeError(f"{field}: {label!r} is not among the classes {', '.join(map(str, task.classes))}.")
    return checked


def _augment(entry: Member, schema: Schema, field: str) -> list[Component]:
    family = {**AUGMENTATIONS, **MIXINGS}
    augment = [complete(a, family, f"{field}.augment.{i}") for i, a in enumerate(entry.augment)]
    if augment and schema.image is None:
        raise RecipeError(f"{field}.augment: {augment[0].name!r} works on pictures, and the data are a table; remove it.")
    if sum(a.name in MIXINGS for a in augment) > 1:
        raise RecipeError(f"{field}.augment: only one of {', '.join(MIXINGS)} can say whose targets count; remove the others.")
    return augment


def _files(entry: Member, field: str) -> dict[str, str]:
    """The sha256 of the files that an entry names."""
    named = {f"{field}.trained": entry.trained.path} if entry.trained is not None else {}
    weights = entry.architecture.settings.get("weights")
    if isinstance(weights, str) and Path(weights).suffix:
        named[f"{field}.architecture.{entry.architecture.name}.weights"] = weights
    for where, path in named.items():
        if not Path(path).is_file():
            raise RecipeError(f"{where}: there is no file {path}; it is meant relative to the recipe.")
    return {path: sha256_of(Path(path)) for path in named.values()}


def _try(spec: TrainSpec, schema: Schema, field: str) -> None:
    """Build the network once and let it say two rows, to find settings that don't fit the data."""
    try:
        network = blank(schema, spec.network)
        if parameters(network) <= SMALL:  # without numbers torch runs by code in Python, whose import takes seconds
            network = Network(schema, spec.network)
        network.eval()
        network(some_rows(schema, 2, next(network.parameters()).device))
    except Exception as error:  # a module of another package may fail in any way
        raise RecipeError(f"{field}.architecture: this does not fit the data: {first_line(error)}.") from None
    try:
        freeze(network, spec.freeze)
        groups(network, spec.rates, 1.0)
        if spec.files:
            _read_weights(Network(schema, spec.network), spec)
    except TrainingError as error:
        raise RecipeError(f"{field}: {first_line(error)}.") from None


def _read_weights(network: Network, spec: TrainSpec) -> None:
    """Read the files of weights once, to find those that don't fit before anything is trained."""
    if spec.trained is not None:
        load_trained(network, spec.trained)
    elif isinstance(network.backbone, Vision):
        network.backbone.load_pretrained()
