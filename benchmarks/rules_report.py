"""What the runs of ``rules.py`` say together: pooled losses, paired savings with intervals, tables and heat maps.

Shapes: S split seeds, K cells (a partition rule with a fusion rule), n rows that were a test row in some split, B resamples.
Where a row was no test row, or a partition was refused, there is NaN.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fuseline.evaluation.intervals import Interval, resamples

Floats = NDArray[np.float64]
Cell = tuple[str, str]

CHOSEN, SINGLE = "chosen", "best member"
"""What stands beside the rules: the rule that fuseline chose, and the member that it took for the best, before the test rows."""

REFERENCE: Cell = ("full", "mean")
LEVEL, RESAMPLES = 0.95, 5000
MARKS = {"better": "▲", "worse": "▼", "unsure": "", "same": ""}


@dataclass(frozen=True)
class Run:
    """What one ensemble said of its test rows; ``refused`` says why there is none.

    Attributes:
        rows: the test rows (r,).
        units: which of them count as one (r,).
        losses: of each rule, of ``chosen`` and of ``best member`` (r,).
        right: the same, of being right; of a regression there is none.
        alone: each member's mean loss, calibrated.
        alone_right: each member's accuracy.
        disagreement: the mean over pairs of members, on the test rows.
        chosen: the rule's name.
        sizes: each member's training rows, all its replicas together.
        seconds: of training, and of fusing.
    """

    set: str
    partition: str
    seed: int
    refused: str = ""
    rows: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    right: dict[str, list[float]] = field(default_factory=dict)
    alone: list[float] = field(default_factory=list)
    alone_right: list[float] = field(default_factory=list)
    disagreement: float = float("nan")
    chosen: str = ""
    sizes: list[int] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)


class Saved(NamedTuple):
    """The mean loss per row that a cell saves against another: its pointwise interval, the verdict of the simultaneous one, and
    in how many of so many splits it was ahead."""

    gain: Interval
    verdict: str
    ahead: int
    splits: int


class Pool(NamedTuple):
    """All runs of one set, side by side."""

    cells: list[Cell]
    values: Floats
    """(S, K, n)"""
    weights: Floats
    """How often each resample draws each row (B, n)."""


def pool(runs: Sequence[Run], what: str = "losses") -> Pool:
    """The losses, or what is ``right``, of one set's runs."""
    done = sorted((run for run in runs if not run.refused), key=lambda run: run.seed)
    seeds = sorted({run.seed for run in done})
    cells = list(dict.fromkeys((run.partition, name) for run in done for name in getattr(run, what)))
    units = {row: unit for run in done for row, unit in zip(run.rows, run.units, strict=True)}
    rows = np.array(sorted(units))
    values = np.full((len(seeds), len(cells), len(rows)), np.nan)
    for run in done:
        for name, numbers in getattr(run, what).items():
            values[seeds.index(run.seed), cells.index((run.partition, name)), np.searchsorted(rows, run.rows)] = numbers
    drawn = resamples(np.array([units[row] for row in rows]), RESAMPLES, np.random.default_rng(0))
    return Pool(cells, values, drawn)


def by_row(values: Floats) -> Floats:
    """The mean over the splits in which a row was a test row: (S, K, n) → (K, n), NaN if there was none.

    >>> by_row(np.array([[[1.0, np.nan]], [[3.0, np.nan]]])).tolist()
    [[2.0, nan]]
    """
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.where(count > 0, np.nansum(values, 0) / np.maximum(count, 1), np.nan)


