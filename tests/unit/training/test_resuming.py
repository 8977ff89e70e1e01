"""A training that is interrupted anywhere and goes on from its checkpoint ends bit by bit as one that never was."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuseline.component import Component, complete
from fuseline.data.dataset import Dataset
from fuseline.errors import TrainingError
from fuseline.partition import Share
from fuseline.training import checkpoint, material
from fuseline.training.averaging import AVERAGES
from fuseline.training.checkpoint import Care, Checkpoint, Keeper, Stopped
from fuseline.training.messages import Epoch
from fuseline.training.optimizers import OPTIMIZERS
from fuseline.training.train import Start, Trained, TrainSpec, train, train_together

DatasetOf = Callable[..., Dataset]
SpecOf = Callable[..., TrainSpec]
Results = list[Trained | TrainingError]


class Killed(BaseException):
    """As if the process were gone: nothing may be saved on the way out."""


@dataclass
class Case:
    """A kind of training; alone, if it has one share."""

    dataset: Dataset
    spec: TrainSpec
    shares: list[Share]
    streams: bool = False
    """Whether rows are read as they are needed."""

    attempts: int = 0
    told: dict[tuple[int, int], Epoch] = field(default_factory=dict)
    """The last that was reported of each network's epochs."""

    def train(self, folder: Path | None = None, care: Care = Care(), report: Callable[[], None] = lambda: None) -> Results:  # noqa: B008
        self.attempts += 1
        keeper = None if folder is None else Keeper(Checkpoint(folder, "key"), care)

        def tell(position: int, epoch: Epoch) -> None:
            self.told[position, epoch.epoch] = epoch
            report()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "SHARE", 0)  # at the end of each epoch, however long that took
            if self.streams:
                patch.setattr(material, "RESIDENT", 600)
            return train_together(self.dataset, self.spec, self.shares, range(7, 7 + len(self.shares)), tell, keeper)

    def until_done(self, folder: Path, cares: Iterator[Care]) -> Results:
        """Train again and again from the checkpoint, each time until ``care`` ends it."""
        while True:
            try:
                return self.train(folder, next(cares))
            except (Stopped, Killed):
                continue


def steps(*limits: int, then: Callable[[], bool], seconds: float = math.inf) -> Iterator[Care]:
    """The first attempts end after so many steps, by what ``then`` does; the next is left alone."""
    for limit in limits:
        left = itertools.count(limit - 1, -1)
        yield Care(seconds, lambda left=left: next(left) <= 0 and then())  # type: ignore[misc]
    yield Care(seconds)


def stop() -> bool:
    return True


def kill() -> bool:
    raise Killed


def bits(results: Results) -> list[Any]:
    """All that becomes of networks, but for the time of day."""
    said: list[Any] = []
    for result in results:
        if isinstance(result, TrainingError):
            said.append(str(result))
            continue
        digest = hashlib.sha256()
        for name, tensor in result.network.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        curve = [(epoch.epoch, epoch.loss, epoch.holdout, epoch.rate) for epoch in result.curve]
        said.append((digest.hexdigest(), curve, result.best, result.network.training))
    return said


# ---------------------------------------------------------------------------------------------------- kinds of training


def table(dataset_of: DatasetOf, rows: int = 60) -> Dataset:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3))
    x[::7, 1] = np.nan
    signal = np.nan_to_num(x) @ [1.0, -2.0, 0.5] + random.normal(size=rows)
    kind = (signal > 0).astype(np.int64) + (signal > 1)
    kind[::5] = -1
    return dataset_of(x, {"kind": kind, "size": 50 + 10 * signal}, classes={"kind": ["a", "b", "c"]})


def pictures(dataset_of: DatasetOf, rows: int = 60) -> Dataset:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (rows, 1, 6, 5), dtype=np.uint8)
    return dataset_of(images, {"y": (images.mean((1, 2, 3)) > 127).astype(np.int64)})


def components(**settings: Any) -> dict[str, Any]:
    return {name: Component.model_validate(its) if isinstance(its, dict | str) else its for name, its in settings.items()}


SHARE = Share(np.arange(36), np.arange(40, 60))
THREE = [Share(np.arange(k, k + 36), np.arange(44, 60)) for k in (0, 4, 8)]
FAST = components(optimizer={"sgd": {"lr": 0.3}}, schedule="constant")
MLP = {"mlp": {"hidden": [6, 5], "dropout": 0.2}}
NORM = {"mlp": {"hidden": [6], "norm": "batch", "dropout": 0.1}}
CNN = {"cnn": {"channels": [3], "convolutions": 1, "features": 6}}
MAPPED = {"cnn": {"channels": [3], "convolutions": 1, "features": 6, "dropout": 0.0}}
AUGMENT = [Component(name=name) for name in ("shift", "erase", "cutmix")]
AVERAGED = {name: complete(Component(name=name), AVERAGES, "average") for name in AVERAGES}
EARLY = {"swa": Component(name="swa", settings={"start": 0.3})}

