"""The chosen fusion against scikit-learn's Dummy and its linear models, on the same test rows, by paired intervals.

    .venv/bin/python benchmarks/baselines.py --seeds 0 1 2 3 4 recipes/wine.yaml recipes/diabetes.yaml

For each recipe and split seed: the whole ensemble, trained by fuseline's own functions in worker processes, and per target a
Dummy and a LogisticRegression or Ridge (missing values filled in, numbers standardised, categories one-hot). Those are fitted
on all rows that the ensemble may use: train, fusion and calibration. Every prediction is scored on the same resamples of the
test rows, those of fuseline's own report; a gain is how much better the chosen fusion is, so above 0 it is better.

With several seeds a last table pools them: each row that was a test row in any split counts once, by the mean over those
splits of how much smaller its loss (log loss, squared error) was, and rows are resampled. On a handful of test rows a split this
is what can be told at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fuseline.bank import BankedMember, build_bank
from fuseline.data.dataset import Dataset
from fuseline.errors import FuselineError
from fuseline.evaluation.intervals import Interval, Scores, independent_rows, interval, paired_gain, resamples, score
from fuseline.evaluation.metrics import Predicted
from fuseline.evaluation.report import evaluate
from fuseline.fusion.fuse import fuse_target
from fuseline.plan import Plan, lent, make_plan
from fuseline.recipe import load_recipe
from fuseline.seeding import EVALUATION, stream
from fuseline.store import Store, home
from fuseline.threads import limited_to
from fuseline.training.messages import KIND, Progress
from fuseline.training.queue import DeviceQueue
from fuseline.training.supervise import Workers

Floats = NDArray[np.floating[Any]]

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SHOWN = {"classification": ("log_loss", "accuracy"), "regression": ("rmse", "r2")}
"""What is reported of each kind of target; the first is what the comparison goes by."""

ESTIMATORS: dict[str, dict[str, BaseEstimator]] = {
    "classification": {"Dummy": DummyClassifier(strategy="prior"), "LogisticRegression": LogisticRegression(max_iter=5000)},
    "regression": {"Dummy": DummyRegressor(), "Ridge": Ridge()},
}


@dataclass(frozen=True)
class Rival:
    """A baseline: its value, and how much better the chosen fusion is, both with their intervals."""

    name: str
    value: Interval
    gain: Interval
    by_row: dict[int, float]
    """How much smaller the fusion's loss is, by test row."""

    @property
    def verdict(self) -> str:
        return verdict(self.gain)


def verdict(gain: Interval) -> str:
    """What a paired interval allows to say of the fusion."""
    if gain.low > 0:
        return "better"
    if gain.high < 0:
        return "worse"
    return "ahead, unsure" if gain.value > 0 else "behind, unsure"


@dataclass(frozen=True)
class Line:
    """One target of one recipe on one split: the chosen fusion beside its rivals."""

    recipe: str
    seed: int
    target: str
    rows: int
    chosen: str
    metric: str
    shown: dict[str, Interval]
    rivals: list[Rival]
    seconds: float

    @property
    def value(self) -> Interval:
        return self.shown[self.metric]

    @property
    def holds(self) -> bool:
        """The fusion's value beats Dummy's, and its paired interval against the linear model is not all on the worse side."""
        dummy, linear = self.rivals
        return dummy.gain.value > 0 and linear.verdict != "worse"

    def plain(self) -> dict[str, Any]:
        """The line as JSON takes it."""
        own = {k: v for k, v in asdict(self).items() if k not in ("shown", "rivals")}
        shown = {name: found._asdict() for name, found in self.shown.items()}
        rivals = {r.name: {"value": r.value._asdict(), "gain": r.gain._asdict(), "verdict": r.verdict} for r in self.rivals}
        return {**own, "fusion": shown, "rivals": rivals, "holds": self.holds}