def means(rows: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The means over the known of the rows (K, n): (K,), and those of each resample (B, K)."""
    known, filled = (~np.isnan(rows)).astype(np.float64), np.nan_to_num(rows)
    return filled.sum(1) / known.sum(1), (weights @ filled.T) / (weights @ known.T)


def intervals(point: Floats, resampled: Floats, level: float = LEVEL) -> list[Interval]:
    """The percentile interval of each cell by itself."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, numbers)) for numbers in zip(point, low, high, strict=True)]


def verdicts(point: Floats, resampled: Floats, level: float = LEVEL) -> list[str]:
    """What may be said of all K means (K,) at once: above 0 is better.

    The reach of a mean is c standard errors, where in a share ``level`` of the resamples no mean is farther than c of its
    standard errors from where it was (max-T: Westfall and Young 1993). So with that probability none of all verdicts is wrong,
    as far as the bootstrap goes; with K = 1 it is the usual interval. A mean that no resample changes is of two things that
    are the same.
    """
    error = resampled.std(0)
    varies = error > 1e-12
    far = np.abs(resampled[:, varies] - point[varies]) / error[varies]
    reach = float(np.quantile(far.max(1), level)) * error if varies.any() else error
    words = np.where(point - reach > 0, "better", np.where(point + reach < 0, "worse", "unsure"))
    return [str(word) if vary else "same" for word, vary in zip(words, varies, strict=True)]


def saved(found: Pool, against: Mapping[Cell, Cell]) -> dict[Cell, Saved]:
    """How much loss cells save against others, paired: the same rows in the same splits."""
    pairs = [(found.cells.index(cell), found.cells.index(other)) for cell, other in against.items()]
    own, others = (list(side) for side in zip(*pairs, strict=True))
    gaps = found.values[:, others] - found.values[:, own]
    point, resampled = means(by_row(gaps), found.weights)
    split = [np.array([g[~np.isnan(g)].mean() for g in gaps[:, k] if not np.isnan(g).all()]) for k in range(len(pairs))]
    parts = zip(intervals(point, resampled), verdicts(point, resampled), split, strict=True)
    return {cell: Saved(gain, word, int((s > 0).sum()), len(s)) for cell, (gain, word, s) in zip(against, parts, strict=True)}


def comparisons(found: Pool) -> dict[str, dict[Cell, Saved]]:
    """Every cell against ``mean`` on ``full``, against its own partition's ``mean``, and against its best single member."""
    cells = [cell for cell in found.cells if cell != REFERENCE]
    return {
        "full": saved(found, dict.fromkeys(cells, REFERENCE)),
        "mean": saved(found, {(p, rule): (p, "mean") for p, rule in found.cells if rule != "mean"}),
        "member": saved(found, {(p, rule): (p, SINGLE) for p, rule in found.cells if rule != SINGLE}),
    }


def levels(found: Pool) -> dict[Cell, Interval]:
    """Every cell's own pooled mean."""
    return dict(zip(found.cells, intervals(*means(by_row(found.values), found.weights)), strict=True))


def partitions_table(runs: Sequence[Run]) -> str:
    """Per partition what its members are like alone, how much they disagree, and what becomes of them together."""
    loss, right = levels(pool(runs)), levels(pool(runs, "right")) if any(run.right for run in runs) else {}
    header = ["partition", "rows per member", "loss of a member", *["its accuracy"][: len(right)], "disagreement"]
    header += ["loss of `mean`", *["its accuracy"][: len(right)], "loss of the chosen rule", *["its accuracy"][: len(right)]]
    lines = []
    for name in dict.fromkeys(run.partition for run in runs):
        own = [run for run in runs if run.partition == name and not run.refused]
        if not own:
            lines.append([f"`{name}`", "refused", *[""] * (len(header) - 2)])
            continue
        sizes = [size for run in own for size in run.sizes]
        alone = [f"{np.mean([run.alone for run in own]):.3f}"]
        alone += [f"{np.mean([run.alone_right for run in own]):.3f}"] if right else []
        line = [f"`{name}`", _span(min(sizes), max(sizes)), *alone, f"{np.mean([run.disagreement for run in own]):.3f}"]
        for rule in ("mean", CHOSEN):
            line.append(shown(loss[name, rule]))
            line += [shown(right[name, rule])] if right else []
        lines.append(line)
    return markdown(header, lines)


def losses_table(runs: Sequence[Run]) -> str:
    """Every cell's loss, marked where it differs from ``mean`` on ``full``."""
    found = pool(runs)
    value, gap = levels(found), comparisons(found)["full"]
    return _grid(found.cells, lambda cell: f"{value[cell].value:.3f}{MARKS[gap[cell].verdict] if cell in gap else ''}")


def savings_table(runs: Sequence[Run], against: str) -> str:
    """What every cell saves against ``mean``, or against the best ``member``, of the same partition."""
    found = pool(runs)
    gap = comparisons(found)[against]
    return _grid(list(gap), lambda cell: f"{gap[cell].gain.value:+.3f}{MARKS[gap[cell].verdict]}")


def summary_table(runs: Sequence[Run]) -> str:
    """Per fusion rule on how many pairs of a set and a partition it is better or worse than the pair's mean, or best member."""
    counts: dict[str, Counter[str]] = {}
    for name in dict.fromkeys(run.set for run in runs):
        for against, gaps in comparisons(pool([run for run in runs if run.set == name])).items():
            for (_, rule), gap in gaps.items() if against != "full" else ():
                counts.setdefault(rule, Counter())[f"{against} {gap.verdict}"] += 1
    order = [rule for rule in counts if rule not in (CHOSEN, SINGLE)]
    lines = []
    for rule in ["mean", *(r for r in order if r != "mean"), CHOSEN, SINGLE]:
        count = counts[rule]
        cells = [
            " / ".join(str(count[f"{against} {word}"]) for word in ("better", "worse")) + f" of {_all(count, against)}"
            if _all(count, against)
            else "–"
            for against in ("mean", "member")
        ]
        lines.append([_code(rule), *cells, str(sum(run.chosen == rule for run in runs)) if rule not in (CHOSEN, SINGLE) else ""])
    return markdown(
        ["fusion rule", "better / worse than `mean`", "better / worse than the best member", "chosen so often"], lines
    )


def _all(count: Counter[str], against: str) -> int:
    return sum(n for name, n in count.items() if name.startswith(against))


def refusals(runs: Sequence[Run]) -> str:
    """Which partitions were refused, and what was said."""
    said: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.refused:
            said.setdefault((run.set, run.partition), []).append(run)
    lines = [f"- {name}, `{rule}`, {len(own)} times: “{own[0].refused}”" for (name, rule), own in said.items()]
    return "\n".join(lines or ["None was refused."])


def _grid(cells: Sequence[Cell], text: Any) -> str:
    rules = list(dict.fromkeys(rule for _, rule in cells))
    rules = [rule for rule in rules if rule not in (CHOSEN, SINGLE)] + [rule for rule in (CHOSEN, SINGLE) if rule in rules]
    there = set(cells)
    lines = [
        [f"`{name}`", *(text((name, rule)) if (name, rule) in there else "–" for rule in rules)]
        for name in dict.fromkeys(partition for partition, _ in cells)
    ]
    return markdown(["partition", *map(_code, rules)], lines)


def _code(rule: str) -> str:
    return rule if rule in (CHOSEN, SINGLE) else f"`{rule}`"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def shown(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    rows = ["| " + " | ".join(line) + " |" for line in [header, *lines]]
    return "\n".join([rows[0], "|" + "---|" * len(header), *rows[1:]])


def fill(document: str, parts: Mapping[str, str]) -> str:
    """Put each part between its markers, ``<!-- NAME -->`` and ``<!-- end -->``, in the place of what stands there.

    Raises:
        ValueError: a marker has no part, or a part no marker.

    >>> fill("a <!-- x -->old<!-- end --> b", {"x": "new"}).split()
    ['a', '<!--', 'x', '-->', 'new', '<!--', 'end', '-->', 'b']
    """
    pattern = re.compile(r"<!-- ([\w: -]+?) -->(.*?)<!-- end -->", re.DOTALL)
    names = [match[1] for match in pattern.finditer(document)]
    if sorted(names) != sorted(parts):
        raise ValueError(f"the document's markers and the tables differ: {sorted(set(names) ^ set(parts))}")
    return pattern.sub(lambda match: f"<!-- {match[1]} -->\n{parts[match[1]]}\n<!-- end -->", document)


def heat_map(runs: Sequence[Run], what: str) -> Figure:
    """Losses by partition and fusion rule; ▲ and ▼ where ``mean`` on ``full`` is beaten, or beats."""
    found = pool(runs)
    value, gap = levels(found), comparisons(found)["full"]
    rules = [r for r in dict.fromkeys(rule for _, rule in found.cells) if r not in (CHOSEN, SINGLE)] + [CHOSEN, SINGLE]
    names = list(dict.fromkeys(partition for partition, _ in found.cells))
    table = np.array([[value[name, rule].value if (name, rule) in value else np.nan for rule in rules] for name in names])
    figure = Figure(figsize=(2.2 + 0.8 * len(rules), 1.6 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    norm = LogNorm(np.nanmin(table), np.nanmax(table))
    picture = axes.imshow(table, cmap="viridis_r", norm=norm, aspect="auto")
    for (i, j), number in np.ndenumerate(table):
        if np.isfinite(number):
            mark = MARKS[gap[names[i], rules[j]].verdict] if (names[i], rules[j]) in gap else " ref."
            color = "white" if norm(number) > 0.55 else "black"
            axes.text(j, i, f"{number:.3f}{mark}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(rules)), rules, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    title = f"{runs[0].set}: {what}, lower is better; ▲ better, ▼ worse than mean on full"
    axes.set_title(title, fontsize=10)
    figure.colorbar(picture, ax=axes, label=what)
    return figure


def plain(runs: Sequence[Run]) -> dict[str, Any]:
    """All numbers of one set, as JSON takes them: ``[value, low, high]``, verdicts, and splits ahead."""
    found = pool(runs)
    right = levels(pool(runs, "right")) if any(run.right for run in runs) else {}
    compared = comparisons(found)
    table: dict[str, dict[str, Any]] = {}
    for (name, rule), loss in levels(found).items():
        entry: dict[str, Any] = {"loss": _rounded(loss)}
        if (name, rule) in right:
            entry["accuracy"] = _rounded(right[name, rule])
        for against, gaps in compared.items():
            if (gap := gaps.get((name, rule))) is not None:
                entry[f"saved against {against}"] = [*_rounded(gap.gain), gap.verdict, f"{gap.ahead} of {gap.splits}"]
        table.setdefault(name, {})[rule] = entry
    return {"rows": found.values.shape[2], "seeds": sorted({run.seed for run in runs}), "table": table}


def _rounded(found: Interval) -> list[float]:
    return [float(f"{number:.4g}") for number in found]