ALONE: dict[str, tuple[Any, dict[str, Any]]] = {
    "dropout": (MLP, {}),
    "patience": (MLP, {"epochs": 30, "patience": 1, **FAST}),
    "momentum, cycles": (MLP, components(optimizer={"sgd": {"lr": 0.05}}, schedule={"cyclic": {"cycles": 2}})),
    "muon": ({"mlp": {"hidden": [6, 5], "dropout": 0.2}}, components(optimizer="muon", schedule="cosine")),
    "batch norm, some frozen": (NORM, {"freeze": ["backbone.layers.0.*"], "rates": {"heads.*": 0.1}}),
    "ema": (NORM, {"average": AVERAGED["ema"]}),
    "ema, patience": (NORM, {"average": AVERAGED["ema"], "patience": 3, "epochs": 4}),
    "swa": (NORM, {"average": EARLY["swa"], "epochs": 5}),
    "swa, patience": (NORM, {"average": EARLY["swa"], "patience": 2, "epochs": 5, **FAST}),
    "copies": ({"tabm": {"copies": 3, "width": 6, "layers": 1}}, {"patience": 9}),
    "pictures": (CNN, {"augment": AUGMENT, "patience": 9}),
    "streamed pictures": (CNN, {"augment": AUGMENT, "patience": 9}),
    "streamed": (CNN, {}),
}
STACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dropout": (MLP, {}),
    "patience": (MLP, {"epochs": 30, "patience": 1, **FAST}),
    "batch norm": (NORM, {"patience": 9}),
    "unequal": ({"mlp": {"hidden": [6], "dropout": 0.0}}, {"patience": 9, "epochs": 4}),
    "one fails": (MLP, {"patience": 2, "losses": components(kind="cross_entropy", size="squared_error")}),
    "pictures": (MLP, {"augment": AUGMENT, "patience": 9}),
    "streamed pictures, mapped over": (MAPPED, {"augment": AUGMENT, "patience": 9}),
}
KINDS = [f"alone: {kind}" for kind in ALONE] + [f"stacked: {kind}" for kind in STACKS]


@pytest.fixture(scope="module")
def case_of(dataset_of: DatasetOf, spec_of: SpecOf) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        family, _, kind = name.partition(": ")
        architecture, changes = (ALONE if family == "alone" else STACKS)[kind]
        dataset = (pictures if "augment" in changes or architecture is CNN else table)(dataset_of)
        spec = spec_of(dataset, architecture, **({"epochs": 3, "batch_size": 12} | changes))
        spec = spec.model_copy(update={"optimizer": complete(spec.optimizer, OPTIMIZERS, "optimizer")})
        shares = [SHARE] if family == "alone" else list(THREE)
        if kind == "unequal":
            shares = [Share(np.arange(n), np.arange(44, 60)) for n in (36, 41, 38)]
        if kind == "one fails":
            dataset.targets["size"][59] = 1e300  # on which only the first is judged
            shares = [Share(np.arange(k, k + 36), np.arange(44, 59 + (k == 0))) for k in range(3)]
        return Case(dataset, spec, shares, "streamed" in kind)

    return make


@pytest.fixture(scope="module")
def undisturbed(case_of: Callable[[str], Case]) -> Callable[[str], list[Any]]:
    known: dict[str, list[Any]] = {}

    def get(name: str) -> list[Any]:
        if name not in known:
            known[name] = bits(case_of(name).train())
        return known[name]

    return get


CaseOf = Callable[[str], Case]
Undisturbed = Callable[[str], list[Any]]

# --------------------------------------------------------------------------------------------------------- bit by bit


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", KINDS)
def test_stopped_again_and_again_it_ends_the_same(
    case_of: CaseOf, undisturbed: Undisturbed, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, every: int
) -> None:
    case = case_of(name)
    results = case.until_done(tmp_path, steps(*[every] * 100, then=stop))
    assert bits(results) == undisturbed(name)
    assert case.attempts > 2
    assert caplog.text == "", "each checkpoint fits"
    for position, result in enumerate(results):
        if isinstance(result, Trained):
            assert result.curve == [case.told[position, epoch.epoch] for epoch in result.curve], (
                "with the times they were told with"
            )


@given(st.sampled_from(KINDS), st.lists(st.integers(1, 15), max_size=4), st.sampled_from([0.0, math.inf]))
@settings(max_examples=25)
def test_killed_anywhere_it_ends_the_same(
    case_of: CaseOf, undisturbed: Undisturbed, name: str, kills: list[int], seconds: float
) -> None:
    """With a checkpoint after every step, or at the ends of epochs alone; then what came after the last one is done again."""
    with tempfile.TemporaryDirectory() as folder:
        assert bits(case_of(name).until_done(Path(folder), steps(*kills, then=kill, seconds=seconds))) == undisturbed(name)