def train(plan: Plan, store: Store) -> list[BankedMember]:
    """Train every unit of members in a worker process of its own, as many side by side as the recipe or the machine allows."""
    workers = Workers(DeviceQueue(*lent(plan.recipe)))
    futures: dict[str, Future[int]] = {}

    def after_its_predecessor(name: str) -> int:
        if name in plan.after:
            futures[plan.after[name]].result()
        return workers.train(plan.job(name, store), name, _silent)

    with ThreadPoolExecutor(len(plan.members)) as pool:
        for name in plan.members:
            futures[name] = pool.submit(after_its_predecessor, name)
        for future in futures.values():
            future.result()
    return banked(plan, store)


def _silent(_: Progress) -> None:
    """The lines at the end say enough."""


def banked(plan: Plan, store: Store) -> list[BankedMember]:
    """The trained members, as the bank takes them."""
    members = []
    for name, jobs in plan.members.items():
        keys = [job.key(plan.dataset) for job in jobs]
        members.append(BankedMember(name, keys, [store.path(KIND, key) for key in keys], [job.share for job in jobs]))
    return members


def judge(plan: Plan, store: Store, members: list[BankedMember]) -> tuple[dict[str, Any], Path]:
    """Fuse every target and score it on the test rows: fuseline's own report, and the folder of the winners' predictions."""
    recipe, dataset, split = plan.recipe, plan.dataset, plan.split
    bank, _ = build_bank(store, dataset, split, members)
    fused = [fuse_target(store, bank, dataset, split, plan.fuse_spec(target), plan.units)[0] for target in recipe.targets]
    names = {target: list(SHOWN.get(spec.kind, plan.metric_names(target))) for target, spec in recipe.targets.items()}
    resampled = recipe.evaluation.resamples, recipe.evaluation.level
    report, folder, _ = evaluate(store, bank, dataset, split, plan.units, fused, names, *resampled, recipe.seed)
    return report, folder


def baselines(plan: Plan, target: str) -> dict[str, Floats]:
    """What each baseline says of the test rows: probabilities (n, C) or values (n, 1)."""
    rows = plan.dataset.known(target, plan.split.rows("train", "fusion", "calibration"))
    test = plan.dataset.known(target, plan.split.rows("test"))
    table, numbers = flat(plan.dataset)
    known = np.asarray(plan.dataset.targets[target])[rows]
    kind = plan.dataset.schema.targets[target].kind
    said = {}
    for name, estimator in ESTIMATORS[kind].items():
        model = make_pipeline(preprocessing(numbers), estimator).fit(table[rows], known)
        said[name] = model.predict_proba(table[test]) if kind == "classification" else model.predict(table[test])[:, None]
    return said


def flat(dataset: Dataset) -> tuple[Floats, int]:
    """All inputs as one table (N, columns), pictures pixel by pixel and categories as codes; how many columns are numbers."""
    arrays = {name: np.asarray(array, np.float64).reshape(len(dataset), -1) for name, array in dataset.inputs.items()}
    numbers = [arrays[name] for name in ("numeric", "image") if name in arrays]
    codes = [arrays["categorical"]] if "categorical" in arrays else []
    return np.concatenate([*numbers, *codes], axis=1), sum(array.shape[1] for array in numbers)


