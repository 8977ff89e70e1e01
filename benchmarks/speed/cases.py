"""What is compared: the cases, the sides of each, and what is claimed of them. The order is that of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from speed.material import interval
from speed.plain import THREADS

Medians = dict[str, dict[str, float]]
"""Per side and measure the median over the rounds."""


@dataclass(frozen=True)
class Side:
    """One thing that is run in a process of its own.

    Attributes:
        function: ``MODULE:FUNCTION``; it takes the settings, ``round`` if it wants to know it, and the case's ``folder`` if there
            is one, and gives its measures by name.
        small: settings in the place of those above where somebody only wants to see that it works.
        peers: whether it runs in the peers' environment.
    """

    function: str
    settings: dict[str, Any] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)
    peers: bool = False


@dataclass(frozen=True)
class Claim:
    """A line of the table: a measure of one side, or its ratio to another's, and what it must reach.

    Attributes:
        over: the side whose measure it is.
        under: the side by whose measure it is divided, round by round; none for the measure itself.
        needs: a property of the machine (``bf16``) without which nothing is asked for.
    """

    work: str
    over: str
    under: str | None = None
    measure: str = "seconds"
    least: float | None = None
    most: float | None = None
    unit: str = "×"
    needs: str | None = None


@dataclass(frozen=True)
class Check:
    """Something that must hold beside the numbers, so that they compare like with like."""

    says: str
    holds: Callable[[Medians], bool]


@dataclass(frozen=True)
class Case:
    """What is measured in turns.

    Attributes:
        prepare: a function ``(folder, **settings)`` that makes once what all rounds need; the folder is removed at the end.
        watched: whether the peak of anonymous memory (RssAnon of the side's process and its children) is taken.
        rounds: how often each side runs.
    """

    name: str
    sides: dict[str, Side]
    claims: tuple[Claim, ...]
    checks: tuple[Check, ...] = ()
    prepare: Side | None = None
    watched: bool = False
    rounds: int = 5
    note: str = ""


def same_accuracy(one: str, other: str) -> Check:
    """Each side's accuracy lies in the other's 95% interval."""

    def holds(found: Medians) -> bool:
        a, b = found[one], found[other]
        return all(low <= p["accuracy"] <= high for p, q in ((a, b), (b, a)) for low, high in [interval(**_counted(q))])

    return Check(f"{one} and {other}: the same test accuracy to within its 95% interval", holds)


def _counted(found: dict[str, float]) -> dict[str, float]:
    return {"share": found["accuracy"], "rows": found["rows"]}


def not_more(measure: str, one: str, other: str) -> Check:
    return Check(f"{measure} of {one} is not above that of {other}", lambda f: f[one][measure] <= f[other][measure])


def at_least_as_accurate(one: str, other: str) -> Check:
    return Check(f"{one} is at least as accurate as {other}", lambda f: f[one]["accuracy"] >= f[other]["accuracy"])


def within(measure: str, side: str, most: float) -> Check:
    return Check(f"{measure} of {side} is at most {most:g}", lambda f: f[side][measure] <= most)


MLPS = {"members": 32, "rows": 7188, "epochs": 5, "size": 128}
CNNS = {"members": 8, "rows": 4096, "test": 2000, "epochs": 2, "size": 128}
GREEDY = {"members": 50, "rows": 20_000, "classes": 100, "steps": 25}
BATCHES = [1, 8, 64, 512, 4096]
FEW = {"members": 3, "epochs": 1}

mlps = Case(
    "32 MLPs",
    {
        "torchensemble": Side("speed.mlps:torchensemble", MLPS, FEW, peers=True),
        "plain loop": Side("speed.mlps:loop", {**MLPS, "threads": 1}, FEW),
        "bare stack": Side("speed.mlps:bare", {**MLPS, "threads": THREADS}, FEW),
        "ours": Side("speed.mlps:ours", {**MLPS, "threads": THREADS}, FEW),
    },
    (
        Claim(
            "32 MLPs (64-64-64-10), digits to 7,188 rows, 5 epochs: torchensemble over ours", "torchensemble", "ours", least=18
        ),
        Claim("the same: a plain loop one after the other over ours", "plain loop", "ours", least=8),
        Claim("the same: ours over a bare stacked loop in 40 lines", "ours", "bare stack", most=1.10),
    ),
    tuple(same_accuracy("ours", other) for other in ("torchensemble", "plain loop", "bare stack")),
)

cnns = Case(
    "8 CNNs",
    {
        "torchensemble": Side("speed.cnns:torchensemble", CNNS, {"members": 2, "rows": 512, "epochs": 1}, peers=True),
        "ours": Side("speed.cnns:ours", CNNS, {"members": 2, "rows": 512, "epochs": 1}),
    },
    (Claim("8 CNNs with BatchNorm, 32×32×3, 4,096 rows, 2 epochs: torchensemble over ours", "torchensemble", "ours", least=3),),
    (same_accuracy("ours", "torchensemble"),),
)

run = Case(
    "whole run",
    {
        "fuseline run": Side("speed.runs:whole"),
        "bare script": Side("speed.runs:bare"),
    },
    (
        Claim(
            "a whole `fuseline run` over the same training and fusing as a bare script", "fuseline run", "bare script", most=1.10
        ),
        Claim("the bare script's time, which is to be at least 120 s", "bare script", least=120, unit="s"),
    ),
    (same_accuracy("fuseline run", "bare script"),),
    prepare=Side("speed.runs:prepare_long", {"epochs": 10}, {"epochs": 1}),
)

fixed = Case(
    "fixed costs",
    {
        "reused": Side("speed.runs:reused"),
        "fresh": Side("speed.runs:fresh"),
    },
    (
        Claim("a whole `fuseline run` in which everything is reused", "reused", most=8, unit="s"),
        Claim("the fixed cost of a fresh one beyond its compute", "fresh", measure="fixed", most=10, unit="s"),
    ),
    prepare=Side("speed.runs:prepare_short"),
)

greedy = Case(
    "greedy selection",
    {
        "AutoGluon": Side("speed.selection:autogluon", GREEDY, {"members": 10, "rows": 2000, "classes": 10}, peers=True),
        "ours": Side("speed.selection:ours", GREEDY, {"members": 10, "rows": 2000, "classes": 10}),
    },
    (
        Claim("greedy selection, 25 steps, 50 × 20,000 × 100: AutoGluon over ours", "AutoGluon", "ours", least=500),
        Claim(
            "log loss of `weights`, the convex optimum, over greedy's", "ours", None, "weights_over_greedy", most=1.0, unit="×"
        ),
    ),
    (Check("both select the same weights, to 1e-9", lambda f: _gap(f["AutoGluon"], f["ours"]) <= 1e-9),),
)


def _gap(one: dict[str, float], other: dict[str, float]) -> float:
    return max(abs(one[name] - other[name]) for name in one if name.startswith("weight "))


bagging = Case(
    "bagging",
    {
        "scikit-learn": Side("speed.bagging:sklearn", {"members": 8}, {"members": 2}),
        "ours": Side("speed.bagging:ours", {"members": 8}, {"members": 2}),
    },
    (Claim("scikit-learn's BaggingClassifier.fit of 8 MLPs on digits over ours", "scikit-learn", "ours", least=5),),
    (at_least_as_accurate("ours", "scikit-learn"), not_more("log_loss", "ours", "scikit-learn")),
)


def _predictions(count: int, kind: str, least: Callable[[int], float], needs: str | None, change: float) -> Case:
    return Case(
        f"prediction of {count} {kind}s",
        {side: Side(f"speed.inference:{side}", {"batches": BATCHES}) for side in ("naive", "ours")},
        tuple(
            Claim(
                f"prediction, package of {count} {kind}s, batches of {batch}: naive loop over ours",
                "naive",
                "ours",
                f"batch {batch}",
                least=least(batch),
                needs=needs,
            )
            for batch in BATCHES
        ),
        (within("change", "ours", change),),
        prepare=Side("speed.inference:prepare", {"members": count, "architecture": kind}),
    )


predict_mlps = _predictions(16, "MLP", lambda batch: 2.0 if batch <= 64 else 1.0, None, 1e-5)
predict_cnns = _predictions(8, "CNN", lambda _: 1.5, "bf16", 0.05)

bank = Case(
    "memory of fusing",
    {"ours": Side("speed.banks:fuse")},
    (
        Claim("peak RssAnon of fusing and evaluating 100 × 200,000 × 100", "ours", None, "gib", most=1.0, unit="GiB"),
        Claim("the time that it takes", "ours", None, "seconds", unit="s"),
    ),
    prepare=Side(
        "speed.banks:prepare",
        {"members": 100, "rows": 200_000, "classes": 100},
        {"members": 5, "rows": 2000, "classes": 10},
    ),
    watched=True,
    rounds=1,
)

parquet = Case(
    "memory of predicting",
    {"ours": Side("speed.parquet:predict")},
    (
        Claim("peak RssAnon of predicting 5 million rows × 20 columns from Parquet", "ours", None, "gib", most=1.5, unit="GiB"),
        Claim("rows predicted per second", "ours", None, "rows_per_second", unit="1/s"),
    ),
    prepare=Side("speed.parquet:prepare", {"rows": 5_000_000, "columns": 20}, {"rows": 20_000}),
    watched=True,
    rounds=1,
)

rate = Case(
    "matrix products",
    {"ours": Side("speed.rate:measure", {**MLPS, "threads": THREADS}, FEW)},
    (
        Claim("the machine's own matrix product, 2048³ float32", "ours", None, "peak", unit="GFLOP/s"),
        Claim("batched products of the stack's shapes alone", "ours", None, "stack", unit="GFLOP/s"),
        Claim("32 MLPs' inner loop, all that it does", "ours", None, "loop", unit="GFLOP/s"),
        Claim("the inner loop over the machine's own", "ours", None, "share", unit="×"),
    ),
)

CASES = {case.name: case for case in (mlps, cnns, run, fixed, greedy, bagging, predict_mlps, predict_cnns, bank, parquet, rate)}