@pytest.mark.parametrize("name", ["alone: dropout", "stacked: patience", "stacked: one fails"])
def test_interrupted_while_it_reports_it_ends_the_same(
    case_of: CaseOf, undisturbed: Undisturbed, tmp_path: Path, name: str
) -> None:
    case = case_of(name)
    for count in (1, 2, 1):

        def fail(count: int = count, left: Iterator[int] = itertools.count(1)) -> None:  # noqa: B008
            if next(left) == count:
                raise RuntimeError("the other end is gone")

        with pytest.raises(RuntimeError, match="gone"):
            case.train(tmp_path, report=fail)
    assert bits(case.train(tmp_path)) == undisturbed(name)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_done_is_not_done_again(
    case_of: CaseOf, undisturbed: Undisturbed, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    case = case_of(name)
    assert bits(case.train(tmp_path)) == undisturbed(name)
    assert case.told
    case.told.clear()
    assert bits(case.train(tmp_path, Care(pulse=kill))) == undisturbed(name)
    assert case.told == {}
    assert caplog.text == ""


def test_epochs_are_reported_once(case_of: CaseOf, tmp_path: Path) -> None:
    case = case_of("stacked: patience")
    counts: dict[tuple[int, int], int] = {}

    def note() -> None:
        last = next(reversed(case.told))
        counts[last] = counts.get(last, 0) + 1

    for care in steps(4, 4, 4, then=stop):
        try:
            case.train(tmp_path, care, note)
        except Stopped:
            continue
    assert set(counts.values()) == {1}
    assert case.attempts == 4


def test_what_it_takes_over_counts_in_each_attempt(
    dataset_of: DatasetOf, spec_of: SpecOf, case_of: CaseOf, tmp_path: Path
) -> None:
    case = case_of("alone: dropout")
    weights = {name: np.linspace(0.5, 1.5, 36) for name in case.dataset.schema.targets}
    start = Start(train(case.dataset, case.spec, SHARE, 1).network.state_dict(), weights)
    whole = train(case.dataset, case.spec, SHARE, 2, start=start)
    assert bits([whole]) != bits([train(case.dataset, case.spec, SHARE, 2)])
    for care in steps(5, then=stop):
        keeper = Keeper(Checkpoint(tmp_path, "key"), care)
        try:
            resumed = train(case.dataset, case.spec, SHARE, 2, start=start, keeper=keeper)
        except Stopped:
            continue
    assert bits([resumed]) == bits([whole])


def test_the_global_generators_are_as_before(case_of: CaseOf, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for care in steps(5, then=stop):
        with contextlib.suppress(Stopped):
            case_of("alone: dropout").train(tmp_path, care)
        assert torch.get_rng_state().equal(before)


# ------------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("name", ["alone: dropout", "stacked: dropout"])
def test_one_of_another_shape_counts_as_missing(
    case_of: CaseOf, undisturbed: Undisturbed, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = case_of(name)
    architecture = Component.model_validate({"mlp": {"hidden": [6, 4], "dropout": 0.2}})
    other.spec = other.spec.model_copy(update={"network": other.spec.network.model_copy(update={"architecture": architecture})})
    with pytest.raises(Stopped):
        other.train(tmp_path, Care(pulse=stop))
    assert bits(case_of(name).train(tmp_path)) == undisturbed(name)
    assert "does not fit" in caplog.text


def change(state: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split(".")
    for part in way:
        state = state[int(part) if isinstance(state, list) else part]
    if value is None:
        del state[last]
    else:
        state[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer", None),
        ("going", [0, 1]),
        ("going", [7]),
        ("learners", []),
        ("learners.0.generator", torch.zeros(3, dtype=torch.uint8)),
        ("learners.0.curve", [{"epoch": 1}]),
        ("program.tensors", {}),
        ("program.generators", []),
        ("generators", []),
        ("begun", {"steps": 1}),
        ("steps", "one"),
    ],
)
def test_one_that_lacks_something_counts_as_missing(
    case_of: CaseOf, undisturbed: Undisturbed, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, value: Any
) -> None:
    name = "stacked: dropout"
    with pytest.raises(Stopped):
        case_of(name).train(tmp_path, next(steps(2, then=stop)))
    file = Checkpoint(tmp_path, "key")
    tree = file.load()
    assert tree is not None
    change(tree["state"], path, value)
    file.save(tree)
    assert bits(case_of(name).train(tmp_path)) == undisturbed(name)
    assert "does not fit" in caplog.text


def test_a_failed_one_leaves_no_checkpoint(case_of: CaseOf, tmp_path: Path) -> None:
    """It would fail again, and nobody would ever take it away."""
    case = case_of("stacked: one fails")
    with pytest.raises(TrainingError, match="not finite"):
        train(case.dataset, case.spec, case.shares[0], 7, keeper=Keeper(Checkpoint(tmp_path, "key"), Care(0.0)))
    assert list(tmp_path.iterdir()) == []