def preprocessing(numbers: int) -> ColumnTransformer:
    """Fill in and standardise the first ``numbers`` columns, and one-hot the rest (a missing category is one of its own)."""
    fill = make_pipeline(SimpleImputer(), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer([("numbers", fill, list(range(numbers)))], remainder=one_hot)


def compare(plan: Plan, report: dict[str, Any], folder: Path, target: str, seconds: float) -> Line:
    """Score the chosen fusion and its rivals on the same resamples of the test rows."""
    recipe, test = plan.recipe, plan.dataset.known(target, plan.split.rows("test"))
    kind, level = recipe.targets[target].kind, recipe.evaluation.level
    units = plan.units[test]
    weights = resamples(units, recipe.evaluation.resamples, np.random.default_rng(stream(recipe.seed, EVALUATION)))
    truth = np.asarray(plan.dataset.targets[target])[test]
    names, metric = list(SHOWN[kind]), SHOWN[kind][0]

    def scored(said: Floats) -> Scores:
        return score(kind, truth, Predicted(said), weights, names, independent_rows(units))

    own = np.load(folder / f"predictions-{target}.npy")
    fusion, losses = scored(own), row_losses(kind, truth, own)
    rivals = []
    for name, said in baselines(plan, target).items():
        scores, saved = scored(said), row_losses(kind, truth, said) - losses
        by_row = dict(zip(test.tolist(), saved.tolist(), strict=True))
        rivals.append(Rival(name, interval(scores, metric, level), paired_gain(fusion, scores, metric, level), by_row))
    shown = {name: interval(fusion, name, level) for name in names}
    chosen = report["targets"][target]["chosen"]
    return Line(recipe.name, recipe.data.split.seed, target, len(test), chosen, metric, shown, rivals, seconds)


def row_losses(kind: str, truth: NDArray[Any], said: Floats) -> Floats:
    """The log loss or the squared error of each row (n,)."""
    if kind == "classification":
        return -np.log(np.clip(said[np.arange(len(truth)), truth], np.finfo(np.float64).eps, 1))
    return (said[:, 0] - truth) ** 2


def pooled(lines: Sequence[Line], level: float = 0.95, count: int = 10_000) -> list[dict[str, Any]]:
    """Per recipe, target and rival the mean over rows of the loss that the fusion saves, with its bootstrap interval."""
    found = []
    for recipe, target in dict.fromkeys((line.recipe, line.target) for line in lines):
        own = [line for line in lines if (line.recipe, line.target) == (recipe, target)]
        for i, rival in enumerate(own[0].rivals):
            rows: dict[int, list[float]] = {}
            for line in own:
                for row, saved in line.rivals[i].by_row.items():
                    rows.setdefault(row, []).append(saved)
            saved = np.array([np.mean(values) for values in rows.values()])
            means = resamples(np.arange(len(saved)), count, np.random.default_rng(0)) @ saved / len(saved)
            low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
            gain = Interval(float(saved.mean()), float(low), float(high))
            entry = {"recipe": recipe, "target": target, "seeds": len(own), "rival": rival.name, "rows": len(saved)}
            found.append({**entry, "saved": gain._asdict(), "verdict": verdict(gain)})
    return found


def measure(path: Path, seed: int, store: Store) -> list[Line]:
    """One recipe on one split: a line per target."""
    plan, _ = make_plan(load_recipe(path, [f"data.split.seed={seed}"]), store)
    started = time.perf_counter()
    members = train(plan, store)
    seconds = round(time.perf_counter() - started, 1)
    with limited_to(plan.recipe.training.threads):
        report, folder = judge(plan, store, members)
        comparable = [name for name, target in plan.recipe.targets.items() if target.kind in SHOWN]
        return [compare(plan, report, folder, target, seconds) for target in comparable]


def medians(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Per recipe and target the medians over seeds, of every shown metric of the fusion and of its rivals' and gains' values."""
    found = []
    for recipe, target in dict.fromkeys((line.recipe, line.target) for line in lines):
        own = [line for line in lines if (line.recipe, line.target) == (recipe, target)]
        rivals = {
            rival.name: {
                "value": median(line.rivals[i].value.value for line in own),
                "gain": median(line.rivals[i].gain.value for line in own),
                "verdicts": [line.rivals[i].verdict for line in own],
            }
            for i, rival in enumerate(own[0].rivals)
        }
        fusion = {name: median(line.shown[name].value for line in own) for name in own[0].shown}
        held = sum(line.holds for line in own)
        found.append({"recipe": recipe, "target": target, "seeds": len(own), "fusion": fusion, "rivals": rivals, "holds": held})
    return found


def board(lines: Sequence[Line]) -> Table:
    """One row per recipe, split seed, target and rival."""
    table = Table(title="The chosen fusion beside scikit-learn's baselines, on the test rows")
    for name in ("recipe", "seed", "target", "rule", "metric", "fusion", "rival", "its value", "gain over it", "verdict"):
        table.add_column(name, no_wrap=True, justify="right" if name == "seed" else "left")
    for line in lines:
        own = [line.recipe, str(line.seed), line.target, line.chosen, line.metric, shown(line.value)]
        for rival in line.rivals:
            table.add_row(*own, rival.name, shown(rival.value), shown(rival.gain), rival.verdict)
            own = [""] * len(own)
    return table


def summary(lines: Sequence[Line]) -> Table:
    """One row per recipe and target: medians over the split seeds, and on how many of them it held."""
    table = Table(title="Medians over the split seeds")
    for name in ("recipe", "target", "fusion", "Dummy", "gain over it", "linear model", "gain over it", "holds"):
        table.add_column(name, no_wrap=True)
    for row in medians(lines):
        fusion = ", ".join(f"{name} {value:.4g}" for name, value in row["fusion"].items())
        rivals = [f"{rival[name]:.4g}" for rival in row["rivals"].values() for name in ("value", "gain")]
        table.add_row(row["recipe"], row["target"], fusion, *rivals, f"{row['holds']} of {row['seeds']}")
    return table


def pooled_table(lines: Sequence[Line]) -> Table:
    """One row per recipe, target and rival."""
    table = Table(title="Pooled over the split seeds: mean loss saved per row")
    for name in ("recipe", "target", "rival", "rows", "loss saved", "verdict"):
        table.add_column(name, no_wrap=True)
    for row in pooled(lines):
        saved = shown(Interval(**row["saved"]))
        table.add_row(row["recipe"], row["target"], row["rival"], str(row["rows"]), saved, row["verdict"])
    return table


def shown(found: Interval) -> str:
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def show(lines: Sequence[Line]) -> None:
    """Both tables and one sentence; a file or a pipe gets room for whole lines."""
    screen = Console()
    if not screen.is_terminal:
        screen.width = 180
    screen.print(board(lines), summary(lines), pooled_table(lines), sep="\n")
    held = f"{sum(line.holds for line in lines)} of {len(lines)} hold"
    screen.print(f"{held}: ahead of Dummy, and not worse than the linear model by the paired interval.", highlight=False)


@contextmanager
def workplace() -> Iterator[Store]:
    """The store of ``FUSELINE_HOME`` if that is set, else one that is gone afterwards."""
    if "FUSELINE_HOME" in os.environ:
        yield Store(home() / "store")
        return
    with tempfile.TemporaryDirectory(prefix="fuseline-") as folder:
        yield Store(Path(folder) / "store")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; recipes may stand before or after the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="recipe files (default: all of recipes/)")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2", "3", "4"], help="split seeds (default: 0 to 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    asked = parser.parse_args(given)
    recipes = [*asked.recipes, *(word for word in asked.seeds if not word.isdecimal())]  # --seeds takes all that follow it
    asked.recipes = [Path(name) for name in recipes] or sorted(RECIPES.glob("*.yaml"))
    asked.seeds = [int(word) for word in asked.seeds if word.isdecimal()]
    return asked


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print both tables, write the JSON; returns the exit code."""
    asked, messages = arguments(given), Console(stderr=True)
    lines: list[Line] = []
    try:
        with workplace() as store:
            for path, seed in product(asked.recipes, asked.seeds):
                lines += measure(path, seed, store)
                messages.print(f"{path.stem}, split seed {seed}: members trained in {lines[-1].seconds} s", highlight=False)
    except FuselineError as error:
        messages.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        return error.exit_code
    show(lines)
    if asked.json is not None:
        found = {"lines": [line.plain() for line in lines], "medians": medians(lines), "pooled": pooled(lines)}
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
