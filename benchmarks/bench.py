"""fuseline beside its peers, side by side on this machine: one table, as JSON, as a picture, and in docs/performance.md.

    make bench                                                               (all of it: about an hour on two cores)
    .venv/bin/python benchmarks/bench.py --only "32 MLPs" bagging            (some cases; the others keep their results)
    .venv/bin/python benchmarks/bench.py --small --rounds 1 --results /tmp/x (to see that everything works)

Each side of a case runs in a process of its own, does its imports and makes its data first, warms up, and times itself. Sides
take turns (A B A B …), so that what else the machine does falls on all alike. A value is the ratio of the medians over the
rounds, its spread that of the ratios of single rounds. The cases stand in ``speed/cases.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rules_report import fill
from speed import tables
from speed.cases import CASES, Case, Side
from speed.growth import AXES, MIDDLE, slopes
from speed.turns import BenchError, measure
from speed.verdicts import columns, judged, spread

HERE = Path(__file__).resolve().parent
GROWTH = "growth"


def growing(rounds: int, small: bool, scratch: Path | None = None) -> dict[str, Any]:
    """Time against each axis, the sizes of an axis in turns like the sides of a case."""
    found: dict[str, Any] = {}
    for axis, all_sizes in AXES.items():
        sizes = all_sizes[:2] if small else all_sizes
        sides = {str(size): Side("speed.growth:point", {**MIDDLE, axis: size}) for size in sizes}
        said = measure(Case(f"time against {axis}", sides, ()), rounds, small, tell, scratch)
        seconds = [spread(columns(said[str(size)])["seconds"]) for size in sizes]
        whole, last = slopes(sizes, [point["median"] for point in seconds])
        found[axis] = {"sizes": sizes, "seconds": seconds, "slope": whole, "slope_at_the_end": last}
    return found


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write(results: dict[str, Any], folder: Path, document: Path | None) -> None:
    """The results as JSON, as pictures, and in the document."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    cases, growth = results["cases"], results[GROWTH]
    if cases:
        tables.picture(cases).savefig(folder / "bench.png", dpi=110)
    if growth:
        tables.growth_picture(growth).savefig(folder / "growth.png", dpi=110)
    if document is not None and cases:
        parts = {"board": tables.board, "sides": tables.sides, "checks": tables.checks, "machine": tables.machines}
        filled = {name: make(cases) for name, make in parts.items()} | {GROWTH: tables.growth_table(growth)}
        document.write_text(fill(document.read_text(encoding="utf-8"), filled), encoding="utf-8")


def kept(folder: Path) -> dict[str, Any]:
    """What was measured before, by case."""
    file = folder / "bench.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"cases": {}, GROWTH: {}}
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*CASES, GROWTH]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="how often each side runs (default: 5; 1 where only memory is looked at)")
    parser.add_argument("--small", action="store_true", help="little work, which says nothing about speed")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER", help="where the results stand")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables between its markers")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="for large files (default: the system's temporary folder)")
    parser.add_argument("--draw", action="store_true", help="measure nothing; make the table and the pictures anew")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Measure what was asked for, one case after the other, and write after each; 1 if a side failed."""
    asked, failed = arguments(given), []
    results = kept(asked.results)
    for name in () if asked.draw else asked.only:
        try:
            if name == GROWTH:
                results[GROWTH] = growing(asked.rounds or 5, asked.small, asked.scratch)
            else:
                found = measure(CASES[name], asked.rounds or CASES[name].rounds, asked.small, tell, asked.scratch)
                results["cases"][name] = judged(CASES[name], found)
        except BenchError as error:
            failed.append(name)
            tell(f"{name}: {error}")
        results["cases"] = {case: results["cases"][case] for case in CASES if case in results["cases"]}
        write(results, asked.results, asked.document)
    if asked.draw:
        write(results, asked.results, asked.document)
    print(tables.board(results["cases"]))
    print(f"\n{tables.checks(results['cases'])}")
    if results[GROWTH]:
        print(f"\n{tables.growth_table(results[GROWTH])}")
    if failed:
        tell(f"not measured: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
